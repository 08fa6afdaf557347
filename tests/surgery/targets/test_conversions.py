"""What a batch norm of each kind becomes, and what the new layer takes over from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.surgery.networks import BatchNormAct2d, FrozenBatchNorm2d, lived_in
from torch import Tensor, nn

from normsmith import layers
from normsmith._torch import NORMS_TAKE_BIAS
from normsmith.anatomy.read_batch_norm import read_batch_norm
from normsmith.anatomy.remark import Refusal
from normsmith.errors import InputError
from normsmith.surgery.targets.conversions import TARGETS, Converted, converted

OPTIONS: dict[str, dict[str, Any]] = {"renorm": {"total_steps": 9}, "ghost": {"ghost_batch_size": 2}}
"""What a target needs beside its name."""
OURS = ("batch", "renorm", "sync", "ghost", "frozen")


def convert(
    norm: nn.Module, to: str, guess: tuple[int, str] | None = None, **options: Any
) -> Converted | Refusal:
    parts = read_batch_norm(norm)
    assert not isinstance(parts, Refusal)
    return converted(parts, to, {**OPTIONS.get(to, {}), **options}, guess)


def become(norm: nn.Module, to: str, guess: tuple[int, str] | None = None, **options: Any) -> Converted:
    result = convert(norm, to, guess, **options)
    assert isinstance(result, Converted)
    return result


def reason(norm: nn.Module, to: str, **options: Any) -> str:
    result = convert(norm, to, **options)
    assert isinstance(result, Refusal)
    return result.reason


def held(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}


# From each kind to each target.

SOURCES = {
    "torch": lambda: nn.BatchNorm2d(4, eps=1e-3, momentum=0.3),
    "sync": lambda: nn.SyncBatchNorm(4, eps=1e-3, momentum=0.3),
    "ours": lambda: layers.BatchNorm2d(4, eps=1e-3, momentum=0.3),
    "renorm": lambda: layers.BatchRenorm2d(4, eps=1e-3, momentum=0.3, schedule="keras", track="var"),
    "fused": lambda: layers.BatchNormAct2d(4, eps=1e-3, momentum=0.3, activation="tanh"),
}
KINDS = {
    "torch": "BatchNorm2d, BatchRenorm2d, BatchNorm2d, BatchNorm2d, BatchNorm2d",
    "sync": "BatchNorm2d, BatchRenorm2d, BatchNorm2d, BatchNorm2d, BatchNorm2d",
    "ours": "BatchNorm2d, BatchRenorm2d, BatchNorm2d, BatchNorm2d, BatchNorm2d",
    "renorm": "BatchNorm2d, BatchRenorm2d, BatchRenorm2d, BatchRenorm2d, BatchRenorm2d",
    "fused": "BatchNormAct2d, BatchRenormAct2d, BatchNormAct2d, BatchNormAct2d, BatchNormAct2d",
}
"""By source, the classes for each of `OURS`."""


@pytest.mark.parametrize("to", OURS)
@pytest.mark.parametrize("source", SOURCES)
def test_ours_hold_the_same_tensors_with_the_same_settings(source, to):
    old = lived_in(SOURCES[source]()).eval()
    new = become(old, to, guess=(2, "Conv2d")).new
    assert type(new).__name__ == KINDS[source].split(", ")[OURS.index(to)]
    assert type(new).__module__.startswith("normsmith.")
    assert held(new).keys() == held(old).keys()
    assert all(tensor is held(old)[name] for name, tensor in held(new).items())
    assert (new.epsilon, new.momentum, new.training) == (1e-3, 0.3, False)
    expected = {"sync": "world"} if source != "sync" else dict.fromkeys(OURS, "world")
    assert new.process_group == expected.get(to)


@pytest.mark.parametrize("to", ["group", "layer"])
@pytest.mark.parametrize("source", ["torch", "sync", "ours", "renorm"])
def test_group_and_layer_norm_hold_the_affine_alone(source, to):
    old = lived_in(SOURCES[source]()).eval()
    result = become(old, to)
    assert repr(result.new) == repr(nn.GroupNorm(2 if to == "group" else 1, 4, eps=1e-3))
    assert result.new.weight is old.weight
    assert result.new.bias is old.bias
    assert not result.new.training
    assert (result.evaluation, result.training) == ("differs", "differs")


@pytest.mark.parametrize(
    ("source", "kind"), [("ours", nn.BatchNorm2d), ("renorm", nn.BatchNorm2d)], ids=["ours", "renorm"]
)
def test_torchs_holds_the_same_tensors(source, kind):
    old = lived_in(SOURCES[source]())
    new = become(old, "torch").new
    assert type(new) is kind
    assert held(new).keys() == held(old).keys()
    assert all(tensor is held(old)[name] for name, tensor in held(new).items())
    assert (new.eps, new.momentum) == (1e-3, 0.3)


@pytest.mark.parametrize("source", ["torch", "sync"])
def test_what_is_torchs_stays_itself(source):
    old = SOURCES[source]()
    result = become(old, "torch")
    assert (result.new, result.changes) == (old, False)


def test_a_synchronised_norm_becomes_torchs_synchronised_one():
    old = layers.BatchNorm2d(4, process_group="world")
    assert type(become(old, "torch").new) is nn.SyncBatchNorm


def test_parts_that_are_not_there_stay_away():
    plain = become(nn.BatchNorm2d(4, affine=False), "batch").new
    assert (plain.weight, plain.bias) == (None, None)
    if NORMS_TAKE_BIAS:
        scaled = become(nn.BatchNorm2d(4, bias=False), "batch").new
        assert scaled.weight is not None
        assert scaled.bias is None
    assert become(nn.BatchNorm2d(4, affine=False), "group").new.weight is None
    untracked = become(nn.BatchNorm2d(4, track_running_stats=False), "batch")
    assert untracked.new.running_mean is None


def test_a_look_alikes_buffers_become_parameters_of_their_own():
    old = lived_in(FrozenBatchNorm2d(4))
    result = become(old, "batch")
    assert torch.equal(result.new.weight, old.weight)
    assert result.new.weight.requires_grad
    assert result.new.running_mean is old.running_mean
    assert result.new.num_batches_tracked.item() == 0
    assert result.why == (
        "asked for; it was frozen and normalises by the batch from now on; num_batches_tracked is new in the state dict"
    )


def test_timms_activation_goes_along():
    new = become(BatchNormAct2d(4, nn.SiLU()), "batch").new
    assert (type(new), new.activation) == (layers.BatchNormAct2d, "silu")


def test_what_users_put_on_a_norm_is_carried():
    old = nn.BatchNorm2d(4)
    old.tag = "mine"
    assert [become(old, to).new.tag for to in ("batch", "renorm", "group")] == ["mine"] * 3


# Statistics.


def test_a_deviation_is_made_of_the_variance_and_the_other_way_round():
    old = lived_in(nn.BatchNorm2d(4, eps=1e-3))
    renorm = become(old, "renorm", track="std").new
    torch.testing.assert_close(renorm.running_std, (old.running_var + 1e-3).sqrt(), rtol=1e-6, atol=0)
    renorm.running_std.mul_(2)
    back = become(renorm, "batch").new
    torch.testing.assert_close(back.running_var, renorm.running_std**2 - 1e-3, rtol=1e-6, atol=0)
    renorm.running_std.zero_()
    assert become(renorm, "batch").new.running_var.tolist() == [0.0] * 4  # no variance is below zero


def test_ours_keep_statistics_in_float32_at_least_and_torchs_in_the_dtype_of_the_weight():
    half = lived_in(nn.BatchNorm2d(4)).half()
    new = become(half, "batch").new
    assert (new.weight.dtype, new.running_mean.dtype) == (torch.float16, torch.float32)
    assert torch.equal(new.running_mean, half.running_mean.float())
    assert become(new, "torch").new.running_mean.dtype == torch.float16
    double = nn.BatchNorm2d(4).double()
    assert become(double, "batch").new.running_mean is double.running_mean


def test_a_lazy_norm_stays_lazy():
    old = nn.LazyBatchNorm2d()
    new = become(old, "renorm").new
    assert type(new) is layers.LazyBatchRenorm2d
    assert new.weight is old.weight
    assert "run the model once" in reason(old, "group")


# What is said and expected.


@pytest.mark.parametrize(
    ("norm", "to"),
    [
        (lambda: layers.BatchNorm2d(4), "batch"),
        (lambda: layers.BatchRenorm2d(4, total_steps=9), "renorm"),
        (lambda: layers.BatchNorm2d(4, process_group="world"), "sync"),
        (lambda: layers.BatchNorm2d(4, ghost_batch_size=2), "ghost"),
        (lambda: layers.BatchNorm2d(4).freeze("running"), "frozen"),
    ],
    ids=OURS,
)
def test_what_is_so_already_does_not_change(norm, to):
    assert not become(norm(), to).changes
    assert become(nn.BatchNorm2d(4), to).changes


@pytest.mark.parametrize(
    ("to", "evaluation", "training"),
    [
        ("batch", "same", "same"),
        ("renorm", "same", "may differ"),
        ("ghost", "same", "may differ"),
        ("sync", "same", "may differ"),
        ("frozen", "same", "may differ"),
    ],
)
def test_expectations(to, evaluation, training):
    result = become(nn.BatchNorm2d(4), to)
    assert (result.evaluation, result.training) == (evaluation, training)
    assert (become(nn.BatchNorm2d(4), to, eps=0.5).evaluation) == "may differ"


def test_without_running_statistics_evaluation_is_as_training():
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    result = become(norm, "ghost")
    assert (result.evaluation, result.training) == ("may differ", "may differ")
    assert become(norm, "batch").evaluation == "same"


def test_freezing_stops_the_affine():
    old = nn.BatchNorm2d(4)
    result = become(old, "frozen")
    assert result.stops == (old.weight, old.bias)
    assert result.new.pinned is not None
    assert become(old, "batch").stops == ()


def test_notes_for_people():
    old = nn.BatchNorm2d(4)
    assert become(old, "batch").why == "asked for"
    without_schedule = converted(read_batch_norm(old), "renorm", {}, None)
    assert without_schedule.why == "asked for; call set_total_steps before training"
    assert become(layers.BatchNorm2d(4).freeze(), "batch").why.endswith(
        "it was frozen and normalises by the batch from now on"
    )
    assert become(layers.BatchNorm2d(4, process_group="world"), "renorm").why.endswith(
        "it stays synchronised; process_group=None ends that"
    )
    assert become(nn.SyncBatchNorm(4), "batch", (3, "Conv3d")).why.startswith(
        "asked for; 3d as the Conv3d before it"
    )


def test_an_option_replaces_the_setting_that_it_contradicts():
    old = layers.BatchRenorm2d(4, schedule="keras", track="var")
    assert become(old, "renorm", total_steps=50).new.total_steps == 50
    kept = converted(read_batch_norm(old), "renorm", {"momentum": 0.5}, None)
    assert (kept.new.schedule, kept.new.momentum) == (old.schedule, 0.5)
    assert (
        become(layers.BatchNorm2d(4, ghost_batch_size=8), "ghost", ghost_batch_size=4).new.ghost_batch_size
        == 4
    )


# What is refused, and what is an error.


@pytest.mark.parametrize(
    ("norm", "to", "why"),
    [
        (lambda: nn.SyncBatchNorm(4), "batch", "SyncBatchNorm does not say how many dimensions it takes"),
        (lambda: nn.BatchNorm2d(4, track_running_stats=False), "renorm", "which renorm needs"),
        (lambda: nn.BatchNorm2d(4, track_running_stats=False), "frozen", "which frozen needs"),
        (lambda: layers.BatchNormAct2d(4), "torch", "torch's batch norm has no activation"),
        (lambda: layers.BatchNorm2d(4, ghost_batch_size=2), "torch", "has no ghost_batch_size"),
        (lambda: layers.BatchNorm2d(4, on_small_batch="running"), "torch", 'has no on_small_batch="running"'),
        (lambda: layers.BatchNorm2d(4).freeze(), "torch", "has no freeze"),
        (lambda: layers.LazyBatchNorm2d(process_group="world"), "torch", "torch has no lazy SyncBatchNorm"),
        (lambda: layers.BatchNormAct2d(4), "group", "fused with its activation, relu, and group norm has none"),
        (lambda: layers.BatchNormAct2d(4), "layer", "fused with its activation, relu, and layer norm has none"),
    ],
)  # fmt: skip
def test_what_cannot_become_something_says_why(norm, to, why):
    assert why in reason(norm(), to)


def test_groups_that_do_not_divide_the_channels_are_refused():
    assert "divisible" in reason(nn.BatchNorm2d(6), "group", num_groups=4)


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("ghost", {}, r"^convert to ghost: expected ghost_batch_size"),
        ("batch", {"num_groups": 2}, "^convert to batch with .*num_groups"),
        ("group", {"ghost_batch_size": 2}, "^convert to group with .*ghost_batch_size"),
        ("renorm", {"total_steps": 0}, "^convert to renorm with .*total_steps"),
    ],
)
def test_options_that_a_target_does_not_take_are_errors(to, options, message):
    with pytest.raises(InputError, match=message):
        converted(read_batch_norm(nn.BatchNorm2d(4)), to, options, None)


def test_every_target_is_tried_here():
    elsewhere = {"domain"}  # test_domains.py
    assert {*OURS, "torch", "group", "layer"} | elsewhere == TARGETS.keys()
