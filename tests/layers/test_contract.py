"""Every layer inherits the contract; a layer of the public index without a class here fails."""

import copy
from typing import ClassVar

import pytest
import torch
from tests.contracts.layer import LayerContract
from torch import nn

import normsmith.layers as index
from normsmith.layers.domains import HasDomains

OF_THEIR_OWN = {"BatchNormGRU", "BatchNormLSTM", "InputNorm", "Whiten1d", "Whiten2d"} | {
    kind.__name__ for kind in vars(index).values() if isinstance(kind, type) and issubclass(kind, HasDomains)
}
"""Layers that are no channel-wise norm of torch's shape: their own test files say what they must do."""

SPACES = {"1d": (), "2d": (4, 3), "3d": (2, 3, 2)}


class TestBatchNorm1d(LayerContract):
    layer = index.BatchNorm1d


class TestBatchNorm2d(LayerContract):
    layer = index.BatchNorm2d
    space = (4, 3)


class TestBatchNorm3d(LayerContract):
    layer = index.BatchNorm3d
    space = (2, 3, 2)


class TestBatchNormAct1d(LayerContract):
    layer = index.BatchNormAct1d
    options: ClassVar = {"activation": "silu"}


class TestBatchNormAct2d(LayerContract):
    layer = index.BatchNormAct2d
    space = (4, 3)
    options: ClassVar = {"activation": "silu"}


class TestBatchNormAct3d(LayerContract):
    layer = index.BatchNormAct3d
    space = (2, 3, 2)
    options: ClassVar = {"activation": "silu"}


class TestBatchRenorm1d(LayerContract):
    layer = index.BatchRenorm1d
    options: ClassVar = {"schedule": "keras", "track": "var"}


class TestBatchRenorm2d(LayerContract):
    layer = index.BatchRenorm2d
    space = (4, 3)
    options: ClassVar = {"schedule": "keras", "track": "var"}


class TestBatchRenorm3d(LayerContract):
    layer = index.BatchRenorm3d
    space = (2, 3, 2)
    options: ClassVar = {"schedule": "keras", "track": "var"}


class TestBatchRenormAct1d(LayerContract):
    layer = index.BatchRenormAct1d
    options: ClassVar = {"schedule": "keras", "track": "var", "activation": "silu"}


class TestBatchRenormAct2d(LayerContract):
    layer = index.BatchRenormAct2d
    space = (4, 3)
    options: ClassVar = {"schedule": "keras", "track": "var", "activation": "silu"}


class TestBatchRenormAct3d(LayerContract):
    layer = index.BatchRenormAct3d
    space = (2, 3, 2)
    options: ClassVar = {"schedule": "keras", "track": "var", "activation": "silu"}


class TestSequences(LayerContract):
    layer = index.BatchNorm1d
    space = (5,)


class TestGhost(LayerContract):
    layer = index.BatchNorm2d
    space = (4, 3)
    options: ClassVar = {"ghost_batch_size": 3}

    def check_mask(self, rows, seed, share):
        """Ghost batches of a masked batch are masked batches of their own."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(rows, self.channels, *self.space, generator=generator, dtype=torch.float64)
        mask = torch.rand(rows, *self.space, generator=generator) < share
        layer = self.trained(dtype=torch.float64)
        plain = index.BatchNorm2d(self.channels, dtype=torch.float64)
        plain.load_state_dict(layer.state_dict())
        want = [
            copy.deepcopy(plain)(part, mask=valid)
            for part, valid in zip(x.split(3), mask.split(3), strict=True)
        ]
        torch.testing.assert_close(layer(x, mask=mask), torch.cat(want))


class TestDeviation(LayerContract):
    layer = index.BatchRenorm1d
    options: ClassVar = {"schedule": "constant", "track": "std"}


def test_every_layer_has_a_contract():
    layers = {name for name in index.__all__ if isinstance(getattr(index, name), type)}
    modules = {name for name in layers if issubclass(getattr(index, name), nn.Module)}
    lazy = {name for name in modules if name.startswith("Lazy")}
    tested = {kind.layer.__name__ for kind in LayerContract.__subclasses__() if kind.__module__ == __name__}
    assert modules - lazy - OF_THEIR_OWN == tested


@pytest.mark.parametrize("name", [name for name in index.__all__ if name.startswith("Lazy")])
def test_lazy_layers_become_their_eager_kind(name):
    options = {"schedule": "paper"} if "Renorm" in name else {}
    layer = getattr(index, name)(ghost_batch_size=3, dtype=torch.bfloat16, **options)
    assert nn.Module in type(layer).__mro__
    x = torch.randn(6, 5, *SPACES[name[-2:]])
    layer(x, mask=None)
    assert type(layer) is getattr(index, name.removeprefix("Lazy"))
    assert layer.num_features == 5
    assert layer.ghost_batch_size == 3
    assert layer.running_mean.dtype == torch.float32
    assert layer.weight.dtype == torch.bfloat16
