"""Strip and fold of norms that are more than norms, or somebody's own: activations stay, no norm is passed over."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.foreign import (
    ActNorm,
    AlwaysRunning,
    DataDependentActNorm,
    ImageAffine,
    LayerScale,
    LearnedSlope,
    MovingAverages,
    NormThenRelu,
    RootMeanSquare,
    Sb3BatchRenorm1d,
    Scale,
    Shift,
    TorchrlBatchRenorm1d,
    used,
)
from tests.surgery.networks import BatchNormAct2d as TimmNormAct
from torch import nn

from normsmith import layers, surgery
from normsmith.errors import SurgeryError
from normsmith.surgery import Plan, fold, strip

IMAGES = torch.randn(2, 3, 8, 8)


def convolutions(norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), used(norm), nn.Conv2d(6, 2, 1)).eval()


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        (layers.BatchNormAct2d(6), "ReLU()"),
        (layers.BatchNormAct2d(6, activation="leaky_relu"), "LeakyReLU(negative_slope=0.01)"),
        (layers.BatchRenormAct2d(6, activation="gelu", schedule="keras"), "GELU(approximate='none')"),
        (layers.BatchNormAct2d(6, activation=None), "Identity()"),
    ],
)
@pytest.mark.parametrize("batch", [None, IMAGES])
def test_the_activation_of_a_fused_norm_stays(norm, expected, batch):
    model = convolutions(norm)
    plan = strip(model, batch=batch)
    assert plan.changes[0].after == expected
    stripped = plan.apply(copy=True)
    assert str(stripped[1]) == expected
    inner = model[0](IMAGES)
    torch.testing.assert_close(stripped[:2](IMAGES), stripped[1](inner))
    assert Plan.from_json(model, plan.to_json()).changes == plan.changes
    plan.apply()
    assert plan.revert()[1] is norm


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU(inplace=True), nn.SiLU()], ids=str)
def test_the_parts_of_timms_layer_stay_under_their_names_and_overwrite_nothing(act):
    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = used(TimmNormAct(6, act)), nn.Conv2d(6, 6, 1)

        def forward(self, x):
            return x + self.conv(self.norm(x))

    model = nn.Sequential(nn.Conv2d(3, 6, 3), Shortcut()).eval()
    strip(model).apply()
    assert [name for name, _ in model[1].norm.named_children()][-2:] == ["drop", "act"]
    inner = model[0](IMAGES)
    torch.testing.assert_close(model(IMAGES), inner + model[1].conv(act(inner.clone())))


def test_a_residual_is_not_lost():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), layers.BatchNormAct2d(3)

        def forward(self, x):
            return self.norm(self.conv(x), residual=x)

    for batch in (None, IMAGES):
        (refusal,) = strip(Block(), batch=batch).refusals
        assert "it is called with several tensors" in refusal.reason


def test_where_a_residual_cannot_be_ruled_out_a_batch_is_asked_for():
    class Dynamic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = layers.BatchNormAct2d(3)

        def forward(self, x):
            return self.norm(x) if x.sum() > -1e9 else x

    with pytest.raises(SurgeryError, match="give a batch"):
        strip(Dynamic())
    assert type(strip(Dynamic(), batch=IMAGES).apply().norm) is nn.ReLU


def vectors(norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), used(norm), nn.ReLU(), nn.Linear(6, 2)).eval()


NORMS = [Sb3BatchRenorm1d, TorchrlBatchRenorm1d, MovingAverages, AlwaysRunning, RootMeanSquare]


@pytest.mark.parametrize("kind", NORMS)
def test_norms_of_others_go_if_they_do_nothing_but_normalise(kind):
    model = vectors(kind(6))
    plan = strip(model)
    assert [change.path for change in plan.changes] == ["1"]
    assert not plan.refusals
    assert type(plan.apply()[1]) is nn.Identity


def test_a_norm_of_others_that_does_more_is_named():
    class LayerNormThenRelu(RootMeanSquare):
        def forward(self, x):
            return super().forward(x).relu()

    (refusal,) = strip(vectors(LayerNormThenRelu(6))).refusals
    assert refusal.reason == "LayerNormThenRelu has a forward of its own and may do more than normalise"


@pytest.mark.parametrize("norm", [ActNorm(6), LayerScale(6), Scale(), DataDependentActNorm(6, False)])
def test_a_scale_and_shift_is_no_norm_and_is_named(norm):
    plan = strip(vectors(norm))
    assert not plan.changes
    assert not plan.refusals
    (remark,) = plan.kept
    assert remark.path == "1"
    assert remark.reason.endswith("it is no norm")


def test_an_activation_is_not_mentioned():
    plan = strip(vectors(LearnedSlope(6)))
    assert (plan.changes, plan.refusals, plan.kept) == ((), (), ())


FOLDED = {
    "renorm of sb3-contrib": lambda: vectors(Sb3BatchRenorm1d(6)),
    "renorm of sb3-contrib without affine": lambda: vectors(Sb3BatchRenorm1d(6, affine=False)),
    "renorm of torchrl": lambda: vectors(TorchrlBatchRenorm1d(6)),
    "a batch norm of other names": lambda: vectors(MovingAverages(6)),
    "statistics that never change": lambda: vectors(AlwaysRunning(6)),
    "a scale and shift": lambda: vectors(ActNorm(6)),
    "a layer scale": lambda: vectors(LayerScale(6)),
    "one scale": lambda: vectors(Scale()),
    "one shift": lambda: vectors(Shift()),
    "a first batch that was": lambda: vectors(DataDependentActNorm(6, True)),
    "before a layer": lambda: nn.Sequential(used(ActNorm(4)), nn.Linear(4, 2)).eval(),
    "one scale before a layer": lambda: nn.Sequential(used(Scale()), nn.Linear(4, 2)).eval(),
}


@pytest.mark.parametrize("operation", [fold, lambda model, batch=None: strip(model, fold=True, batch=batch)])
@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize("with_batch", [True, False])
def test_what_scales_and_shifts_channels_in_evaluation_folds(name, operation, with_batch):
    model, x = FOLDED[name](), torch.randn(5, 4)
    before = model(x)
    plan = operation(model, batch=x if with_batch else None)
    assert not plan.refusals
    assert not plan.kept
    plan.verify(x)
    plan.apply()
    assert sum(type(m).__module__ == "tests.surgery.foreign" for m in model.modules()) == 0
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    plan.revert()
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("norm", [ImageAffine(6), TorchrlBatchRenorm1d(6), Scale()])
@pytest.mark.parametrize("transposed", [False, True])
def test_images_fold_too(norm, transposed):
    model = convolutions(norm)
    if transposed:
        model[0] = nn.ConvTranspose2d(3, 6, 3, bias=False)
    before = model(IMAGES)
    fold(model, IMAGES).apply()
    assert type(model[1]) is nn.Identity
    torch.testing.assert_close(model(IMAGES), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", [None, torch.randn(2, 3, 8, 8)])
def test_channels_elsewhere_do_not_fold(batch):
    plan = fold(convolutions(ActNorm(6)), batch)  # of width 6 too: along the width, not the channels
    assert not plan.changes
    (remark,) = plan.kept
    assert "its channels are not in the dimension" in remark.reason


def test_sequences_with_channels_last_fold_into_linear_layers():
    model, x = nn.Sequential(nn.Linear(4, 6), used(LayerScale(6))).eval(), torch.randn(2, 5, 4)
    before = model(x)
    fold(model, x).apply()
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        (RootMeanSquare(6), "RootMeanSquare goes by each sample's own statistics, which no weights can"),
        (nn.LayerNorm(6), "LayerNorm goes by each sample's own statistics, which no weights can"),
        (layers.Whiten1d(6), "Whiten1d is no batch norm, and fold reads batch norms alone"),
    ],
)
def test_what_cannot_fold_is_refused_with_a_true_reason(norm, reason):
    (refusal,) = strip(vectors(norm), fold=True).refusals
    assert refusal.reason == reason


def test_a_scale_of_a_first_batch_to_come_stays_with_the_reason():
    plan = fold(vectors(DataDependentActNorm(6, False)))
    (remark,) = plan.kept
    assert "takes its scale and shift from its first training batch" in remark.reason


def test_a_norm_and_activation_of_others_does_not_fold():
    with pytest.raises(SurgeryError, match="has no batch norm"):
        fold(vectors(NormThenRelu(6)))


def test_a_bias_that_a_fold_makes_new_does_not_decay():
    model = convolutions(ImageAffine(6))
    vectors_ = [p for p in model.parameters() if p.dim() < 2]
    others = [p for p in model.parameters() if p.dim() > 1]
    optimizer = torch.optim.SGD(
        [{"params": others, "weight_decay": 0.1}, {"params": vectors_, "weight_decay": 0.0}], lr=0.1
    )
    surgery.fold(model).apply(optimizer=optimizer)
    assert any(p is model[0].bias for p in optimizer.param_groups[1]["params"])
