"""How far batch renormalization may correct, step by step: the presets, their bounds, what is refused."""

import math

import pytest
import torch

from normsmith.errors import InputError
from normsmith.layers.schedules import (
    Linear,
    bounds_at,
    constant,
    crossq,
    keras,
    paper,
    scaled,
    schedule_named,
)


def test_presets_are_what_their_sources_say():
    def at(schedule, step):
        return tuple(float(bound) for bound in schedule(torch.tensor(step)))

    assert at(paper(), 5_000) == (1, 0)
    assert at(paper(), 25_000) == pytest.approx((1 + 2 * 20 / 35, 5))
    assert at(paper(), 40_000) == (3, 5)
    assert at(crossq(), 99_999) == (1, 0)
    assert at(crossq(), 100_000) == (3, 5)
    assert at(keras(), 0) == (math.inf, math.inf)
    assert at(constant(2, 1), 0) == (2, 1)


@pytest.mark.parametrize("bad", [(0.5, 1), (math.nan, 1), (2, -1)])
def test_schedules_refuse_bounds_below_batch_norm(bad):
    with pytest.raises(InputError, match="r_max ≥ 1"):
        Linear(*bad)


def test_schedules_refuse_to_end_before_they_start():
    with pytest.raises(InputError, match="start ≤ r_end"):
        Linear(3, 5, start=10, r_end=5, d_end=20)


def test_the_scaled_schedule_is_the_papers_in_proportion():
    for step in (0, 5_000, 20_000, 30_000, 40_000):
        bounds = paper()(torch.tensor(step))
        assert scaled(1_300)(torch.tensor(step // 100)) == pytest.approx(bounds)


@pytest.mark.parametrize("steps", [0, -1, 2.0, True])
def test_the_scaled_schedule_needs_a_positive_whole_number(unchecked, steps):
    with pytest.raises(InputError, match="total_steps: expected a positive whole number"):
        scaled(steps)


@pytest.mark.parametrize("schedule", [paper(), crossq(), keras(), Linear(3, 5, start=10, r_end=40, d_end=25)])
def test_where_the_step_cannot_be_read_bounds_are_tensors_of_the_same_value(schedule):
    """Under vmap the host cannot read a number of the device, as on an accelerator."""
    steps = torch.tensor([0, 12, 30, 50_000, 200_000])
    as_tensors = torch.vmap(lambda step: tuple(torch.as_tensor(bound) for bound in schedule(step)))(steps)
    for at, step in enumerate(steps):
        assert [bound[at].item() for bound in as_tensors] == pytest.approx(schedule(step))


def test_schedules_are_named_or_the_users_own():
    assert schedule_named("crossq") == crossq()

    def own(step):
        return 2.0, 1.0

    assert schedule_named(own) is own
    assert tuple(bounds_at(own, torch.tensor(3))) == (2.0, 1.0)
