"""The mode in which a model runs while its lengths are followed: every call of torch's goes through a rule."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from normsmith.anatomy.forward import flat
from normsmith.anatomy.kinds import plain_name
from normsmith.anatomy.lengths.constants import WINDOWS, note_constants, why_depends_on_size
from normsmith.anatomy.lengths.rules import RULES
from normsmith.anatomy.lengths.rules.elementwise import ASKING
from normsmith.anatomy.lengths.tracker import Call, LayoutError, Tracker


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
        tracker = self.tracker
        if name.startswith(WINDOWS) and tensors and tracker.is_strange(tensors[0]):
            tracker.refuse(f"{name} takes a tensor that was made where no call of torch's is seen")
        if why := why_depends_on_size(tracker, name, args, kwargs):
            tracker.refuse(f"{name}: {why}")
        return note_constants(tracker, func(*args, **kwargs), (args, kwargs))


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
