"""A small network with a norm, and its weights as checkpoints have them."""

import torch
from torch import nn


def network(seed=0):
    """A network whose values are those of this seed, statistics too."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return model


def prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def is_same(model, other):
    mine, theirs = model.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
