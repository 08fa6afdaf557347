"""Everything borrowed goes back, whatever happens in between."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from tests.checks.networks import Residual, images
from tests.surgery.states import state_of
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from normsmith.checks.restore import loader_generators, modes_kept, restored


def disturb(model: nn.Module) -> None:
    """What a forward, a training step and a hook do to a model."""
    x, y = images(1)[0]
    model.train()
    model.stem[1].eval()
    F.cross_entropy(model(x), y).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    model.norm.register_forward_hook(lambda *_: None)
    model.norm.momentum = 0.7
    torch.rand(3)
    np.random.rand()


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_models_and_random_numbers_are_as_before(error):
    model = Residual()
    F.cross_entropy(model(images(1)[0][0]), images(1)[0][1]).backward()
    ema = deepcopy(model)
    before = state_of(model), state_of(ema), np.random.get_state()[1].tolist()
    try:
        with restored(model, ema):
            disturb(model)
            disturb(ema)
            torch.set_grad_enabled(False)
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt):
        assert error is not None
    after = state_of(model), state_of(ema), np.random.get_state()[1].tolist()
    assert after == before
    assert torch.is_grad_enabled()


def test_loaders_draw_the_same_again():
    own = torch.Generator().manual_seed(3)
    loader = DataLoader(range(8), batch_size=2, shuffle=True, generator=own)
    with restored(nn.ReLU(), batches=loader):
        first = [batch.tolist() for batch in loader]
    assert [batch.tolist() for batch in loader] == first


def test_things_without_generators_have_none():
    assert loader_generators([1, 2]) == loader_generators(None) == []


def test_modes_are_kept_one_by_one():
    model = Residual().train()
    model.norm.eval()
    with modes_kept(model):
        model.eval()
        model.norm.train()
    assert model.training
    assert not model.norm.training
