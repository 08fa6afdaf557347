"""What reaches the first layer."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import Attention, Recurrent, cnn, images, mlp, sequences, vectors
from tests.surgery.states import state_of
from torch import nn

from normsmith.anatomy.forward import call
from normsmith.checks.finding import UnavailableError
from normsmith.checks.inputs import first_inputs


@pytest.mark.parametrize(
    ("make", "data", "path", "shape"),
    [
        (mlp, vectors, "0", (64, 8)),
        (cnn, images, "0", (2 * 16 * 64, 3)),
        (Recurrent, sequences, "cells", (320, 8)),
    ],
)
def test_values_by_feature(make, data, path, shape):
    batches = data(2)
    found, values = first_inputs(make(), batches, call)
    assert (found, tuple(values.shape)) == (path, shape)
    torch.testing.assert_close(values.mean(), torch.cat([x for x, _ in batches]).double().mean())


def test_what_comes_before_the_layer_counts():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 2)

        def forward(self, x):
            return self.layer(x / 255)

    assert float(first_inputs(Scaled(), [255 * torch.ones(4, 8)], call)[1].max()) == pytest.approx(1.0)


def test_embeddings_and_networks_without_weights_are_no_raw_data():
    words = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2))
    with pytest.raises(UnavailableError, match="embeddings"):
        first_inputs(words, [torch.ones(4, 3).long()], call)
    with pytest.raises(UnavailableError, match="no linear"):
        first_inputs(nn.ReLU(), [torch.ones(4, 3)], call)
    assert first_inputs(Attention(), sequences(2), call)[1].shape[1] in {8, 16}


def test_a_forward_ends_at_the_first_layer_and_the_model_is_as_before():
    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.calls = nn.Linear(8, 8), nn.BatchNorm1d(8), []

        def forward(self, x):
            self.calls.append("begun")
            try:
                x = self.first(x)
            except Exception:  # noqa: BLE001
                self.calls.append("an error")
            self.calls.append("first")
            return self.second(x)

    model, batches = Counted(), vectors(3)
    before = state_of(model)
    _, values = first_inputs(model, batches, call)
    assert torch.equal(values, torch.cat([x for x, _ in batches]).double())
    assert model.calls == ["begun"] * 3
    model.calls.clear()
    assert state_of(model) == before


def test_a_model_that_catches_everything_is_measured_all_the_same():
    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 2)

        def forward(self, x):
            try:
                return self.layer(x)
            except:  # noqa: E722
                return self.layer(2 * x)

    batches = vectors(3)
    assert torch.equal(
        first_inputs(Stubborn(), batches, call)[1], torch.cat([x for x, _ in batches]).double()
    )
