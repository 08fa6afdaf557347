"""Small tasks that train in milliseconds, or fail in a given way; loaded by worker processes by file name."""

import importlib
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from normsmith import Task, accuracy
from normsmith.tasks.digits import Elman
from normsmith.tasks.tabular import Standardise


def blobs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three noisy clusters in six dimensions."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    centres = torch.eye(3, 6) * 2
    return centres[labels] + torch.randn(count, 6, generator=generator), labels


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def make(name: str, **changes) -> Task:
    fields = {
        "model": network,
        "train": blobs(192, 1),
        "validation": blobs(96, 2),
        "test": blobs(96, 3),
        "loss": F.cross_entropy,
        "metric": accuracy,
        "batch_size": 32,
        "steps": 20,
        "target": 0.8,
        "learning_rates": (0.05, 0.2),
    }
    return Task(name=name, **{**fields, **changes})


def elman() -> nn.Module:
    return Elman(2, 8, 3)


def in_steps(model, batch):
    """The six dimensions as three steps of two."""
    return model(batch[0].reshape(-1, 3, 2)), batch[1]


task = make("tiny")
one_rate = make("one rate", learning_rates=(0.1,))
recurrent = make("recurrent", model=elman, forward=in_steps, learning_rates=(0.1,))
untargeted = make("untargeted", target=None)


def raising_forward(model, batch):
    if model.training:
        model.seen = getattr(model, "seen", 0) + 1
        if model.seen > 3:
            raise RuntimeError("the loader is out of order")
    return model(batch[0]), batch[1]


raising = make("raising", forward=raising_forward)


def leaving_forward(model, batch):
    if model.training:
        raise SystemExit("good-bye")
    return model(batch[0]), batch[1]


leaving = make("leaving", forward=leaving_forward)


def killing_forward(model, batch):
    """The worker dies in its first training step, if the environment says so."""
    if model.training and os.environ.get("TINY_KILL") == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return model(batch[0]), batch[1]


killing = make("killing", forward=killing_forward)


def slow_forward(model, batch):
    if model.training:
        time.sleep(float(os.environ.get("TINY_SLEEP", "0")))
    return model(batch[0]), batch[1]


slow = make("slow", forward=slow_forward)


class Unsequential(nn.Module):
    """A network with a forward of its own, which branches, and a functional activation."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.last(torch.relu(self.first(x))) if len(x) else x.new_zeros(0, 3)


unsequential = make("unsequential", model=Unsequential)

activations = make("activations", activations=("relu", "tanh", "sigmoid"))


def half_optimizer(parameters, rate):
    if rate > 0.1:
        raise RuntimeError("no such learning rate here")
    return torch.optim.SGD(parameters, lr=rate)


half = make("half", optimizer=half_optimizer)

lost = make("lost", target=None, forward=raising_forward)

hopeless = make("hopeless", learning_rates=(1e30, 1e35))

diverging = make("diverging", learning_rates=(0.05, 1e30))

pairs = make("pairs", batch_size=2)


def tanh_network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


tanh = make("tanh", model=tanh_network)


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 3))


flat = make("flat", model=linear)


def table_network() -> nn.Module:
    """It standardises its inputs itself, as the networks of the embedded tables do."""
    return nn.Sequential(Standardise(torch.full((6,), 0.5), torch.full((6,), 2.0)), *network())


table = make("table", model=table_network)


def normed_network() -> nn.Module:
    """With batch norms before its activations, and a layer norm, which is none."""
    return nn.Sequential(
        nn.LayerNorm(6),
        nn.Linear(6, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 3),
    )


normed = make("normed", model=normed_network)


def closing_network() -> nn.Module:
    """A batch norm with no activation beside it."""
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))


closing = make("closing", model=closing_network)


def partly_network() -> nn.Module:
    """Two batch norms, of which one has an activation beside it."""
    return nn.Sequential(
        nn.Linear(6, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 16),
        nn.BatchNorm1d(16),
        nn.Linear(16, 3),
    )


partly = make("partly", model=partly_network)


def loading_metric(output, target):
    """Which file it runs depends on the environment: no import statement says so."""
    name = os.environ.get("TINY_IMPORT", "")
    if name.endswith(".py"):
        exec(Path(name).read_text())
    elif name:
        importlib.import_module(name)
    return accuracy(output, target)


loading = make("loading", metric=loading_metric)
