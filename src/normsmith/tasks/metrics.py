"""Metrics that the embedded tasks use and users may."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from normsmith.errors import InputError


def name_of(metric: Callable[..., object]) -> str:
    """What a metric is called, by the name of its function; "metric" where that is no name for readers.

    >>> name_of(accuracy), name_of(lambda output, target: 0.0)
    ('accuracy', 'metric')
    """
    name = getattr(metric, "__name__", "")
    proper = isinstance(name, str) and name.isidentifier() and len(name.strip("_")) > 1
    return name.strip("_").replace("_", " ") if proper else "metric"


def accuracy(output: Tensor, target: Tensor) -> float:
    """Share of samples whose largest logit is at the target class.

    accuracy = mean(argmax(output, 1) == target)

    `output` is (N, C, ...) of any floating dtype, `target` is (N, ...) of class indices; the result is
    between 0 and 1. The same in training and inference. Raises InputError when the shapes do not fit.

    >>> import torch
    >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
    0.5
    """
    if output.ndim < 2 or (output.shape[0], *output.shape[2:]) != target.shape:
        raise InputError(
            "accuracy: expected output (N, C, ...) and target (N, ...), "
            f"got {tuple(output.shape)} and {tuple(target.shape)}"
        )
    return float((output.argmax(1) == target).double().mean())


def r_squared(output: Tensor, target: Tensor) -> float:
    """Share of the targets' variance that the outputs explain: the coefficient of determination.

    R² = 1 − Σ(target − output)² / Σ(target − mean of target)²

    `output` and `target` have one shape, any floating dtype. 1 is perfect, 0 as good as the mean of the targets;
    below there is no limit. Where all targets are equal it is 0, or 1 if the outputs are right. The same in training
    and inference. Raises InputError when the shapes differ.

    >>> import torch
    >>> r_squared(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 3.0]))
    0.5
    """
    if output.shape != target.shape:
        raise InputError(
            "r_squared: expected output and target of one shape, "
            f"got {tuple(output.shape)} and {tuple(target.shape)}; nn.Flatten(0) makes (N,) of (N, 1)"
        )
    missed = float((target.double() - output.double()).square().sum())
    whole = float((target.double() - target.double().mean()).square().sum())
    return 1 - missed / whole if whole else float(not missed)
