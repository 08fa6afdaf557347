"""Networks come from a seed alone, and the caller's random state stays as it was."""

from contextlib import suppress

import pytest
import torch
from torch import nn

from normsmith.errors import TaskError
from normsmith.tasks import Task, accuracy, build, seeded


def make(**changes):
    x, y = torch.randn(100, 3), torch.arange(100) % 2
    arguments = {
        "model": lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)),
        "train": (x, y),
        "test": (x[:9], y[:9]),
        "loss": nn.functional.cross_entropy,
        "metric": accuracy,
        "name": "mine",
    }
    return Task(**(arguments | changes))


def failing():
    raise RuntimeError("no weights today")


def test_building_depends_on_the_seed_alone():
    task = make()
    state = torch.get_rng_state()
    first = build(task, 3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    again, other = build(task, 3), build(task, 4)
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)


def test_seeded_restores_every_random_state_also_after_an_error():
    import random

    import numpy as np

    def draws():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with suppress(ValueError), seeded(9):
        inside = draws()
        raise ValueError("out")
    assert draws() == expected
    with seeded(9):
        assert draws() == inside


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (failing, "'mine': the model factory raised RuntimeError: no weights today"),
        (lambda: [nn.Linear(3, 2)], "'mine': the model factory must return an nn.Module, got list"),
    ],
)
def test_a_factory_that_gives_no_network_is_named(model, said):
    task = make(model=model)
    state = torch.get_rng_state()
    with pytest.raises(TaskError, match=said):
        build(task, 0)
    assert torch.equal(torch.get_rng_state(), state)
