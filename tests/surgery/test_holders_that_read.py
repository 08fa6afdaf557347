"""Every operation on models whose code reads the attributes of their norms and activations."""

import pytest
import torch
from tests.anatomy.readers import BY_HAND, READERS, Plain, norm_of, transformer
from torch import nn

from normsmith import surgery
from normsmith.errors import SurgeryError

REMOVING = {
    "strip": lambda model, x: surgery.strip(model, batch=x),
    "strip and fold": lambda model, x: surgery.strip(model, batch=x, fold=True),
    "fold": surgery.fold,
    "place": lambda model, x: surgery.place(model, "after", batch=x),
}
X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("operation", REMOVING)
@pytest.mark.parametrize("kind", READERS)
def test_a_norm_that_is_read_does_not_go(kind, operation):
    model = kind().eval()
    before = model(X)
    (refusal,) = REMOVING[operation](model, X).refusals
    reason = "computes with its statistics" if "fold" in operation and kind in BY_HAND else "reads its"
    assert f"the forward of {kind.__name__} {reason}" in refusal.reason
    with pytest.raises(SurgeryError, match=reason):
        REMOVING[operation](model, X).apply()
    assert torch.equal(model(X), before)


@pytest.mark.parametrize("operation", REMOVING)
def test_a_norm_that_is_not_read_goes(operation):
    changed = REMOVING[operation](Plain().eval(), X).apply()
    assert changed.train()(X).shape == changed.eval()(X).shape == (6, 2)


@pytest.mark.parametrize("to", ["batch", "torch", "renorm", "frozen", "ghost", "group", "layer"])
@pytest.mark.parametrize("kind", READERS)
def test_conversions_that_code_would_miss_are_refused(kind, to):
    options = {"renorm": {"total_steps": 10}, "ghost": {"ghost_batch_size": 2}}.get(to, {})
    model = kind().eval()
    plan = surgery.convert(model, to, **options)
    missing = to in ("group", "layer") and READERS[kind] - {"weight", "bias", "eps"}
    if missing:
        assert "reads its" in plan.refusals[0].reason
    elif kind in BY_HAND and to not in ("batch", "torch"):
        assert "never calls it" in plan.refusals[0].reason
    else:
        changed = plan.apply()
        for training in (False, True):
            assert changed.train(training)(X).isfinite().all()


@pytest.mark.parametrize("kind", BY_HAND)
@pytest.mark.parametrize("ours", [False, True])
def test_statistics_that_are_used_by_hand_cannot_be_frozen(kind, ours):
    model = kind()
    if ours:
        surgery.convert(model).apply()
    (refusal,) = surgery.freeze(model).refusals
    assert "never calls it" in refusal.reason
    assert not surgery.freeze(model, "affine").refusals


@pytest.mark.parametrize("norm_first", [False, True])
def test_torchs_transformer_keeps_its_norms(norm_first):
    model, x = transformer(norm_first=norm_first).eval(), torch.randn(2, 3, 8)
    plan = surgery.strip(model, batch=x)
    assert [refusal.path for refusal in plan.refusals] == [
        f"layers.{i}.norm{j}" for i in (0, 1) for j in (1, 2)
    ]
    assert all("TransformerEncoder" in refusal.reason for refusal in plan.refusals)
    assert not surgery.strip(model, batch=x, only="norm").refusals


def test_torchs_transformer_chose_its_fast_path_by_its_activation():
    x = torch.randn(2, 3, 8)
    (first, second) = surgery.swap_activation(transformer(nn.ReLU()), "tanh", batch=x).refusals
    assert "chose its fast path by it" in first.reason
    assert "chose its fast path by it" in second.reason
    model = surgery.swap_activation(transformer(nn.SiLU()), "tanh", batch=x).apply().eval()
    with torch.no_grad():
        fast = model(x)
    assert torch.allclose(fast, model(x), atol=1e-6)


class ReadsSlope(nn.Module):
    """Uses a setting of its activation."""

    def __init__(self):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(4, 4), nn.LeakyReLU(0.2), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(self.act(self.a(x))) * self.act.negative_slope + self.a.bias.sum()


def test_an_activation_and_a_bias_that_are_read_stay():
    (refusal,) = surgery.swap_activation(ReadsSlope(), "tanh").refusals
    assert "reads its negative_slope, which Tanh does not have" in refusal.reason
    plan = surgery.insert(ReadsSlope(), "batch")
    assert any(r.path == "a.bias" and "ReadsSlope reads it" in r.reason for r in plan.kept)
    assert plan.apply().a.bias is not None


class Hidden(Plain):
    """Reads the norm by a name that its code does not tell."""

    def norm(self, x):
        return self.bn(x) * getattr(self.bn, "".join(("we", "ight")))


@pytest.mark.parametrize("operation", ["strip", "fold", "place"])
def test_tensors_that_functions_compute_with_are_seen_by_following_the_data(operation):
    (refusal,) = REMOVING[operation](Hidden().eval(), X).refusals
    assert "mul" in refusal.reason or "its tensors are used outside" in refusal.reason
    assert norm_of(Hidden()) is not None
