"""`use_lengths`: the block in which a model runs on a padded batch as on each sample alone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._torch import (
    compiled_module,
    compiler_callback,
    is_compiled_in_place,
    is_recording,
    map_leaves,
)
from normsmith.anatomy.forward import flat
from normsmith.anatomy.lengths.following import Following
from normsmith.anatomy.lengths.given import (
    LengthsRule,
    layout_of_input,
    read_lengths,
    read_rules,
    sizes_of_mask,
)
from normsmith.anatomy.lengths.layouts import Layout
from normsmith.anatomy.lengths.modules import masked, masked_recurrent, note_output
from normsmith.anatomy.lengths.tracker import Lost, Tracker
from normsmith.errors import InputError, LengthsError
from normsmith.layers.models import check_model
from normsmith.layers.recurrent import RecurrentBase
from normsmith.layers.statistics import StatisticsBase

_OPEN = threading.local()
"""The blocks that are open in each thread, the innermost last."""


@contextmanager
def use_lengths(
    model: nn.Module,
    lengths: Tensor | list[Any],
    *,
    layout: str | None = None,
    input: int | str = 0,
    rules: Mapping[Any, LengthsRule] | None = None,
) -> Iterator[Lengths]:
    """Run a model on a padded batch as it would run on each sample alone, without its padding.

    The lengths are followed through every function that the forward calls: convolutions read zeros where a sample
    has ended, max pooling −∞, averages leave padding out, recurrent layers end and turn around there, and each norm
    of normsmith gets the mask of its own input. What is not valid of the outputs is 0. In training the statistics of
    a norm are those of the valid positions of all samples together. What cannot be followed is refused, with the
    module and the reason, and never computed otherwise.

    Args:
        model: it is run in the block as always; nothing of it is changed.
        lengths: of each sample of the batch, shape (samples,), or heights and widths of images, (samples, 2); or a
            bool mask of the input without channels, True = valid. Samples begin where the batch begins.
        layout: a letter for each dimension of the input: N samples, T time (or H and W), any other letter anything.
            By default "NT", "NCT", "NCFT" or "NCHW".
        input: which argument of the forward has the lengths: its position, or its name.
        rules: for modules that cannot be followed, by path, pattern of paths or class: a function that takes the
            lengths of the module's input and returns those of its output (with another layout:
            `(lengths, "NTC")`), or None where the output has none. Inside such a module nothing is followed.

    Returns:
        What knows the lengths of outputs: `lengths_of(y)` and `mask_of(y)`.

    Raises:
        InputError: an argument does not fit, or the input of a forward does not fit the lengths.
        LengthsError: the lengths cannot be followed through a module.

    Blocks may be nested (the innermost holds for its model) and belong to the thread that opened them.

    >>> from normsmith.layers import BatchNorm1d
    >>> net = nn.Sequential(nn.Conv1d(1, 2, 3, padding=1), BatchNorm1d(2), nn.ReLU(), nn.MaxPool1d(2)).eval()
    >>> short, long = torch.randn(1, 1, 6), torch.randn(1, 1, 10)
    >>> batch = torch.cat([nn.functional.pad(short, (0, 4), value=9.0), long])
    >>> with use_lengths(net, [6, 10]) as lengths:
    ...     y = net(batch)
    >>> lengths.lengths_of(y), torch.allclose(y[:1, :, :3], net(short), atol=1e-6)
    (tensor([3, 5]), True)
    """
    check_model(model, "use_lengths")
    _check_followable(model)
    columns = read_lengths(lengths)
    block = _Block(model, columns, layout, input, read_rules(model, rules), sizes_of_mask(lengths))
    blocks = vars(_OPEN).setdefault("blocks", [])
    with ExitStack() as stack:
        stack.callback(block.close)
        block.register(stack)
        blocks.append(block)
        stack.callback(blocks.remove, block)
        yield Lengths(block.following.tracker)


class Lengths:
    """What is known of the outputs of forwards in a block of `use_lengths`."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def lengths_of(self, tensor: Tensor) -> Tensor | None:
        """The lengths of an output, shape (samples,) or (samples, 2), on the CPU; None where it has none.

        Raises:
            LengthsError: the tensor is no output, or nobody knows its lengths.
        """
        columns = dict[int, tuple[int, ...]]()
        for steps in self._layout(tensor).steps:
            columns[steps.axis] = steps.lengths
        rows = [columns[axis] for axis in sorted(columns)]
        if not rows:
            return None
        return torch.tensor(rows[0]) if len(rows) == 1 else torch.tensor(rows).T

    def mask_of(self, tensor: Tensor) -> Tensor:
        """Where an output is valid: bool, broadcastable against it.

        Raises:
            LengthsError: the tensor is no output, or nobody knows its lengths.
        """
        mask = self._layout(tensor).valid(tensor.device)
        return (
            torch.ones((1,) * tensor.ndim, dtype=torch.bool, device=tensor.device) if mask is None else mask
        )

    def _layout(self, tensor: Tensor) -> Layout:
        if not isinstance(tensor, Tensor) or self._tracker.is_strange(tensor):
            raise LengthsError(
                "lengths_of: expected a tensor that a forward in the block returned, got another; ask for outputs as "
                "the model returns them"
            )
        return self._tracker.of(tensor)


