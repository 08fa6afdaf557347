"""Norms by name: which layer each is for which signal, with the dtype, device and mode of the layer that feeds it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normsmith import layers
from normsmith.anatomy.kinds import Signal
from normsmith.errors import InputError, SurgeryError
from normsmith.surgery.targets.factory import NAMES, check_norm, group_count, made_of, make_norm, settings_of

LAST = {"features": 8, "channels_last": True}


@pytest.mark.parametrize(
    ("name", "signal", "expected"),
    [
        ("batch", Signal(8), layers.BatchNorm1d(8)),
        ("batch", Signal(8, 1), layers.BatchNorm1d(8)),
        ("batch", Signal(8, 2), layers.BatchNorm2d(8)),
        ("batch", Signal(8, 3), layers.BatchNorm3d(8)),
        ("batch", Signal(spatial=2, **LAST), layers.BatchNorm2d(8)),
        ("renorm", Signal(8), layers.BatchRenorm1d(8)),
        ("renorm", Signal(8, 3), layers.BatchRenorm3d(8)),
        ("layer", Signal(8), nn.LayerNorm(8)),
        ("layer", Signal(8, 2), nn.GroupNorm(1, 8)),
        ("layer", Signal(spatial=2, **LAST), nn.LayerNorm(8)),
        ("group", Signal(8), nn.GroupNorm(4, 8)),
        ("group", Signal(7, 2), nn.GroupNorm(1, 7)),
        ("group", Signal(spatial=1, **LAST), nn.GroupNorm(4, 8)),
    ],
)
def test_each_name_for_each_signal(name, signal, expected):
    made = make_norm(name, signal, nn.Linear(2, 8), {})
    assert (type(made), repr(made)) == (type(expected), repr(expected))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("batch", {"momentum": 0.3, "ghost_batch_size": 4}),
        ("renorm", {"total_steps": 10}),
        ("layer", {"eps": 0.5, "elementwise_affine": False}),
        ("group", {"num_groups": 2, "affine": False}),
    ],
)
def test_options_go_to_the_layer(name, options):
    made = make_norm(name, Signal(8), nn.Linear(2, 8), options)
    assert {option: getattr(made, option) for option in options} == options


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("batch", {"ghosts": 3}),
        ("layer", {"num_groups": 2}),
        ("group", {"num_groups": 3}),
        ("group", {"momentum": 0.1}),
    ],
    ids=["unknown", "of another norm", "no divisor", "not taken"],
)
def test_options_that_do_not_fit_are_refused_with_the_layer(name, options):
    with pytest.raises(SurgeryError, match=f"cannot make norm '{name}' for Linear"):
        make_norm(name, Signal(8), nn.Linear(2, 8), options)


def test_a_norm_is_like_its_layer():
    layer = nn.Linear(2, 8, dtype=torch.float64).eval()
    made = make_norm("batch", Signal(8), layer, {})
    assert made.weight.dtype == made.running_mean.dtype == torch.float64
    assert not made.training
    with torch.device("meta"):
        layer = nn.Conv2d(1, 8, 1)
    assert make_norm("group", Signal(8, 2), layer, {}).weight.is_meta


def test_a_layer_without_weights_is_taken_for_float32_on_the_cpu():
    made = make_norm("layer", Signal(8), nn.ReLU(), {})
    assert (made.weight.dtype, made.weight.device.type) == (torch.float32, "cpu")


def test_a_callable_gets_the_channels_and_the_layer():
    given, layer = [], nn.Linear(2, 8).eval()

    def norm(*arguments):
        given.append(arguments)
        return nn.Sequential(nn.Linear(8, 8))  # draws random numbers

    state = torch.get_rng_state()
    made = make_norm(norm, Signal(8, 2, True), layer, {})
    assert given == [(8, layer)]
    assert not made[0].training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_callable_that_makes_no_module_is_refused():
    with pytest.raises(SurgeryError, match=r"norm must make an nn\.Module, got NoneType"):
        make_norm(lambda *_: None, Signal(8), nn.Linear(2, 8), {})
    with pytest.raises(SurgeryError, match="cannot make norm"):
        make_norm(lambda features: None, Signal(8), nn.Linear(2, 8), {})


def test_names_and_callables_are_checked_before_anything_is_made():
    for name in NAMES:
        check_norm(name, {"eps": 1e-3})
    check_norm(nn.LayerNorm, {})
    with pytest.raises(
        InputError, match="norm must be one of batch, renorm, layer, group or a callable, got 'bath'"
    ):
        check_norm("bath", {})
    with pytest.raises(InputError, match="got eps, bias beside a callable"):
        check_norm(nn.LayerNorm, {"eps": 1e-3, "bias": False})


@pytest.mark.parametrize("features", range(1, 65))
def test_groups_are_as_many_as_fit_up_to_eight_of_two_channels_at_least(features):
    fitting = [n for n in range(1, 9) if features % n == 0 and (features // n >= 2 or n == 1)]
    assert group_count(features) == max(fitting)


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        (
            layers.BatchRenorm1d,
            {"num_features": 4, "momntum": 1},
            "has no setting 'momntum'; did you mean momentum",
        ),
        (nn.GroupNorm, {"num_groups": 2, "num_channels": 4, "groups": 1}, "did you mean num_groups"),
        (
            nn.GroupNorm,
            {"num_groups": 0, "num_channels": 4},
            "num_groups: expected a positive whole number, got 0",
        ),
        (nn.GroupNorm, {"num_groups": True, "num_channels": 4}, "got True"),
        (nn.LayerNorm, {"normalized_shape": 4, "zzz": 4}, "LayerNorm has no setting 'zzz'; it takes eps"),
    ],
)
def test_a_wrong_setting_is_refused_with_those_that_there_are(kind, settings, said):
    with pytest.raises(InputError, match=said):
        made_of(kind, **settings)


@pytest.mark.parametrize("kind", [layers.BatchNorm1d, layers.BatchRenorm2d, nn.BatchNorm2d])
def test_settings_are_those_of_the_bases_too(kind):
    assert {"eps", "momentum", "affine", "track_running_stats"} <= set(settings_of(kind))
    assert not {"num_features", "device", "dtype", "kwargs", "args", "self"} & set(settings_of(kind))
