"""Names of a file beside those of a model, under prefixes."""

import pytest
import torch
from tests.surgery.checkpoints.networks import network, prefixed
from torch import nn

from normsmith.surgery.checkpoints.names import has, match, prefixes_of, wrapped_prefixes

WANTED = network().state_dict(keep_vars=True)


@pytest.mark.parametrize(
    ("keys", "wanted", "expected"),
    [
        (["0.weight"], None, [""]),
        (["_orig_mod.module.0.weight"], None, ["", "_orig_mod.", "_orig_mod.module."]),
        (["module.backbone.module.x"], None, ["", "module."]),
        (["module.backbone.module.x"], "backbone.", ["module.backbone.", "module.backbone.module."]),
        (["backbone.x", "module.backbone.x"], "backbone.", ["backbone."]),
        (["my_backbone.x", "a.backbone.x"], "backbone.", []),
        (["module.x"], "", [""]),
        (["module"], None, [""]),
    ],
)
def test_prefixes_that_wrappers_make(keys, wanted, expected):
    assert wrapped_prefixes(keys, wanted) == expected


def test_prefixes_of_any_kind_end_at_a_dot():
    state = prefixed("a.b.", WANTED) | prefixed("xa", WANTED)
    assert prefixes_of(state, WANTED) == ["a.b."]
    assert has(state, WANTED)
    assert not has({name: value for name, value in state.items() if "running" not in name}, WANTED)
    assert prefixes_of(state, {}) == []


def test_an_average_has_a_counter_of_its_own_beside_its_module():
    state = {"n_averaged": 1, "module.n_averaged": 1} | prefixed("module.module.", WANTED)
    assert match(state, WANTED, "module.module.").unexpected == ()
    state = {"n_averaged": 1} | prefixed("model.", WANTED)
    assert match(state, WANTED, "model.").unexpected == ("n_averaged",)


def test_shapes_are_compared_and_scalars_of_old_files_fit():
    state = dict(WANTED) | {"1.num_batches_tracked": torch.zeros(1), "0.bias": torch.zeros(3), "3.bias": 4}
    assert match(state, WANTED, "").shapes == (("0.bias", (3,), (16,)), ("3.bias", "int", (2,)))


def test_what_is_not_known_yet_fits_any_shape():
    model = nn.Sequential(nn.LazyLinear(3))
    state = nn.Sequential(nn.Linear(5, 3)).state_dict()
    assert match(state, model.state_dict(keep_vars=True), "").is_complete


INNER = [
    ("a.0.weight", "a._orig_mod.0.weight"),
    ("a.0.weight", "a.0._orig_mod.weight"),
    ("a.0.weight", "a.module.0._orig_mod.weight"),
    ("a._orig_mod.0.weight", "a.0.weight"),
    ("module.0.weight", "module.0.module.weight"),
]


@pytest.mark.parametrize(("name", "key"), INNER)
def test_wrappers_of_parts_stand_within_names(name, key):
    state, wanted = {key: torch.ones(2), "head": 1}, {name: torch.ones(2), "head": 1}
    assert not match(state, wanted, "").is_complete
    found = match(state, wanted, "", inner=True)
    assert (found.is_complete, found.unexpected, found.names[name]) == (True, (), key)
    assert found.key_of(name.replace("weight", "bias")) == key.replace("weight", "bias")
    assert found.key_of("new.bias") == "new.bias"


def test_names_that_could_be_two_are_left_as_they_are():
    state, wanted = {"a._orig_mod.x": torch.ones(2), "a.module.x": torch.ones(2)}, {"a.x": torch.ones(2)}
    assert match(state, wanted, "", inner=True).missing == ("a.x",)
    assert (
        match(
            {"a.x": torch.ones(2)},
            {"a.module.x": torch.ones(2), "a._orig_mod.x": torch.ones(2)},
            "",
            inner=True,
        ).names
        == {}
    )
