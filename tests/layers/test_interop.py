"""Imports of batch renorm from other libraries: their own evaluation, their schedules; and state dicts for torch."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from normsmith.errors import InputError
from normsmith.layers import (
    BatchNorm1d,
    BatchNorm2d,
    BatchRenorm1d,
    BatchRenorm2d,
    BatchRenorm3d,
    LazyBatchRenorm1d,
)
from normsmith.layers.interop import ImportedRenorm, from_keras, from_sb3, from_sbx, from_torchrl, to_torch
from normsmith.layers.schedules import Linear

DATA = Path(__file__).parent / "data"
X = np.random.default_rng(0).normal([0.5, -12.0, 300.0], [0.2, 3.0, 50.0], (16, 3))


def read(name: str) -> Any:
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def arrays(state: dict[str, Any]) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(value, np.float32 if isinstance(value, list) else np.int64)
        for name, value in state.items()
    }


def sbx(collection: str) -> dict[str, Any]:
    return arrays(read("sbx")[collection]["VmapCritic_0"]["BatchRenorm_0"])


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


# Into layers that exist.


@pytest.mark.parametrize("kind", [BatchRenorm1d, BatchRenorm2d, BatchRenorm3d])
def test_loads_into_layers_of_any_rank_and_tracking(kind):
    imported = from_sb3(read("sb3_contrib"))
    layer = kind(3, total_steps=10, track="std")
    assert imported.load_into(layer) is layer
    assert (layer.epsilon, layer.momentum, layer.num_batches_tracked) == (1e-3, 0.01, 100_001)
    assert layer.schedule == Linear(3.0, 5.0, 100_001, 100_001, 100_001)
    torch.testing.assert_close(layer.running_std, (layer.running_var + 1e-3).sqrt())
    shape = (4, 3, 2, 2, 2)[: 2 if kind is BatchRenorm1d else 4 if kind is BatchRenorm2d else 5]
    assert layer.eval()(torch.randn(shape)).isfinite().all()
    copy.deepcopy(layer).load_state_dict(layer.state_dict())


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (BatchRenorm1d(4, total_steps=10), "expected 4 channels, got 3"),
        (BatchRenorm1d(3, total_steps=10, affine=False), "affine"),
        (BatchRenorm1d(3, total_steps=10, track_running_stats=False), "track_running_stats"),
        (BatchNorm1d(3), "expected a BatchRenorm layer of normsmith, got BatchNorm1d"),
        (LazyBatchRenorm1d(total_steps=10), "lazy"),
    ],
    ids=["channels", "affine", "untracked", "batch norm", "lazy"],
)
def test_a_layer_that_does_not_fit_stays_as_it_was(layer, said):
    model = nn.Sequential(layer)
    lazy = isinstance(layer, LazyBatchRenorm1d)
    before = {} if lazy else copy.deepcopy(model.state_dict())
    settings = (layer.epsilon, layer.momentum, getattr(layer, "schedule", 0))
    with pytest.raises(InputError, match=said) as raised:
        from_sb3(read("sb3_contrib")).load_into(layer)
    assert "sb3-contrib" in str(raised.value)
    assert isinstance(layer, BatchNorm1d) or "Sequential.0" in str(raised.value)
    assert (layer.epsilon, layer.momentum, getattr(layer, "schedule", 0)) == settings
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


# States that are not what they should be.


def without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != name}


SB3 = read("sb3_contrib")
KERAS = read("keras")["keras 3"]


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (lambda: from_sb3(without(SB3, "ra_var")), "missing: ra_var; unknown: nothing"),
        (lambda: from_sb3(SB3 | {"running_mean": [0.0]}), "missing: nothing; unknown: running_mean"),
        (lambda: from_sb3(read("torchrl")), r"give the state of one layer, by prefix=.*critic"),
        (lambda: from_sb3(SB3, prefix="critic."), "below the prefix 'critic.'; missing: bias"),
        (lambda: from_sb3(SB3 | {"ra_mean": [0.0]}), r"ra_var of shape \(1,\), got \(3,\)"),
        (lambda: from_sb3(SB3 | {"ra_var": [-1.0, 1.0, 1.0]}), "expected ra_var ≥ 0, got a smallest of -1"),
        (lambda: from_sb3(SB3 | {"ra_mean": [0.0, np.nan, 1.0]}), r"finite values in ra_mean.*\[1\]"),
        (lambda: from_sb3(SB3 | {"steps": [1, 2]}), "steps to be one number"),
        (lambda: from_sb3(SB3 | {"steps": -4}), "count of steps, got -4"),
        (lambda: from_sb3(SB3, r_max=0.5), "r_max ≥ 1"),
        (
            lambda: from_sbx(sbx("params"), sbx("batch_stats")),
            r"mean of shape \(channels,\), got \(2, 3\); choose one of",
        ),
        (lambda: from_sbx(sbx("params"), sbx("batch_stats"), member=2), "member 2, got shape"),
        (lambda: from_sbx(sbx("batch_stats"), sbx("batch_stats")), "in both"),
        (lambda: from_sbx({}, {"mean": [1.0]}), "missing: d_max, r_max, steps, var"),
        (lambda: from_torchrl(read("torchrl")), "unknown: critic.0.bias"),
        (lambda: from_keras(without(KERAS, "renorm_mean")), "missing: renorm_mean"),
        (lambda: from_keras(KERAS | {"kernel": [1.0]}), "unknown: kernel"),
        (lambda: from_keras(KERAS | {"renorm_stddev": [1.0]}), r"renorm_stddev of shape \(3,\), got \(1,\)"),
    ],
)
def test_what_is_wrong_with_a_state_is_said(load, said):
    with pytest.raises(InputError, match=said):
        load()


# To and from torch.


def trained(layer: nn.Module, x: torch.Tensor) -> nn.Module:
    for _ in range(3):
        layer(x)
    if layer.weight is not None:
        with torch.no_grad():
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.normal_()
    return layer


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("assign", [True, False])
@pytest.mark.parametrize(
    ("ours", "theirs", "shape"),
    [
        (BatchNorm1d, nn.BatchNorm1d, (8, 3)),
        (BatchNorm2d, nn.BatchNorm2d, (8, 3, 4, 4)),
        (BatchRenorm1d, nn.BatchNorm1d, (8, 3)),
    ],
    ids=["1d", "2d", "renorm"],
)
def test_torch_both_ways_strictly(ours, theirs, shape, affine, assign):
    settings = {"schedule": "constant"} if ours is BatchRenorm1d else {}
    x = 3 + 2 * torch.randn(shape)
    one, other = trained(ours(3, affine=affine, **settings), x), theirs(3, affine=affine)
    other.load_state_dict(copy.deepcopy(one.state_dict()), assign=assign)
    torch.testing.assert_close(other.eval()(x), one.eval()(x))
    back = ours(3, affine=affine, **settings)
    back.load_state_dict(copy.deepcopy(other.state_dict()), assign=assign)
    assert torch.equal(back.eval()(x), one.eval()(x))
    assert back.num_batches_tracked == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("assign", [True, False])
def test_torch_both_ways_in_half_precision(dtype, assign):
    x = (3 + 2 * torch.randn(8, 3)).to(dtype)
    ours = trained(BatchNorm1d(3), x.float()).to(dtype)
    assert ours.running_mean.dtype == torch.float32
    theirs = nn.BatchNorm1d(3).to(dtype)
    theirs.load_state_dict(to_torch(ours), assign=assign)
    assert theirs.running_mean.dtype == dtype
    torch.testing.assert_close(theirs.eval()(x).float(), ours.eval()(x).float(), atol=0.05, rtol=0.05)
    back = BatchNorm1d(3).to(dtype)
    back.load_state_dict(theirs.state_dict(), assign=assign)
    assert {back.running_mean.dtype, back.running_var.dtype} == {torch.float32}
    assert back.weight.dtype == dtype
    torch.testing.assert_close(back.eval()(x).float(), ours.eval()(x).float(), atol=0.05, rtol=0.05)


def test_without_to_torch_half_precision_by_assign_leaves_float32_statistics():
    ours = BatchNorm1d(3).half()
    theirs = nn.BatchNorm1d(3).half()
    theirs.load_state_dict(ours.state_dict(), assign=True)
    assert theirs.running_mean.dtype == torch.float32  # which is why to_torch exists


def test_standard_deviations_become_variances_in_a_whole_model():
    x = 3 + 2 * torch.randn(16, 3)
    ours = nn.Sequential(nn.Linear(3, 3), BatchRenorm1d(3, schedule="keras", track="std"), BatchNorm1d(3))
    for _ in range(5):
        ours(x)
    theirs = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    theirs.load_state_dict(to_torch(ours))
    torch.testing.assert_close(theirs.eval()(x), ours.eval()(x))
    assert "1.running_std" in ours.state_dict(), "the model itself is as it was"
