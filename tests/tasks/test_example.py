"""What surgery follows a task's network with: a batch and a forward."""

import random

import torch
from torch import nn
from torch.utils.data import Dataset

from normsmith import Task
from normsmith.tasks import example, forward_of


class Noisy(Dataset):
    """Dicts of samples that are augmented at random, from torch's and Python's global states."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return {"x": torch.randn(3) + random.random(), "y": torch.tensor(index % 2)}


def forward(model, batch):
    return model(batch["x"]), batch["y"]


noisy = Task(
    model=lambda: nn.Linear(3, 2), train=Noisy(), validation=Noisy(), test=Noisy(), batch_size=8,
    loss=nn.functional.cross_entropy, metric=lambda output, target: 0.0, forward=forward,
)  # fmt: skip


def test_an_example_is_the_same_at_each_call_and_draws_from_nobodys_random_state():
    states = torch.get_rng_state(), random.getstate()
    first, second = example(noisy), example(noisy)
    assert first["x"].shape == (8, 3)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


def test_the_forward_gives_the_output_alone():
    model, batch = nn.Linear(3, 2), example(noisy)
    assert torch.equal(forward_of(noisy)(model, batch), model(batch["x"]))
