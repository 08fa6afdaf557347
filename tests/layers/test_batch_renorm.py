"""Batch renormalization: its definition, its schedules, and the defects of other layers, by name."""

import copy
import math

import pytest
import torch
from torch import nn

import normsmith.layers as ours
from normsmith.errors import InputError
from normsmith.layers.schedules import Linear, crossq, paper, scaled

KINDS = [("1d", (16, 3)), ("1d", (16, 3, 5)), ("2d", (8, 3, 4, 5)), ("3d", (4, 3, 2, 3, 4))]


def make(kind="1d", **options):
    layer = getattr(ours, f"BatchRenorm{kind}")(3, **({"schedule": "keras", "track": "var"} | options))
    if layer.affine:
        with torch.no_grad():
            layer.weight.uniform_(0.5, 2)
            layer.bias.normal_()
    if layer.running_mean is not None:
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    return layer


@pytest.mark.parametrize(("kind", "shape"), KINDS)
def test_rmax_1_dmax_0_is_batch_norm_exactly(kind, shape):
    renorm = make(kind, schedule=lambda step: (1.0, 0.0))
    plain = getattr(ours, f"BatchNorm{kind}")(3)
    plain.load_state_dict(renorm.state_dict())
    x, g = torch.randn(shape), torch.randn(shape)
    results = []
    for layer in (renorm, plain):
        value = x.clone().requires_grad_()
        y = layer(value)
        y.backward(g)
        results.append((y, value.grad, layer.weight.grad, layer.running_var))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("kind", "shape"), KINDS)
@pytest.mark.parametrize("track", ["var", "std"])
def test_unclipped_training_output_is_the_evaluation_output_before_the_update(kind, shape, track):
    layer = make(kind, track=track, dtype=torch.float64)
    earlier = copy.deepcopy(layer).eval()
    x = torch.randn(shape, dtype=torch.float64) * 3 + 2
    torch.testing.assert_close(layer(x), earlier(x))
    assert not torch.equal(layer.running_mean, earlier.running_mean)


def test_gradient_takes_r_and_d_as_constants():
    layer = make(schedule=lambda step: (1.2, 0.3), dtype=torch.float64)
    x = (torch.randn(8, 3, dtype=torch.float64) * 3).requires_grad_()
    r, d = layer.correction(x)
    hat = (x - x.mean(0)) / (x.var(0, correction=0) + layer.eps).sqrt()
    want = layer.weight * (hat * r + d) + layer.bias
    g = torch.randn_like(want)
    inputs = (x, layer.weight, layer.bias)
    right = torch.autograd.grad(want, inputs, g, retain_graph=True)
    y = layer(x)
    torch.testing.assert_close(y, want)
    for one, other in zip(torch.autograd.grad(y, inputs, g), right, strict=True):
        torch.testing.assert_close(one, other)


def test_correction_changes_nothing():
    layer = make()
    before = copy.deepcopy(layer.state_dict())
    r, d = layer.correction(torch.randn(8, 3))
    assert r.shape == d.shape == (3,)
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


# Defects found in renorm layers in use today.


def test_defect_unbounded_warm_up():
    for schedule in (scaled(100), paper(), crossq(), Linear(3, 5, start=10, r_end=40, d_end=25)):
        for step in (0, 1, 50, 10**4, 10**6, 10**9):
            r_max, d_max = schedule(torch.tensor(step))
            assert 1 <= r_max <= 3
            assert 0 <= d_max <= 5


def test_defect_nan_for_one_value_per_channel():
    x = torch.randn(1, 3)
    with pytest.raises(InputError, match="more than one value"):
        make()(x)
    assert make(on_small_batch="running")(x).isfinite().all()
    assert make()(torch.randn(4, 3), mask=torch.tensor([1, 0, 0, 0])).isfinite().all()


def test_defect_sequences_rejected():
    assert make("1d")(torch.randn(4, 3, 5)).shape == (4, 3, 5)


def test_defect_affine_false_creates_parameters():
    layer = make(affine=False)
    assert list(layer.parameters()) == []
    assert layer(torch.randn(4, 3)).isfinite().all()


def test_defect_eps_in_the_wrong_place():
    layer = ours.BatchRenorm1d(1, schedule="keras", track="var", affine=False, dtype=torch.float64)
    layer.running_var.fill_(1e-5)
    x = torch.randn(64, 1, dtype=torch.float64) * 1e-5**0.5
    r, _ = layer.correction(x)
    want = ((x.var(correction=0) + 1e-5) / (1e-5 + 1e-5)) ** 0.5
    torch.testing.assert_close(r[0], want)


def test_defect_statistics_missing_from_the_state():
    assert set(make().state_dict()) == set(nn.BatchNorm1d(3).state_dict())
    assert set(make(track="std").state_dict()) - set(nn.BatchNorm1d(3).state_dict()) == {"running_std"}


