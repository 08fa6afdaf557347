"""A batch norm mixes the samples of a batch in a network whose gradients are taken sample by sample.

What: a batch norm that is not frozen, in either of two settings. The model, its parameters or the optimizer are
    prepared for gradients per sample: Opacus' wrapper or optimizer, or a `grad_sample` on parameters. Or the `forward`
    (or, at level deep, the `training_step`) that you give to the check maps the network over samples by
    `torch.func.vmap`.

Formula: y_i, the output for sample i, depends on all inputs x_j of the batch by their mean and variance. So ∂loss_i/∂w
    depends on them too: no gradient belongs to a single sample. Within vmap a batch is one sample.

Why it hurts: differential privacy loses its guarantee, as clipping the gradient of one sample does not bound its
    influence on the others; Opacus' own validation refuses such models. Under vmap training raises an error, or
    normalises each sample by itself.

Threshold: none: one such norm is enough.

Reproduction:
    import normsmith, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    for parameter in model.parameters():
        parameter.grad_sample = None  # as Opacus does
    findings = normsmith.check(model, select=["NS108"])
    assert findings.codes == ("NS108",)
    model = findings.fix(model)
    assert isinstance(model[1], nn.GroupNorm)
    assert normsmith.check(model, select=["NS108"]).passed()

Fix: `model = normsmith.surgery.convert(model, "group").apply()`, whose group norms do not mix samples, before Opacus
    wraps the model; then train again. Batch norms that are frozen to statistics of public data are fine.

Threads: pytorch/functorch#115 (gradients per sample), pytorch/functorch#867 (vmap over samples),
    pytorch/pytorch#85533, pytorch/pytorch#96655.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix
from normsmith.checks.moments import numbered
from normsmith.checks.restore import modes_kept
from normsmith.checks.rule import Rule
from normsmith.checks.watcher import maps_samples
from normsmith.surgery import convert

_WRAPPERS = {"GradSampleModule", "GradSampleModuleExpandedWeights", "GradSampleModuleNoOp"}
_OPTIMIZERS = {"DPOptimizer"}


def check(context: Context) -> Iterator[Finding]:
    """A finding for each batch norm of such a network."""
    norms = [norm for norm in context.norms if not norm.is_frozen]
    why = _why_per_sample(context) if norms else None
    if why is None:
        return
    for norm in norms:
        wrapped = any(_is_named(module, _WRAPPERS) for module in context.network.modules())
        yield Finding(
            norm.path,
            f"mixes the samples of a batch, and {why}",
            "a network that was made for batches",
            Fix(
                f'model = normsmith.surgery.convert(model, "group", only={norm.path!r}).apply()',
                plan=None if wrapped else partial(convert, to="group", only=norm.path),
            ),
            also=norm.also,
        )


def _why_per_sample(context: Context) -> str | None:
    """What says that gradients are taken sample by sample; None where nothing does."""
    wrapper = next((m for m in context.network.modules() if _is_named(m, _WRAPPERS)), None)
    if wrapper is not None:
        return f"{type(wrapper).__name__} computes a gradient for each sample"
    if context.optimizer is not None and _is_named(context.optimizer, _OPTIMIZERS):
        return f"{type(context.optimizer).__name__} clips the gradient of each sample"
    if any(hasattr(parameter, "grad_sample") for parameter in context.network.parameters()):
        return "its parameters have a gradient for each sample, grad_sample"
    return "your code maps the network over samples by vmap" if _maps_samples(context) else None


def _maps_samples(context: Context) -> bool:
    """Whether the user's training step or forward maps a batch norm over samples."""
    if context.training_step is not None and context.looks_at_training:
        return any(call.mapped for step in context.training.steps for call in step.calls)
    if not context.looks_at_data or context.data is None:
        return False
    seen: list[bool] = []

    def look(norm: nn.Module, arguments: tuple[Any, ...]) -> None:
        seen.append(maps_samples(norm, arguments))

    with modes_kept(context.network), torch.no_grad(), ExitStack() as stack:
        for norm in context.norms:
            stack.callback(norm.module.register_forward_pre_hook(look).remove)
        context.network.eval()
        numbered(context.output)(context.network, context.few)
    return any(seen)


def _is_named(thing: object, names: set[str]) -> bool:
    return any(kind.__name__ in names for kind in type(thing).__mro__)


RULE = Rule("NS108", "batch-norm-forbidden", "error", check, __doc__)
