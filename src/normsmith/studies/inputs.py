"""Edits of a task's inputs: what makes raw inputs hard, and what prepares them. A feature is a channel, dimension 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normsmith.errors import StudyError
from normsmith.layers import BatchNorm1d, BatchNorm2d, BatchNorm3d
from normsmith.studies.data_edits import generator, tensors, with_inputs
from normsmith.studies.names import named
from normsmith.tasks import Task

DECADES = 3.0
"""Raw scales lie between 10⁻³ and 10³."""
STRETCH = 3.0
"""Heavy tails: standard deviations are stretched by sinh(3·)."""
OUTLIERS, FAR = 0.01, 100.0
"""The share of values that are outliers, and how many standard deviations they are away."""


@named("distort-inputs")
def distort(task: Task, how: str) -> Task:
    """Make the inputs of every split as raw data are.

    - "scales": each feature in a unit of its own, from 10⁻³ to 10³, evenly on a logarithmic scale, in random order;
    - "tails": every value x becomes sinh(3·(x − mean) / SD), of all training values;
    - "outliers": one value in a hundred, drawn anew, is ±100 SD away.
    """
    inputs, _ = tensors(task, "train")
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
    inputs, _ = tensors(task, "train")
    features, draw = inputs.shape[1], generator()
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
    train = _as_table(tensors(task, "train")[0])
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
    inputs, _ = tensors(task, "train")
    kinds: dict[int, type[nn.Module]] = {2: BatchNorm1d, 3: BatchNorm1d, 4: BatchNorm2d, 5: BatchNorm3d}
    if inputs.dim() not in kinds:
        raise StudyError(
            f"expected inputs of two to five dimensions to put a batch norm before, got {inputs.dim()}"
        )
    return nn.Sequential(kinds[inputs.dim()](inputs.shape[1]), model)


def _as_table(inputs: Tensor) -> Tensor:
    """Inputs (N, C, …) as rows of C features."""
    return inputs.movedim(1, -1).flatten(0, -2)


def _by_feature(values: Tensor, inputs: Tensor) -> Tensor:
    """One value a feature, in a shape that broadcasts over `inputs`."""
    return values.view(1, -1, *[1] * (inputs.dim() - 2))
