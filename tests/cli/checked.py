"""Tasks for `normsmith check`: one with a fault, one without, one whose network prints."""

import torch
from tests.studies.tiny import make
from torch import nn


class Prints(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = healthy_network()

    def forward(self, x):
        print("a network that talks")  # noqa: T201
        return self.body(x)


def healthy_network(momentum=0.1):
    return nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8, momentum=momentum), nn.ReLU(), nn.Linear(8, 3)
    )


faulty = make("faulty", model=lambda: healthy_network(0.99))
healthy = make("healthy", model=healthy_network)
prints = make("prints", model=Prints)


def poisoned(path):
    """Write a checkpoint of the network with NaN in its statistics."""
    model = healthy_network()
    model[1].running_mean[0] = torch.nan
    torch.save(model.state_dict(), path)


def leaking(model):
    """A validation in training mode."""
    model.train()
    with torch.no_grad():
        return float(model(torch.randn(16, 6)).mean())


def source(batch):
    """Which camera took a batch."""
    return "left" if batch[0].mean() > 0 else "right"


def step_in_evaluation(model, batches, optimizer):
    """A step that forgot `model.train()`."""
    model.eval()
    x, y = next(iter(batches))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