class _Block:
    """An open block: hooks that start to follow where the model is called, and pause in what is followed as a whole."""

    def __init__(
        self,
        model: nn.Module,
        lengths: tuple[tuple[int, ...], ...],
        letters: str | None,
        name: int | str,
        rules: dict[nn.Module, LengthsRule],
        sizes: tuple[int, ...] | None,
    ) -> None:
        self.sizes = sizes
        self.model, self.lengths, self.letters, self.name, self.rules = model, lengths, letters, name, rules
        self.following = Following(Tracker(model, len(lengths[0])))
        self.thread = threading.get_ident()
        self.is_running = False
        self._followed = ExitStack()
        self._before: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
        """The buffers of norms that this forward has called in training, and copies from before."""

    def register(self, stack: ExitStack) -> None:
        """Put the hooks on the model, until the stack is closed."""
        whole = [
            m
            for m in self.model.modules()
            if isinstance(m, (StatisticsBase, RecurrentBase)) or m in self.rules
        ]
        for module in whole:
            before = module.register_forward_pre_hook(_Hook(self._pause), with_kwargs=True)
            after = module.register_forward_hook(
                _Hook(self._go_on, ends=True), with_kwargs=True, prepend=True, always_call=True
            )
            stack.callback(before.remove)
            stack.callback(after.remove)
        start = self.model.register_forward_pre_hook(_Hook(self._start), prepend=True, with_kwargs=True)
        end = self.model.register_forward_hook(_Hook(self._end, ends=True), always_call=True)
        stack.callback(start.remove)
        stack.callback(end.remove)

    def close(self) -> None:
        """Stop following, also where an exception has left a forward."""
        self._stop()
        self.following.tracker.is_open = False

    def _stop(self) -> None:
        if self.is_running:
            self.is_running = False
            self.following.paused.clear()
            self._followed.close()

    def _is_innermost(self) -> bool:
        """Whether this block is the one that holds in this thread for its model."""
        blocks = [block for block in vars(_OPEN).get("blocks", []) if block.model is self.model]
        return threading.get_ident() == self.thread and bool(blocks) and blocks[-1] is self

    def _start(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """The model is called: note the layout of its input, and follow it from here."""
        if module is not self.model or not self._is_innermost():
            return None
        if self.is_running:
            raise LengthsError(
                "use_lengths: the model calls itself, or a forward in this block was interrupted; open another block"
            )
        if any(block.is_running for block in vars(_OPEN)["blocks"]):
            raise LengthsError(
                "use_lengths: a model with lengths of its own runs within another; open one block for both"
            )
        tracker = self.following.tracker
        tracker.set_all((args, kwargs), None)
        x = self._input(args, kwargs)
        tracker.set(x, layout_of_input(x, self.lengths, self.letters, self.sizes))
        zeroed = tracker.filled(x) if x.is_floating_point() else x
        args, kwargs = map_leaves(lambda leaf: zeroed if leaf is x else leaf, (args, kwargs))
        self._before.clear()
        self.is_running = True
        self._followed.enter_context(self.following)
        return args, kwargs

    def _input(self, args: Any, kwargs: Any) -> Tensor:
        if isinstance(self.name, str):
            value = kwargs.get(self.name)
        else:
            value = args[self.name] if self.name < len(args) else None
            if value is None and self.name == 0:
                value = next(flat(kwargs), None)
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            raise InputError(
                f"use_lengths: expected a tensor as input {self.name!r} of the model, got {type(value).__name__}; say "
                "with input= which argument has the lengths"
            )
        return value

    def _end(self, module: nn.Module, args: Any, output: Any) -> Any:
        """The forward is over: outputs are 0 where they are not valid; after an exception statistics are as before."""
        if module is not self.model or threading.get_ident() != self.thread or not self.is_running:
            return None
        self._stop()
        if output is None and sys.exc_info()[1] is not None:
            with torch.no_grad():
                for buffer, copy in (pair for pairs in self._before.values() for pair in pairs):
                    buffer.copy_(copy)
        self._before.clear()
        tracker = self.following.tracker

        def cleaned(leaf: Any) -> Any:
            known = tracker.known(leaf)
            is_ours = isinstance(leaf, Tensor) and leaf.is_floating_point() and not isinstance(known, Lost)
            return tracker.filled(leaf) if is_ours else leaf

        return map_leaves(cleaned, output)

    def _pause(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A module is called that is followed as a whole."""
        following = self.following
        if threading.get_ident() != self.thread or not self.is_running or following.paused:
            return None
        if not following.tracker.is_own(module):
            return None
        following.paused.append(id(module))
        if module in self.rules:
            tracker = following.tracker
            return map_leaves(
                lambda leaf: (
                    tracker.filled(leaf) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
                ),
                (args, kwargs),
            )
        if module.training and module not in self._before:
            self._before[module] = [(buffer, buffer.clone()) for buffer in module.buffers()]
        if isinstance(module, RecurrentBase):
            return masked_recurrent(following, module, args, kwargs)
        assert isinstance(module, StatisticsBase)  # no other module has this hook
        return masked(following, module, args, kwargs)

    def _go_on(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """It has returned, or raised: then there is no output."""
        following = self.following
        if threading.get_ident() == self.thread and self.is_running and following.paused[-1:] == [id(module)]:
            try:
                if output is not None:
                    note_output(following, module, self.rules.get(module), (args, kwargs), output)
            finally:
                following.paused.pop()


class _Hook:
    """A hook that copies and pickles of the model leave behind: there it does nothing."""

    def __init__(self, function: Any, *, ends: bool = False) -> None:
        self.function, self.ends = function, ends

    def __call__(self, *arguments: Any) -> Any:
        if torch.compiler.is_compiling() or is_recording() or compiler_callback() is not None:
            if self.ends:
                return None
            raise LengthsError(
                "use_lengths: expected a model that runs eagerly, got one that is compiled, exported or traced; call "
                "the model that it was made from"
            )
        return self.function(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, (_nothing,)


def _nothing(*_: Any) -> None:
    """What is left of a hook in a copy."""


def _check_followable(model: nn.Module) -> None:
    """Refuse models of which nothing, or not everything, is seen."""
    for path, module in model.named_modules():
        if isinstance(module, nn.DataParallel):
            raise InputError(
                "use_lengths: expected a model that runs in one thread, got DataParallel; use its .module"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(f"use_lengths: expected a model in Python, got a scripted module at {path!r}")
        if compiled_module(module) is not None or is_compiled_in_place(module):
            raise InputError(
                f"use_lengths: expected a model that runs eagerly, got a compiled one at {path!r}; use the model that "
                "it was compiled from"
            )


__all__ = ["Lengths", "use_lengths"]
