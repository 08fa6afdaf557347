"""What the code of a model reads of the layers in it."""

import pytest
from tests.anatomy.readers import BY_HAND, READERS, Plain, norm_of, transformer
from torch import nn

from normsmith.anatomy.holders import Holders


@pytest.mark.parametrize("kind", READERS)
def test_what_is_read_is_seen_and_who_reads_it(kind):
    model = nn.Sequential(kind())
    holders, norm = Holders(model), norm_of(model)
    assert set(holders.reads[norm]) == READERS[kind]
    assert set(holders.reads[norm].values()) == {f"{kind.__name__} 0"}
    reason = holders.why_bound(norm, nn.Identity())
    assert reason is not None
    assert reason.startswith(f"the forward of {kind.__name__} 0 reads its ")
    assert reason.endswith(", which Identity does not have")
    assert holders.why_bound(norm, nn.BatchNorm1d(4)) is None


@pytest.mark.parametrize("kind", READERS)
def test_a_norm_that_is_computed_by_hand_is_not_called(kind):
    model = kind()
    reason = Holders(model).by_hand(norm_of(model))
    assert (reason is not None) is (kind in BY_HAND)
    if reason is not None:
        assert reason == f"the forward of {kind.__name__} computes with its statistics and never calls it"


def test_modes_methods_and_constructors_bind_nothing():
    model = Plain()
    holders = Holders(model)
    assert model.bn in holders.called
    assert holders.why_bound(model.bn, nn.Identity()) is None
    assert holders.by_hand(model.bn) is None


def test_torchs_transformer_reads_its_norms():
    model = transformer()
    for layer in model.layers:
        holders = Holders(layer)
        for norm in (layer.norm1, layer.norm2):
            assert " eps, " in str(holders.why_bound(norm, nn.Identity()))
            assert norm in holders.called
            assert "TransformerEncoder reads" in str(Holders(model).why_bound(norm, nn.Identity()))


def test_a_child_of_a_sequential_is_called_by_it():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    holders = Holders(model)
    assert holders.called == set(model)
    assert not holders.reads


def test_plain_lists_and_dictionaries_are_looked_into():
    class Kept(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
            self.kept = [self.one]
            self.named = {"other": self.other}

        def forward(self, x):
            for norm in self.named.values():
                x = x * norm.momentum
            return x * self.kept[0].eps

    model = Kept()
    holders = Holders(model)
    assert (set(holders.reads[model.one]), set(holders.reads[model.other])) == ({"eps"}, {"momentum"})
