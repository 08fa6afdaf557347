"""A norm normalises groups of one value each: whatever comes in, β comes out.

What: one value in each group: a group norm with as many groups as channels on vectors, an instance norm on 1×1 maps or
    on sequences of one step, or a layer norm over a single feature.

Formula: the mean of one value x is x, and its variance 0: (x − mean(x)) / sqrt(var(x) + eps) = 0 / sqrt(eps) = 0, and
    y = γ·0 + β = β.

Why it hurts: nothing gets through, neither values nor gradients: what is before the norm is not trained, and the
    network learns by other paths, if there are any. Torch refuses it for batch norm in training and for instance norm,
    but lets it pass for group norm (in batches of more than one sample) and for layer norm.

Threshold: one value per group, in the forward of a batch. Groups of two values give only ±1, and are not reported.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8), nn.GroupNorm(8, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(16, 4)
    assert model(x).std(0).max() < 1e-3  # the same for all samples
    findings = normsmith.check(model, [x])
    assert findings.codes == ("NS111",)

Fix: fewer groups, as `nn.GroupNorm(1, 8)` in place of `nn.GroupNorm(8, 8)` (on vectors that is a layer norm), or no
    norm after a global pooling; then train again.

Threads: pytorch/pytorch#19250 (all zeros without an error), pytorch/pytorch#45687, ml-explore/mlx#3653,
    arcchang1236/CA-NoiseGAN#3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from normsmith._torch import TorchInstanceNorm
from normsmith.anatomy.forward import flat
from normsmith.anatomy.locations import Locations
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix, UnavailableError
from normsmith.checks.moments import numbered
from normsmith.checks.restore import modes_kept
from normsmith.checks.rule import Rule

_MEANT = (nn.GroupNorm, nn.LayerNorm, TorchInstanceNorm)


def check(context: Context) -> Iterator[Finding]:
    """A finding for each norm with such groups."""
    paths = Locations(context.network).paths
    for module in _degenerate(context, [module for module in paths if isinstance(module, _MEANT)]):
        path, *also = paths[module]
        yield Finding(
            path,
            f"{type(module).__name__} normalises groups of one value each: its output is β, whatever comes in",
            _cause(module),
            Fix(_fix(module)),
            quantity="values per group",
            measured=1,
            threshold=2,
            also=tuple(also),
        )


def _degenerate(context: Context, norms: list[nn.Module]) -> list[nn.Module]:
    """Those of the norms that get groups of one value in a forward, which torch may refuse for that very reason."""
    found: list[nn.Module] = []

    def look(norm: nn.Module, arguments: tuple[Any, ...]) -> None:
        first = next(flat(arguments), None)
        if first is not None and values_per_group(norm, tuple(first.shape)) == 1 and norm not in found:
            found.append(norm)

    if not norms:
        return found
    with modes_kept(context.network), torch.no_grad(), ExitStack() as stack:
        for norm in norms:
            stack.callback(norm.register_forward_pre_hook(look).remove)
        context.network.eval()
        try:
            numbered(context.output)(context.network, context.batches[0])
        except UnavailableError:
            if not found:
                raise
    return found


def values_per_group(norm: nn.Module, shape: tuple[int, ...]) -> int | None:
    """Over how many values a group, instance or layer norm takes its statistics, given its input's shape.

    >>> values_per_group(nn.GroupNorm(4, 8), (16, 8, 3, 3))
    18
    """
    if isinstance(norm, nn.LayerNorm):
        return math.prod(norm.normalized_shape)
    if isinstance(norm, nn.GroupNorm):
        return math.prod(shape[1:]) // norm.num_groups
    spatial = next((int(digit) for digit in type(norm).__name__ if digit in "123"), 0)
    return math.prod(shape[-spatial:]) if spatial else None


def _cause(module: nn.Module) -> str:
    if isinstance(module, nn.GroupNorm):
        return "as many groups as channels, which is for maps, on vectors"
    return (
        "a feature alone"
        if isinstance(module, nn.LayerNorm)
        else "a map of 1×1, after a global pooling or strides"
    )


def _fix(module: nn.Module) -> str:
    if isinstance(module, nn.GroupNorm):
        return f"nn.GroupNorm(1, {module.num_channels}), or another number of groups"
    return "take the norm out, or put it where there are more values"


RULE = Rule("NS111", "degenerate-group", "error", check, __doc__, needs=("batches",))
