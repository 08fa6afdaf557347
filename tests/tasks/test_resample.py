"""The metric on bootstrap samples: the same draws for every model, the right spread, and what cannot be drawn."""

import statistics

import pytest
import torch
from torch import nn

from normsmith import Task, accuracy
from normsmith.tasks import evaluating
from normsmith.tasks.resample import resampled_metric

X, Y = torch.randn(400, 2), torch.arange(400) % 2


def task(model=lambda: nn.Linear(2, 2), metric=accuracy, **more):
    return Task(
        model=model,
        train=(X, Y),
        validation=(X, Y),
        test=(X, Y),
        loss=nn.CrossEntropyLoss(),
        metric=metric,
        **more,
    )


def resampled(made, model, times=200):
    with evaluating(model):
        return resampled_metric(made, model, "test", times)


def test_the_spread_is_that_of_a_share():
    torch.manual_seed(0)
    made = task()
    model = made.model()
    share = accuracy(model(X).detach(), Y)
    values = resampled(made, model)
    assert statistics.fmean(values) == pytest.approx(share, abs=0.01)
    assert statistics.stdev(values) == pytest.approx((share * (1 - share) / 400) ** 0.5, rel=0.2)


def test_all_models_are_measured_on_the_same_draws():
    made = task(metric=lambda output, target: float(target.double().mean()))  # of the draw alone
    one, other = (resampled(made, made.model(), 5) for _ in range(2))
    assert one == other
    assert len(set(one)) > 1


def test_outputs_in_containers_are_drawn_together_with_their_targets():
    made = task(
        forward=lambda model, batch: ({"x": batch[1], "y": batch[1]}, batch[1]),
        metric=lambda output, target: float((output["x"] == target).double().mean()),
    )
    assert resampled(made, made.model(), 3) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("extra", [0.5, torch.zeros(3)], ids=["a number", "another length"])
def test_what_is_no_row_a_sample_is_not_drawn(extra):
    made = task(forward=lambda model, batch: ((batch[1], extra), batch[1]), metric=lambda output, target: 0.0)
    assert resampled(made, made.model(), 3) == ()
