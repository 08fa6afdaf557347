"""The tensors of one block whose layouts are known, and what rules do with them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from normsmith._text import path_text
from normsmith._torch import checkpointed_segment
from normsmith.anatomy.forward import flat
from normsmith.anatomy.lengths.layouts import Layout, LayoutError, together
from normsmith.anatomy.lengths.sizes import Size, differing
from normsmith.errors import LengthsError

Function = Callable[..., Any]


@dataclass(frozen=True)
class Lost:
    """In the place of a layout: nobody knows what of this tensor is valid, and why; it must not be used."""

    reason: str


@dataclass(frozen=True)
class Sized:
    """In the place of a layout: a constant that has sizes of the padded batch, as positions that are counted."""

    sizes: frozenset[int]


class Tracker:
    """What is known of the tensors of one block: which have lengths, and which have none."""

    def __init__(self, model: nn.Module, samples: int) -> None:
        self.samples = samples
        self.is_open = True
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
        # a layout, or what is lost; None: a constant, whose numbers have nothing to do with lengths
        self._known: Any = WeakTensorKeyDictionary()

    def layout(self, value: Any) -> Layout | None:
        """The layout of a tensor that holds something of the samples; None of all else.

        Raises:
            LengthsError: it is lost what of it is valid.
        """
        known = self.known(value)
        if isinstance(known, Lost):
            self.refuse(known.reason)
        return known

    def known(self, value: Any) -> Layout | Lost | None:
        """The layout of a tensor, or that it is lost; None of all else."""
        known = self._known.get(value) if isinstance(value, Tensor) else None
        return None if isinstance(known, Sized) else known

    def of(self, tensor: Tensor) -> Layout:
        """The layout of a tensor; of one without lengths all dimensions are plain."""
        return self.layout(tensor) or Layout.of_shape(tensor.shape)

    def padded_sizes(self, value: Any) -> frozenset[int]:
        """The sizes of a constant that come from the padded batch."""
        known = self._known.get(value) if isinstance(value, Tensor) else None
        return known.sizes if isinstance(known, Sized) else frozenset()

    def set(self, tensor: Any, layout: Layout | Lost | Sized | None) -> Any:
        """Note the layout of a tensor, and return the tensor."""
        if isinstance(tensor, Tensor):
            self._known[tensor] = layout
        return tensor

    def set_all(self, result: Any, layout: Layout | Lost | None) -> Any:
        """Note one layout for every tensor in a result, and return the result."""
        for tensor in flat(result):
            self.set(tensor, layout)
        return result

    def is_tracked(self, tensor: Any) -> bool:
        """Whether a tensor has a layout, or has lost it."""
        return self.known(tensor) is not None

    def is_strange(self, tensor: Any) -> bool:
        """Whether a tensor was made where nothing is seen: by no call in the block, and it is none of the model's."""
        return isinstance(tensor, Tensor) and tensor not in self._known and id(tensor) not in self._own

    def is_own(self, module: nn.Module) -> bool:
        """Whether a module is one of the model itself, and not of a copy of it."""
        return id(module) in self._paths

    def elementwise(self, result: Any, arguments: Any) -> Any:
        """Note the layout of what was computed element by element from the tensors among some arguments."""
        layouts = [layout for tensor in flat(arguments) if (layout := self.layout(tensor)) is not None]
        for tensor in flat(result):
            layout = together(layouts, tensor.shape)
            self._check_sized(layout, layouts, arguments)
            self.set(tensor, layout)
        return result

    def _check_sized(self, layout: Layout, layouts: Sequence[Layout], arguments: Any) -> None:
        """Refuse what has no lengths and becomes as long as the padded batch, by a constant of that size."""
        for constant in flat(arguments):
            sizes = self.padded_sizes(constant)
            for i in range(1, constant.ndim + 1):
                is_new = all(i > len(each.dims) or not each.dims[-i] for each in layouts)
                if constant.shape[-i] in sizes and layout.is_plain(-i) and is_new:
                    raise LayoutError("a constant of the padded size meets what has no lengths")

    def filled(self, tensor: Tensor, value: float = 0.0, dims: Sequence[int] | None = None) -> Tensor:
        """A tensor with a value in the place of all that is not valid; see `Layout.valid` for `dims`."""
        layout = self.layout(tensor)
        mask = None if layout is None else layout.valid(tensor.device, dims)
        return tensor if mask is None else self.set(tensor.masked_fill(~mask, value), layout)

    def size(self, tensor: Tensor, dim: int) -> int:
        """The size of a dimension, with that of each sample where it has lengths."""
        layout = self.layout(tensor)
        steps = None if layout is None else layout.steps_of(dim)
        size = tensor.shape[dim]
        return size if steps is None else Size(size, steps.lengths, self, axis=steps.axis)

    def one(self, number: Any, name: str) -> Any:
        """A number that must be the same for all samples."""
        if differing(number) is not None:
            self.refuse(f"{name} depends on the size of the padded batch, and would differ between samples")
        return number

    def check_checkpoint(self) -> None:
        """Refuse activation checkpointing: what it runs again, in the backward pass, is not followed."""
        if checkpointed_segment() is not None:
            self.refuse("it runs within activation checkpointing, which would run it again without lengths")

    def refuse(self, reason: str) -> NoReturn:
        """Raise the error that names the module whose code runs now."""
        path = self._place()
        way = f"rules={{{path!r}: function of its input's lengths that returns its output's, or None}}"
        raise LengthsError(
            f"use_lengths: {path_text(path)} cannot be followed: {reason}; "
            + (
                f"give it a rule, {way}"
                if path
                else "put that part of it into a module, which can have a rule"
            )
        )

    def _place(self) -> str:
        """The path of the innermost module of the model whose code runs now."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            module: Any = frame.f_locals.get("self") if "self" in frame.f_code.co_varnames else None
            if isinstance(module, nn.Module) and id(module) in self._paths:
                return str(self._paths[id(module)])
            frame = frame.f_back
        return ""


@dataclass
class Call:
    """A call of one of torch's functions, of which some tensor has a layout."""

    tracker: Tracker
    name: str
    function: Function
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self) -> Any:
        """What the function returns of its arguments as they are."""
        return self.function(*self.args, **self.kwargs)

    def named(self, *names: str) -> dict[str, Any]:
        """The arguments by these names, the positional ones in this order."""
        if len(self.args) > len(names):
            self.tracker.refuse(f"{self.name} is called with {len(self.args)} arguments")
        return {**dict(zip(names, self.args, strict=False)), **self.kwargs}

    def with_first(self, tensor: Any) -> Any:
        """What the function returns with another tensor in the place of its first."""
        if self.args:
            return self.function(tensor, *self.args[1:], **self.kwargs)
        name = next(name for name, value in self.kwargs.items() if isinstance(value, Tensor))
        return self.function(**{**self.kwargs, name: tensor})

    def of(self, function: Function, *args: Any) -> Call:
        """The call of another function in its place."""
        return Call(self.tracker, function.__name__, function, args, {})

    @property
    def first(self) -> Tensor:
        """The first tensor among the arguments."""
        return next(flat((self.args, self.kwargs)))


Rule = Callable[[Call], Any]
"""Makes a call as each sample by itself would have it, and notes the layout of what it returns."""

__all__ = ["Call", "LayoutError", "Lost", "Rule", "Tracker"]
