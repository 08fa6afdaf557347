"""Internal covariate shift: how a layer's gradient changes because the layers before it were updated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from normsmith.anatomy.forward import unwrapped
from normsmith.anatomy.preserve import preserved
from normsmith.measure.iterate import Iterate, apart, as_iterate, size, wide
from normsmith.tasks.task import Task


@dataclass(frozen=True)
class CovariateShift:
    """How far a layer's gradient G is from G′, its gradient once the layers before it have made a step.

    - `absolute`: ‖G − G′‖.
    - `relative`: ‖G − G′‖ / ‖G‖; 0 where both are zero.
    - `cosine`: of the angle between G and G′; 1 where the direction is the same or both are zero, 0 where one is.
    """

    absolute: float
    relative: float
    cosine: float


def internal_covariate_shift(
    subject: Iterate | Task, rate: float, *, seed: int = 0
) -> dict[str, CovariateShift]:
    """The internal covariate shift of each layer at one iterate, on one batch.

        G_i = ∇_{W_i} L(W_1, …, W_k),   G′_i = ∇_{W_i} L(W_1 − rate·G_1, …, W_{i−1} − rate·G_{i−1}, W_i, …, W_k)

    A layer is a module with a weight of two dimensions or more; its W are all parameters of its own. γ and β of a norm
    are updated with what comes before the next layer. Layers come in the order in which a forward calls them. Both
    gradients are of the same batch, with the same random numbers, and from the same buffers: noise of dropout, drawn
    anew, would pass for a shift.

    Args:
        subject: an `Iterate` (a model, a batch, the loss), or a task, of which a new network is taken.
        rate: the learning rate of the step that the layers before make, of plain gradient descent.
        seed: of the random numbers.

    Returns the `CovariateShift` of each layer by its path, in the order of the calls. The first layer has none, and is
    left out. Absolute values are in the units of the loss per unit of the weights, and grow with the rate.

    Raises InputError where the loss is no scalar.

    Source: Santurkar, Tsipras, Ilyas and Mądry, "How Does Batch Normalization Help Optimization?", NeurIPS 2018,
    definition 2.1.

    >>> import torch
    >>> chain = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    >>> for weight in chain.parameters():
    ...     _ = nn.init.ones_(weight)
    >>> iterate = Iterate(chain, torch.ones(1, 1), lambda model, x: model(x).square().sum() / 2)
    >>> internal_covariate_shift(iterate, rate=0.5)["1"]  # L = (w₂w₁)² / 2: G₂ = 1, and 1 / 4 with w₁ = 1 / 2
    CovariateShift(absolute=0.75, relative=0.75, cosine=1.0)
    """
    iterate = as_iterate(subject)
    parameters = iterate.parameters
    modules, gradient = _called(iterate, seed)
    moved: dict[str, Tensor] = {}
    shifts: dict[str, CovariateShift] = {}
    is_first = True
    for name, own in modules.items():
        if any(parameters[path].dim() > 1 for path in own):
            if not is_first:
                _, changed = iterate.gradient(moved, of=own, seed=seed)
                shifts[name] = _between({path: gradient[path] for path in own}, changed)
            is_first = False
        moved |= {path: parameters[path].detach() - rate * gradient[path] for path in own}
    return shifts


def _called(iterate: Iterate, seed: int) -> tuple[dict[str, list[str]], dict[str, Tensor]]:
    """The modules in the order of their first calls, each with the paths of its parameters, and the gradient.

    Where a module is not called, as its parameters are used by the module around it, they count as that one's.
    """
    model = unwrapped(iterate.model)
    paths = {module: path for path, module in model.named_modules()}
    modules: dict[str, list[str]] = {}

    def note(module: nn.Module, inputs: Any) -> None:
        modules.setdefault(paths[module], [])

    with preserved(model):  # which removes the hooks
        for module in paths:
            module.register_forward_pre_hook(note)
        _, gradient = iterate.gradient(seed=seed)
    for path, part in gradient.items():
        module = own = path.rpartition(".")[0]
        while module and module not in modules:
            module = module.rpartition(".")[0]
        if module == own or part.any():  # else nobody may have used it
            modules.setdefault(module, []).append(path)
    return modules, gradient


def _between(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> CovariateShift:
    """The shift from one gradient of a layer to another."""
    sizes, distance = (size(before), size(after)), apart(before, after)
    if not any(sizes):
        return CovariateShift(0.0, 0.0, 1.0)
    if not all(sizes):
        return CovariateShift(distance, distance / sizes[0] if sizes[0] else math.inf, 0.0)
    product = sum(float((wide(part) * wide(after[path])).sum()) for path, part in before.items())
    return CovariateShift(distance, distance / sizes[0], product / (sizes[0] * sizes[1]))
