"""Batch normalization layers: torch's, drop-in, on the one path."""

from __future__ import annotations

from torch import nn

from normsmith.layers.lazy import LazyBase
from normsmith.layers.statistics import StatisticsBase


class BatchNorm1d(StatisticsBase, nn.BatchNorm1d):
    """Batch normalization of (batch, channels) or (batch, channels, length) inputs; drop-in for torch's.

        y = γ·(x − μ)/sqrt(σ² + eps) + β

    In training μ and σ² are the mean and the biased variance of the batch, per channel; the running statistics
    move towards them by `momentum` (the variance by its unbiased estimate). In evaluation they are the running
    statistics. Statistics are accumulated in float32 at least and kept in float32 at least. Constructor, state
    dict and `isinstance` are those of `torch.nn.BatchNorm1d`, all its arguments included.

    Args:
        num_features: number of channels C, the size of dimension 1 of the input.
        eps: finite number ≥ 0 that is added to the variance. With 0 a channel that does not vary becomes NaN in
            training (torch raises an error there).
        momentum: weight of the new batch in the running statistics, usually from 0 to 1 (not checked, as in torch;
            Keras's 0.99 is 0.01 here). None is the cumulative average: every batch so far weighs the same.
        affine: whether there are γ (`weight`, initially 1) and β (`bias`, initially 0), of shape (C,).
        track_running_stats: whether running statistics are kept. Without them evaluation uses the batch's too.
        device: where parameters and buffers are made; torch's default where None.
        dtype: of γ and β, torch's default where None; running statistics are float32 at least.
        bias: with `affine`, whether there is β beside γ; False needs a torch whose batch norms know it.
        ghost_batch_size: in training, normalise every chunk of so many samples by its own statistics; None is all.
        process_group: ranks that share statistics, "world" for all, None for none; any backend, uneven batches. The
            layer makes a group of its own from it, collectively, at its first training forward, compiled or not, or
            by `join_ranks`.
        on_small_batch: one value per channel in training: "error", or "running" to use the running statistics.
        on_nonfinite: "skip" keeps NaN and inf out of the running statistics; "propagate" is torch's way.

    Raises:
        InputError: an argument or an input does not fit; says what was expected, and where.

    >>> import torch
    >>> layer = BatchNorm1d(2, affine=False)
    >>> layer(torch.tensor([[0.0, 10.0], [2.0, 30.0]])).round(decimals=3)
    tensor([[-1., -1.],
            [ 1.,  1.]])
    >>> layer.running_mean
    tensor([0.1000, 2.0000])

    Source: Ioffe and Szegedy (2015), arXiv:1502.03167.
    """

    spatial = (0, 1)


class BatchNorm2d(StatisticsBase, nn.BatchNorm2d):
    """Batch normalization of (batch, channels, height, width) inputs; otherwise as `BatchNorm1d`.

    >>> import torch
    >>> BatchNorm2d(3)(torch.ones(2, 3, 4, 4)).shape
    torch.Size([2, 3, 4, 4])
    """

    spatial = (2,)


class BatchNorm3d(StatisticsBase, nn.BatchNorm3d):
    """Batch normalization of (batch, channels, depth, height, width) inputs; otherwise as `BatchNorm1d`.

    >>> import torch
    >>> BatchNorm3d(3)(torch.ones(2, 3, 4, 4, 4)).shape
    torch.Size([2, 3, 4, 4, 4])
    """

    spatial = (3,)


class LazyBatchNorm1d(LazyBase, BatchNorm1d):
    """`BatchNorm1d` that takes `num_features` from its first input.

    >>> import torch
    >>> layer = LazyBatchNorm1d()
    >>> layer(torch.ones(4, 3)).shape, layer
    (torch.Size([4, 3]), BatchNorm1d(3, ...))
    """

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(LazyBase, BatchNorm2d):
    """`BatchNorm2d` that takes `num_features` from its first input.

    >>> import torch
    >>> layer = LazyBatchNorm2d()
    >>> layer(torch.ones(4, 3, 2, 2)).shape, layer
    (torch.Size([4, 3, 2, 2]), BatchNorm2d(3, ...))
    """

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(LazyBase, BatchNorm3d):
    """`BatchNorm3d` that takes `num_features` from its first input.

    >>> import torch
    >>> layer = LazyBatchNorm3d()
    >>> layer(torch.ones(4, 3, 2, 2, 2)).shape, layer
    (torch.Size([4, 3, 2, 2, 2]), BatchNorm3d(3, ...))
    """

    cls_to_become = BatchNorm3d
