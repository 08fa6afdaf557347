"""How a model is run: the usual forward, whatever the batches are, and the tensors that come out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from normsmith._torch import compiled_module, map_leaves
from normsmith.anatomy.isolation import seed_random_numbers
from normsmith.errors import SurgeryError

Forward = Callable[[nn.Module, Any], Any]
"""How a model is called with a batch: `forward(model, batch)` returns the model's output."""


def call(model: nn.Module, batch: Any) -> Any:
    """The usual forward: of a tuple or list the first part goes in, a mapping by names, anything else as it is.

    Tensors are moved to the device of the model's first parameter, those inside containers too.

    >>> call(nn.ReLU(), (torch.tensor([-1.0, 2.0]), "label"))
    tensor([0., 2.])
    """
    first = next(chain(model.parameters(), model.buffers()), None)
    if isinstance(batch, Mapping):
        return model(**{name: _moved(value, first) for name, value in batch.items()})
    if isinstance(batch, (tuple, list)) and batch:
        batch = batch[0]
    return model(_moved(batch, first))


def _moved(value: Any, first: Tensor | None) -> Any:
    """A value with its tensors, in containers too, on the device of a model's first tensor."""
    if first is None:
        return value
    device = first.device

    def moved(leaf: Any) -> Any:
        # one that is there already is not called: a trace would record it
        return leaf.to(device) if isinstance(leaf, Tensor) and leaf.device != device else leaf

    return map_leaves(moved, value)


def copied(batch: Any) -> Any:
    """A batch with tensors of its own, for a forward that may write to what it is given.

    A tensor that is there twice is so in the copy. Of an object that holds tensors and cannot be copied it is the
    object itself.

    >>> x = torch.zeros(1)
    >>> twice = copied((x, {"again": x}))
    >>> _ = nn.ReLU()(twice[0].sub_(1))
    >>> x, twice[0] is twice[1]["again"]
    (tensor([0.]), True)
    """
    copies: dict[int, Tensor] = {}

    def own(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            if id(leaf) not in copies:
                copies[id(leaf)] = leaf.detach().clone().requires_grad_(leaf.requires_grad)
            return copies[id(leaf)]
        if isinstance(leaf, nn.Module) or next(flat(leaf), None) is None:
            return leaf
        try:
            return deepcopy(leaf)
        except Exception:  # noqa: BLE001  somebody's class
            return leaf

    return map_leaves(own, batch)


def outputs(model: nn.Module, batch: Any, forward: Forward, *, training: bool, seed: int = 0) -> list[Tensor]:
    """Copies of the floating-point tensors that `forward(model, batch)` returns, without gradients.

    The random numbers are those of `seed`. The model is left in the mode it ran in, and a forward in training moves
    its statistics: run it within `preserved(model)`.
    """
    with torch.no_grad():
        model.train(training)
        seed_random_numbers(seed)
        output = forward(model, batch)
    return [tensor.detach().clone() for tensor in flat(output) if tensor.is_floating_point()]


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel and torch.compile, which passes are made with.

    A forward of the wrapper would wait for the other ranks, which may have fewer batches; compiled code was made for
    the model in the state that it is used in.

    >>> unwrapped(nn.ReLU())
    ReLU()
    """
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif (compiled := compiled_module(model)) is not None:
            model = compiled
        else:
            return model


def check_runnable(model: nn.Module) -> None:
    """Raise SurgeryError for a model that cannot be run as it is, because some of its tensors have no values yet."""
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor) or tensor.is_meta:
            state = "not initialised yet (lazy)" if is_lazy(tensor) else "on the meta device"
            raise SurgeryError(f"a forward of the model needs values, and {path} is {state}")


def flat(output: Any) -> Iterator[Tensor]:
    """Every tensor in an output, in order: of nested tuples, lists and mappings, and of objects such as dataclasses.

    >>> [tensor.item() for tensor in flat({"loss": torch.tensor(1), "rest": (torch.tensor(2), "x")})]
    [1, 2]
    """
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (tuple, list)):
        for part in output:
            yield from flat(part)
    elif hasattr(output, "values") and callable(output.values):
        for part in output.values():
            yield from flat(part)
    elif hasattr(output, "__dict__"):
        for part in vars(output).values():
            if isinstance(part, (Tensor, tuple, list, dict)):
                yield from flat(part)
