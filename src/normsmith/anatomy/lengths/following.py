"""The mode in which a model runs while its lengths are followed: every call of torch's goes through a rule."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from normsmith._torch import leaves_of
from normsmith.anatomy.forward import flat
from normsmith.anatomy.kinds import plain_name
from normsmith.anatomy.lengths.rules import RULES
from normsmith.anatomy.lengths.rules.elementwise import ASKING
from normsmith.anatomy.lengths.sizes import differing
from normsmith.anatomy.lengths.tracker import Call, LayoutError, Tracker

_SHAPED_BY_SIZES = {
    "arange", "zeros", "ones", "empty", "full", "eye", "rand", "randn", "randint", "randperm", "new_zeros", "new_ones",
    "new_empty", "new_full", "expand", "view", "reshape", "repeat", "broadcast_to", "flatten", "getitem",
}  # fmt: skip
"""Functions that make of a size constants of that shape, the first of whose values do not depend on it."""
_WINDOWS = ("conv", "max_pool", "avg_pool", "batch_norm", "lstm", "gru", "rnn_")


class Following(TorchFunctionMode):
    """Calls torch's functions by their rules, unless it is paused."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self.tracker = tracker
        self.paused: list[int] = []
        """The modules whose inner calls are not followed, by their identities: the innermost last."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        name = name_of(func)
        tensors = list(flat((args, kwargs)))
        tracked = [tensor for tensor in tensors if self.tracker.is_tracked(tensor)]
        if not tracked:
            return self._of_constants(func, name, tensors, args, kwargs)
        try:
            return self._by_rule(Call(self.tracker, name, func, args, kwargs), tracked)
        except LayoutError as error:
            reason = f"{name}: {error}"
        self.tracker.refuse(reason)

    def _by_rule(self, call: Call, tracked: list[Tensor]) -> Any:
        """A call of which some argument has a layout."""
        rule = RULES.get(call.name)
        if rule is not None:
            if call.name not in ASKING:
                self.tracker.check_checkpoint()
            return rule(call)
        if call.name.startswith("get "):
            result = call.run()
            if isinstance(result, Tensor):
                raise LayoutError("no rule is known for this attribute")
            return result
        layouts = [self.tracker.layout(tensor) for tensor in tracked]
        if any(layout is not None and layout.steps for layout in layouts):
            raise LayoutError("no rule is known for this function")
        return self.tracker.set_all(call.run(), None)

    def _of_constants(self, func: Any, name: str, tensors: list[Tensor], args: Any, kwargs: Any) -> Any:
        """A call of which no argument has lengths; its result has none either, unless it is made from a size."""
        if name.startswith(_WINDOWS) and tensors and self.tracker.is_strange(tensors[0]):
            self.tracker.refuse(f"{name} takes a tensor that was made where no call of torch's is seen")
        if why := _depends_on_size(name, args, kwargs):
            self.tracker.refuse(f"{name}: {why}")
        return self.tracker.set_all(func(*args, **kwargs), None)


def _depends_on_size(name: str, args: Any, kwargs: Any) -> str | None:
    """Why a call without tensors of lengths computes from a padded size what each sample would have otherwise."""
    leaves = leaves_of((args, kwargs))
    differ = [leaf for leaf in leaves if differing(leaf) is not None]
    ends = [leaf for leaf in leaves if isinstance(leaf, slice) and differing(leaf.stop) is not None]
    begins = [leaf for leaf in leaves if isinstance(leaf, slice) and differing(leaf.start) is not None]
    is_value = (
        (name == "getitem" and differ)
        or (name == "arange" and len(args) > 1 and differing(args[0]) is not None)
        or (name in ("full", "new_full") and differing(kwargs.get("fill_value", args[-1])) is not None)
    )
    if begins or is_value or ((differ or ends) and name not in _SHAPED_BY_SIZES):
        return (
            "values are made from the size of the padded batch, and each sample by itself would have others"
        )
    return None


def name_of(function: Any) -> str:
    """The plain name of one of torch's functions; attributes that are read or set say so.

    >>> import torch
    >>> name_of(torch.Tensor.__radd__), name_of(torch.Tensor.shape.__get__), name_of(torch.relu_)
    ('add', 'get shape', 'relu')
    """
    name = getattr(function, "__name__", str(function))
    if name in ("__get__", "__set__", "__delete__"):
        return f"{name.strip('_')} {getattr(function.__self__, '__name__', '')}"
    return plain_name(name.partition(".")[0])