def test_defect_statistics_and_schedule_move_in_evaluation():
    layer = make(total_steps=100, schedule=None).eval()
    before = copy.deepcopy(layer.state_dict())
    for _ in range(3):
        layer(torch.randn(8, 3))
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


def test_defect_schedule_advances_by_sample():
    layer = make()
    layer(torch.randn(64, 3))
    assert layer.num_batches_tracked == 1


def test_defect_variance_from_the_batch_size_alone():
    layer = make("2d", schedule="constant", momentum=1.0)
    x = torch.randn(2, 3, 4, 5)
    layer(x)
    torch.testing.assert_close(layer.running_var, x.transpose(0, 1).flatten(1).var(1))


def test_defect_statistics_in_half_precision():
    layer = make(momentum=0.01).half()
    assert layer.running_mean.dtype == torch.float32
    layer.running_mean.fill_(0.0)
    for _ in range(2000):
        layer(torch.randn(16, 3, dtype=torch.half) + 100)
    assert (layer.running_mean - 100).abs().max() < 1


# Settings.


def test_needs_the_length_of_training_before_the_first_training_forward():
    layer = ours.BatchRenorm1d(3)
    layer.eval()(torch.randn(4, 3))
    with pytest.raises(InputError, match="BatchRenorm1d: batch renorm: expected total_steps"):
        layer.train()(torch.randn(4, 3))
    assert layer.num_batches_tracked == 0
    layer.set_total_steps(1000)
    layer(torch.randn(4, 3))
    assert layer.bounds().r_max == 1


def test_follows_its_schedule():
    layer = ours.BatchRenorm1d(3, total_steps=130)
    seen = []
    for _ in range(50):
        seen.append(tuple(float(bound) for bound in layer.bounds()))
        layer(torch.randn(4, 3))
    assert seen[0] == seen[5] == (1, 0)
    assert seen[25] == pytest.approx((1 + 2 * 20 / 35, 5))
    assert seen[40] == (3, 5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"schedule": "linear"}, "expected one of constant, crossq, keras, paper"),
        ({"schedule": 3}, "callable"),
        ({"total_steps": 0}, "total_steps: expected a positive whole number"),
        ({"total_steps": 10, "schedule": "paper"}, "expected one of the two"),
        ({"track": "both"}, "track: expected 'var' or 'std'"),
    ],
)
def test_refuses_settings_that_mean_nothing(unchecked, settings, says):
    with pytest.raises(InputError, match=says):
        ours.BatchRenorm1d(3, **settings)


def test_refuses_to_train_without_statistics():
    with pytest.raises(InputError, match="track_running_stats=False"):
        ours.BatchRenorm1d(3, schedule="keras", track_running_stats=False)(torch.randn(4, 3))


def test_a_batch_norm_checkpoint_gives_the_running_deviation():
    plain = nn.BatchNorm1d(3)
    plain.running_var.fill_(4.0)
    layer = ours.BatchRenorm1d(3, schedule="keras", track="std")
    layer.load_state_dict(plain.state_dict())
    torch.testing.assert_close(layer.running_std, torch.full((3,), (4 + 1e-5) ** 0.5))


def test_tracking_the_deviation_is_the_papers_estimate():
    layer = ours.BatchRenorm1d(3, schedule="keras", track="std", momentum=0.5)
    x = torch.randn(16, 3)
    layer(x)
    sigma = (x.var(0, correction=0) + layer.epsilon).sqrt()
    torch.testing.assert_close(layer.running_std, 0.5 + 0.5 * sigma)
    torch.testing.assert_close(
        layer.eval()(x), (x - layer.running_mean) / layer.running_std, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", ["BatchRenorm1d", "BatchRenormAct1d", "LazyBatchRenorm1d"])
def test_the_preset_of_keras_averages_what_keras_averages(name):
    channels = () if "Lazy" in name else (1,)
    options = {"activation": None} if "Act" in name else {}
    layer = getattr(ours, name)(*channels, schedule="keras", eps=1e-3, momentum=0.01, **options)
    x = torch.tensor([[1.0], [5.0]])
    layer(x)
    assert layer.track == "std"
    torch.testing.assert_close(layer.running_std, torch.tensor([0.99 + 0.01 * math.sqrt(4 + 1e-3)]))
    state = layer.state_dict()
    del state["running_std"]
    layer.load_state_dict(state)
    torch.testing.assert_close(layer.running_std, (state["running_var"] + 1e-3).sqrt())


@pytest.mark.parametrize(
    "options", [{"schedule": "keras", "track": "var"}, {"schedule": "paper"}, {"total_steps": 9}]
)
def test_what_is_averaged_is_the_variance_otherwise(options):
    layer = ours.BatchRenorm1d(1, **options)
    assert layer.track == "var"
    assert "running_std" not in layer.state_dict()
