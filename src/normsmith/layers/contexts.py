"""Context managers for the norms of a model: a mask for all of them, one update for several micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from normsmith.errors import InputError
from normsmith.layers.of_model import norms_of


@contextmanager
def use_mask(model: nn.Module, mask: Tensor | None) -> Iterator[None]:
    """Give a mask to every norm of normsmith in a model, even where no code passes it on, e.g. in `nn.Sequential`.

    The mask is bool or 0/1 integers, True or 1 = valid (the inverse of torch's `key_padding_mask`), and has the
    shape of the norms' inputs without channels, broadcastable. A mask given to a layer's forward takes precedence.

    Raises:
        InputError: the model holds no norm of ours.

    >>> import torch
    >>> from normsmith.layers import BatchNorm1d
    >>> net = nn.Sequential(BatchNorm1d(1, affine=False))
    >>> with use_mask(net, torch.tensor([1, 1, 0])):
    ...     net(torch.tensor([[1.0], [3.0], [99.0]])).round(decimals=2).flatten()
    tensor([-1.,  1.,  0.])
    """
    layers = norms_of(model, "use_mask")
    before = [layer.context_mask for layer in layers]
    try:
        for layer in layers:
            layer.context_mask = mask
        yield
    finally:
        for layer, earlier in zip(layers, before, strict=True):
            layer.context_mask = earlier


@contextmanager
def accumulate(model: nn.Module) -> Iterator[None]:
    """Update the running statistics once for all micro-batches of an optimizer step.

    The moments of the micro-batches that run within the block are merged (Chan), and committed as one update
    when it ends; not at all when it raises. Each micro-batch is still normalised by its own statistics: only the
    running ones become those of the large batch. Training on true large-batch statistics would take two passes.

    A compiled model is compiled again for each micro-batch of a step, up to torch's `recompile_limit` (8): beyond
    it runs in eager mode, or fails under `fullgraph=True`. Raise the limit for longer steps.

    Raises:
        InputError: the model holds no norm of ours, or an `accumulate` is already open on it.

    >>> import torch
    >>> from normsmith.layers import BatchNorm1d
    >>> layer, batch = BatchNorm1d(1, momentum=1.0), torch.tensor([[0.0], [2.0], [4.0], [6.0]])
    >>> with accumulate(layer):
    ...     _ = layer(batch[:2]), layer(batch[2:])
    >>> layer.running_mean, layer.running_var.item() == batch.var().item(), layer.num_batches_tracked
    (tensor([3.]), True, tensor(1))
    """
    layers = norms_of(model, "accumulate")
    if any(layer.is_accumulating for layer in layers):
        raise InputError(
            "accumulate: expected a model that is not accumulating yet, got one within another block"
        )
    try:
        for layer in layers:
            layer._collected = []
        yield
        for layer in layers:
            layer.commit_collected(layer._collected or [])
    finally:
        for layer in layers:
            layer._collected = None
