"""Edits of a task's inputs: what makes raw inputs hard, and what prepares them. A feature is a channel, dimension 1.

Of sequences for recurrent networks dimension 1 is time: they are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normsmith.errors import StudyError
from normsmith.layers import BatchNorm1d, BatchNorm2d, BatchNorm3d
from normsmith.studies.arms import Edit, edit
from normsmith.studies.data_edits import features_of, generator, with_inputs
from normsmith.studies.names import named
from normsmith.tasks import Task, build
from normsmith.tasks.digits import Elman
from normsmith.tasks.tabular import Standardise

DECADES = 3.0
"""Raw scales lie between 10⁻³ and 10³."""
STRETCH = 3.0
"""Heavy tails: standard deviations are stretched by sinh(3·)."""
OUTLIERS, FAR = 0.01, 100.0
"""The share of values that are outliers, and how many standard deviations they are away."""
_RECURRENT = (Elman, nn.RNNBase, nn.RNNCellBase)


@named("distort-inputs")
def distort(task: Task, how: str) -> Task:
    """Make the inputs of every split as raw data are.

    - "scales": each feature in a unit of its own, from 10⁻³ to 10³, evenly on a logarithmic scale, in random order;
    - "tails": every value x becomes sinh(3·(x − mean) / SD), of all training values;
    - "outliers": one value in a hundred, drawn anew, is ±100 SD away.
    """
    inputs = _by_channel(task, least=2 if how == "scales" else 1)
    mean, spread = inputs.mean(), inputs.std().clamp_min(torch.finfo(inputs.dtype).tiny)
    draw = generator()
    features = inputs.shape[1]
    units = torch.logspace(-DECADES, DECADES, features)[torch.randperm(features, generator=draw)]

    def scales(x: Tensor, split: str) -> Tensor:
        return x * _by_feature(units.to(x), x)

    def tails(x: Tensor, split: str) -> Tensor:
        return ((x - mean) / spread * STRETCH).sinh()

    def outliers(x: Tensor, split: str) -> Tensor:
        chosen = torch.rand(x.shape, generator=draw) < OUTLIERS
        signs = torch.randint(2, x.shape, generator=draw) * 2 - 1
        return torch.where(chosen.to(x.device), mean + FAR * spread * signs.to(x), x)

    return with_inputs(task, {"scales": scales, "tails": tails, "outliers": outliers}[how])


@named("correlate-inputs")
def correlate(task: Task, condition: float) -> Task:
    """Mix the features by a random matrix whose largest singular value is `condition` times its smallest."""
    features, draw = _by_channel(task, least=2).shape[1], generator()
    left, right = (
        torch.linalg.qr(torch.randn(features, features, generator=draw, dtype=torch.float64)).Q for _ in "lr"
    )
    values = torch.logspace(0.0, -1.0, features, base=condition, dtype=torch.float64)
    values = values / values.square().mean().sqrt()  # the whole keeps its size
    mix = left @ values.diag() @ right
    return with_inputs(task, lambda x, split: (x.movedim(1, -1) @ mix.to(x)).movedim(-1, 1).contiguous())


@named("prepare-inputs")
def prepare(task: Task, how: str) -> Task:
    """Prepare the inputs of every split by what is fitted on those of training.

    - "standard": each feature less its mean, divided by its standard deviation;
    - "quantile": each feature's ranks as the quantiles of a normal distribution (scikit-learn's `QuantileTransformer`).
    """
    train = _as_table(_by_channel(task))
    if how == "standard":
        mean, spread = train.mean(0), train.std(0, correction=0)
        spread = torch.where(spread > 0, spread, torch.ones_like(spread))
        return with_inputs(task, lambda x, split: (x - _by_feature(mean, x)) / _by_feature(spread, x))
    from sklearn.preprocessing import QuantileTransformer

    count = min(1000, len(train))
    fitted = QuantileTransformer(n_quantiles=count, output_distribution="normal", random_state=0)
    fitted.fit(train.double().cpu().numpy())

    def quantiles(x: Tensor, split: str) -> Tensor:
        table = torch.from_numpy(fitted.transform(_as_table(x).double().cpu().numpy())).to(x)
        return table.reshape(x.movedim(1, -1).shape).movedim(-1, 1).contiguous()

    return with_inputs(task, quantiles)


@named("norm-first")
def norm_first(model: nn.Module, task: Task) -> nn.Module:
    """Put a batch norm before the whole network, over its inputs."""
    inputs = _by_channel(task)
    kinds: dict[int, type[nn.Module]] = {2: BatchNorm1d, 3: BatchNorm1d, 4: BatchNorm2d, 5: BatchNorm3d}
    if inputs.dim() not in kinds:
        raise StudyError(
            f"expected inputs of two to five dimensions to put a batch norm before, got {inputs.dim()}"
        )
    norm = kinds[inputs.dim()](inputs.shape[1])
    weight = next((p for p in model.parameters() if p.is_floating_point()), inputs)
    return nn.Sequential(norm.to(device=weight.device, dtype=weight.dtype), model)


@named("standardise-outside")
def standardise_outside(task: Task) -> Task:
    """Standardise the inputs as the network's first module does, and take that module away.

    What is then done to the inputs is done to what the rest of the network receives. A task whose network does not
    begin with `Standardise` is returned as it is.
    """
    first = _first_standardise(task)
    if first is None:
        return task
    moved = with_inputs(task, lambda x, split: first.to(x.device)(x))
    return replace(moved, model=partial(_without_first, task.model))


def standardised_outside(task: Task) -> tuple[Edit, ...]:
    """The edit `standardise_outside`, where the task's network begins with `Standardise`; none elsewhere.

    A question that changes inputs makes it first: the network would standardise what was changed by the constants of
    the inputs as they were.
    """
    return () if _first_standardise(task) is None else (edit(standardise_outside),)


def _first_standardise(task: Task) -> Standardise | None:
    model = build(task, 0)
    first = model[0] if isinstance(model, nn.Sequential) and len(model) else None
    return first if isinstance(first, Standardise) else None


def _without_first(factory: Callable[[], nn.Module]) -> nn.Module:
    """The network of a factory, with nothing in place of its first module."""
    layers: Any = factory()
    layers[0] = nn.Identity()
    model: nn.Module = layers
    return model


def _by_channel(task: Task, least: int = 1) -> Tensor:
    """The training inputs, whose dimension 1 is at least so many features.

    Raises:
        StudyError: it is not: the inputs are no floating point numbers, time is dimension 1, or features are fewer.
    """
    inputs = features_of(task)
    if inputs.dim() == 3 and any(isinstance(module, _RECURRENT) for module in build(task, 0).modules()):
        raise StudyError(
            "expected inputs whose dimension 1 is features, which this question changes one by one; got sequences "
            f"of shape {tuple(inputs.shape)} for a recurrent network, in which it is time"
        )
    if inputs.shape[1] < least:
        raise StudyError(
            f"expected inputs of at least {least} features, for this question is about how they differ; got shape "
            f"{tuple(inputs.shape)}"
        )
    return inputs


def _as_table(inputs: Tensor) -> Tensor:
    """Inputs (N, C, …) as rows of C features."""
    return inputs.movedim(1, -1).flatten(0, -2)


def _by_feature(values: Tensor, inputs: Tensor) -> Tensor:
    """One value a feature, in a shape that broadcasts over `inputs`."""
    return values.view(1, -1, *[1] * (inputs.dim() - 2))
