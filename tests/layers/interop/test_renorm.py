"""Imports of batch renorm from other libraries: they evaluate as the originals, and their schedules go on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.layers.interop.saved import arrays, read, sbx
from torch import nn

from normsmith.errors import InputError
from normsmith.layers.interop import ImportedRenorm, from_keras, from_sb3, from_sbx, from_torchrl

X = np.random.default_rng(0).normal([0.5, -12.0, 300.0], [0.2, 3.0, 50.0], (16, 3))


def evaluated(mean, var, scale, bias, eps) -> np.ndarray:
    """(x − mean)/sqrt(var + eps)·scale + bias: how each of these libraries evaluates."""
    mean, var, scale, bias = (np.asarray(value, np.float64) for value in (mean, var, scale, bias))
    return (X - mean) / np.sqrt(var + eps) * scale + bias


def outputs(layer: nn.Module) -> np.ndarray:
    return layer.double().eval()(torch.tensor(X)).detach().numpy()


# What each library evaluates.


def test_sb3_evaluates_the_same():
    state = read("sb3_contrib")
    expected = evaluated(state["ra_mean"], state["ra_var"], state["scale"], state["bias"], 1e-3)
    for given in (arrays(state), {name: torch.tensor(value) for name, value in state.items()}, state):
        np.testing.assert_allclose(outputs(from_sb3(given).build()), expected, rtol=1e-6, atol=1e-6)


def test_sb3_without_affine_ignores_the_parameters_it_saves():
    state = read("sb3_contrib")
    layer = from_sb3(arrays(state), affine=False).build()
    assert layer.weight is None
    expected = evaluated(state["ra_mean"], state["ra_var"], 1, 0, 1e-3)
    np.testing.assert_allclose(outputs(layer), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("member", [0, 1, -1])
def test_sbx_evaluates_the_same(member):
    params, stats = sbx("params"), sbx("batch_stats")
    layer = from_sbx(params, stats, member=member).build()
    expected = evaluated(
        stats["mean"][member], stats["var"][member], params["scale"][member], params["bias"][member], 1e-3
    )
    np.testing.assert_allclose(outputs(layer), expected, rtol=1e-6, atol=1e-6)
    assert layer.momentum == pytest.approx(0.01)
    assert layer.num_batches_tracked == 100_000


def test_torchrl_evaluates_the_same_out_of_a_whole_model():
    state = read("torchrl")
    expected = evaluated(
        *(state[f"critic.1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")), 1e-5
    )
    layer = from_torchrl(
        {name: torch.tensor(value) for name, value in state.items()}, prefix="critic.1."
    ).build()
    np.testing.assert_allclose(outputs(layer), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("version", ["keras 2", "keras 3"])
@pytest.mark.parametrize("track", ["var", "std"])
def test_keras_evaluates_the_same(version, track):
    weights = arrays(read("keras")[version])
    plain = read("keras")["keras 3"]
    expected = evaluated(plain["moving_mean"], plain["moving_variance"], plain["gamma"], plain["beta"], 1e-3)
    layer = from_keras(weights).build(track=track)
    np.testing.assert_allclose(outputs(layer), expected, rtol=1e-6, atol=1e-6)
    if track == "std":
        np.testing.assert_allclose(layer.running_std, plain["moving_stddev"], rtol=1e-6)


@pytest.mark.parametrize("left_out", [{"gamma"}, {"beta"}, {"gamma", "beta"}])
def test_keras_without_scale_or_center(left_out):
    weights = {name: value for name, value in read("keras")["keras 3"].items() if name not in left_out}
    layer = from_keras(weights).build()
    assert (layer.weight is None) == (left_out == {"gamma", "beta"})
    gamma, beta = weights.get("gamma", 1), weights.get("beta", 0)
    expected = evaluated(weights["moving_mean"], weights["moving_variance"], gamma, beta, 1e-3)
    np.testing.assert_allclose(outputs(layer), expected, rtol=1e-6, atol=1e-6)


def test_keras_layer_out_of_a_whole_model():
    weights = read("keras")["keras 2"]
    both = weights | {
        name.replace("normalization", "normalization_1"): value for name, value in weights.items()
    }
    assert from_keras(both, prefix="batch_normalization_1/").build().num_features == 3
    with pytest.raises(InputError, match="several of a name"):
        from_keras(both)


# How training goes on.


def bounds(imported: ImportedRenorm, step: int) -> tuple[float, float]:
    layer = imported.build()
    layer.num_batches_tracked.fill_(step)
    r_max, d_max = layer.bounds()
    return float(r_max), float(d_max)


@pytest.mark.parametrize(
    ("imported", "closed", "opened"),
    [
        pytest.param(from_sb3(read("sb3_contrib")), 100_000, 100_001, id="sb3: while steps <= warmup_steps"),
        pytest.param(from_sb3(read("sb3_contrib"), warmup_steps=5), 5, 6, id="sb3, its own length"),
        pytest.param(
            from_sbx(sbx("params"), sbx("batch_stats"), member=0), 99_999, 100_000, id="SBX: while steps < it"
        ),
        pytest.param(
            from_torchrl(read("torchrl"), prefix="critic.1."), 9_999, 10_000, id="torchrl: steps // it"
        ),
    ],
)
def test_the_warm_up_ends_at_the_same_step(imported, closed, opened):
    assert bounds(imported, closed) == (1, 0)
    assert bounds(imported, opened) == (3, 5)


def test_sb3_warm_up_state_is_where_training_goes_on():
    layer = from_sb3(read("sb3_contrib")).build()
    assert [float(bound) for bound in layer.bounds()] == [3, 5]
    state = read("sb3_contrib")
    x = torch.tensor(X).float()
    r, d = layer.correction(x)
    running = np.sqrt(np.asarray(state["ra_var"]) + 1e-3)
    np.testing.assert_allclose(r, np.clip(np.sqrt(X.var(0) + 1e-3) / running, 1 / 3, 3), rtol=1e-5)
    np.testing.assert_allclose(d, (X.mean(0) - np.asarray(state["ra_mean"])) / running, rtol=1e-3, atol=1e-5)


def test_torchrl_smooth_opens_over_the_warm_up_and_stays():
    imported = from_torchrl(read("torchrl"), prefix="critic.1.", smooth=True, warmup_steps=100)
    assert [bounds(imported, step) for step in (0, 50, 100, 10_000)] == [(1, 0), (2, 2.5), (3, 5), (3, 5)]
    assert any("smooth" in note for note in imported.notes)


def test_keras_clipping():
    weights = read("keras")["keras 3"]
    assert bounds(from_keras(weights), 0) == (np.inf, np.inf)
    assert from_keras(weights).notes == from_keras(weights, renorm_clipping={"dmax": 2.0}).notes
    clipped = from_keras(weights, renorm_clipping={"rmax": 3.0, "rmin": 0.3, "dmax": 5.0})
    assert bounds(clipped, 0) == (3, 5)
    assert any("0.3" in note and "0.333" in note for note in clipped.notes)
    with pytest.raises(InputError, match=r"rmax, rmin, dmax in renorm_clipping, got \['r_max'\]"):
        from_keras(weights, renorm_clipping={"r_max": 3.0})
    with pytest.raises(InputError, match="r_max ≥ 1"):
        from_keras(weights, renorm_clipping={"rmax": 0.5})


def test_momentum_moves_by_torchs_convention():
    layer = from_sbx(sbx("params"), sbx("batch_stats"), member=0, momentum=0.9).build()
    x = torch.tensor(X).float()
    before = layer.running_mean.clone()
    layer(x)
    torch.testing.assert_close(layer.running_mean, 0.9 * before + 0.1 * x.mean(0), rtol=1e-5, atol=1e-5)
