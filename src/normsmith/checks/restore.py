"""What a check borrows goes back as it was: after the last rule, after an exception, after Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from normsmith.anatomy.isolation import eager_forwards
from normsmith.anatomy.preserve import preserved


@contextmanager
def restored(model: nn.Module, ema: nn.Module | None = None, batches: Any = None) -> Iterator[None]:
    """A block in which a model may be run in any mode, and batches be drawn: after it all is as it was.

    Of the models that is parameters and buffers (the same tensors with the same bits), modes, attributes, hooks and
    gradients; beside them the random numbers of torch, Python and numpy, those of the loader, and whether torch
    records gradients.

    >>> model = nn.BatchNorm1d(2).eval()
    >>> with restored(model):
    ...     _ = model.train()(torch.randn(4, 2))
    >>> model.training, model.running_mean
    (False, tensor([0., 0.]))
    """
    generators = loader_generators(batches)
    states = [generator.get_state() for generator in generators]
    records = torch.is_grad_enabled()
    with ExitStack() as stack:
        stack.enter_context(preserved(model))
        if ema is not None:
            stack.enter_context(preserved(ema))
        stack.enter_context(eager_forwards())
        try:
            yield
        finally:
            torch.set_grad_enabled(records)
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """A block after which every module is in the mode in which it was before.

    >>> model = nn.Sequential(nn.Dropout().eval())
    >>> with modes_kept(model):
    ...     _ = model.train()
    >>> model[0].training
    False
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def loader_generators(batches: Any) -> list[torch.Generator]:
    """The generators of a loader and its samplers: drawing batches moves them.

    >>> from torch.utils.data import DataLoader
    >>> own = torch.Generator()
    >>> loader_generators(DataLoader([1, 2], shuffle=True, generator=own)) == [own]
    True
    """
    sampler = getattr(batches, "sampler", None)
    batch_sampler = getattr(batches, "batch_sampler", None)
    owners = (batches, sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
    held = [getattr(owner, "generator", None) for owner in owners]
    generators = [generator for generator in held if isinstance(generator, torch.Generator)]
    return list({id(generator): generator for generator in generators}.values())
