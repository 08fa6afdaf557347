"""Insert outside of Sequentials: functions, residual blocks, gates, transformers, recurrent layers."""

import copy
import pickle

import pytest
import torch
from tests.surgery.networks import BatchNormAct2d as TimmBatchNormAct2d
from tests.surgery.networks import images
from tests.surgery.small import (
    Convolutional,
    Gated,
    PreActivation,
    Recurrent,
    Residual,
    mlp,
    order,
)
from tests.surgery.states import state_of
from torch import nn
from torch.nn import functional as F

from normsmith.errors import SurgeryError
from normsmith.layers import BatchNormAct2d
from normsmith.surgery import insert, strip, trace


@pytest.mark.parametrize("given", [True, False], ids=["followed with data", "by symbols"])
def test_functional_activations_get_norms_on_the_layers_around_them(given):
    batch = images(12, 1)()
    model = Convolutional()
    insert(model, "batch", batch=batch if given else None).apply()
    assert order(model, batch)[:8] == [
        "first", "first.norm", "relu", "max_pool2d", "second", "second.norm", "max_pool2d", "relu",
    ]  # fmt: skip
    assert type(model.first.norm).__name__ == "BatchNorm2d"
    assert model.first.bias is None
    assert set(model.state_dict()) == {
        "first.weight", "second.weight", "head.weight", "head.bias",
        *(f"{layer}.norm.{name}" for layer in ("first", "second") for name in model.first.norm.state_dict()),
    }  # fmt: skip

    model = Convolutional()
    plan = insert(model, "batch", "after", batch=batch if given else None)
    assert plan.refusals == ()
    plan.apply()
    assert order(model, batch) == [
        "first", "relu", "max_pool2d", "second.input_norm", "second", "max_pool2d", "relu", "mean", "head.input_norm",
        "head",
    ]  # fmt: skip
    assert type(model.head.input_norm).__name__ == "BatchNorm1d"


def test_an_attached_norm_normalises_trains_and_is_told_apart_from_its_layer():
    model, batch = Convolutional(), images(12, 1)()
    expected = F.batch_norm(model.first(batch), None, None, training=True)
    insert(model, "batch", batch=batch).apply()
    torch.testing.assert_close(model.first(batch), expected, rtol=1e-4, atol=1e-5)
    model(batch).sum().backward()
    assert model.first.norm.weight.grad is not None
    assert model.first.norm.num_batches_tracked == 2


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_attached_norms_go_along_with_copies(copied):
    model, batch = Convolutional(), images(12, 1)()
    insert(model, "layer", batch=batch).apply()
    twin = copied(model)
    with torch.no_grad():
        twin.first.norm.weight.zero_()
        assert torch.equal(twin.first(batch), twin.first.norm.bias.reshape(1, -1, 1, 1).expand(4, 4, 10, 10))
        assert not torch.equal(model.first(batch), twin.first(batch))


def test_residual_blocks_keep_their_identity_path():
    batch = images(8, 1)()
    before = Residual()
    plan = insert(before, "batch", batch=batch)
    assert [change.path for change in plan.changes if not change.path.endswith("bias")] == [
        "stem", "blocks.0.one", "blocks.0.two", "blocks.1.one", "blocks.1.two",
    ]  # fmt: skip
    assert sum("x + norm(f(x))" in change.why for change in plan.changes) == 2
    plan.apply()
    calls = order(before, batch)
    assert calls[3:10] == [
        "blocks.0.one", "blocks.0.one.norm", "relu", "blocks.0.two", "blocks.0.two.norm", "add", "relu",
    ]  # fmt: skip
    after = Residual()
    plan = insert(after, "batch", "after", batch=batch)
    plan.apply()
    assert "x + f(norm(x))" in {change.path: change.why for change in plan.changes}["blocks.0.one"]
    for residual in trace(after, batch).residuals:
        assert residual.skip == ()
        assert residual.branch[0].role == "norm"


def test_a_norm_before_the_activation_that_begins_a_branch_is_in_the_branch():
    model, batch = PreActivation(), images(4, 1)()
    insert(model, "batch", batch=batch).apply()
    assert order(model, batch) == ["stem", "act.input_norm", "act", "conv", "add", "head"]
    assert model.stem.bias is not None  # the identity path carries it


def test_gates_get_no_norm():
    model, batch = Gated(), images(4, 1)()
    plan = insert(model, "batch", batch=batch)
    assert [change.path for change in plan.changes] == ["conv", "conv.bias"]
    assert {remark.path for remark in plan.kept} == {"", "inner"}
    assert all("gate" in remark.reason for remark in plan.kept)


@pytest.mark.parametrize("shape", [(5, 4), (5, 7, 4), (5, 3, 2, 4)])
@pytest.mark.parametrize("norm", ["batch", "renorm", "group", "layer"])
def test_linear_layers_have_their_channels_last(shape, norm):
    model, batch = mlp(), torch.randn(shape)
    options = {"total_steps": 10} if norm == "renorm" else {}
    insert(model, norm, batch=batch, **options).apply()
    model.train()
    found = trace(model, batch).having("norm")
    assert len(found) == 2
    first = model[0](batch)
    if norm == "batch" and len(shape) > 2:
        flat = first.reshape(-1, 8)  # all but the channels
        torch.testing.assert_close(flat.mean(0), torch.zeros(8), rtol=0, atol=1e-5)
        torch.testing.assert_close(flat.var(0, correction=0), torch.ones(8), rtol=1e-3, atol=0)
    assert model(batch).shape == (*shape[:-1], 3)
    expected = {"batch": "BatchNorm", "renorm": "BatchRenorm", "group": "GroupNorm", "layer": "LayerNorm"}[
        norm
    ]
    assert {type(e.module).__name__.rstrip("123d") for e in found} == {expected}


def test_a_transformer_layer_is_looked_into():
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 2))
    batch = torch.randn(3, 5, 8)
    plan = insert(model, "batch", batch=batch)
    plan.verify(batch)
    plan.apply()
    assert type(model[0].linear1.norm).__name__ == "BatchNorm1d"
    assert model[0].linear1.bias is not None  # redundant, but torch's layer reads it by itself
    with torch.no_grad():
        model.eval()(batch)
    with pytest.raises(SurgeryError, match="give a batch"):
        insert(model, "batch")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("batch_first", [True, False])
def test_recurrent_layers_get_a_norm_of_what_they_put_out(kind, batch_first):
    model, batch = Recurrent(kind, batch_first=batch_first), torch.randn(5, 7, 3)
    insert(model, "batch", "after", batch=batch).apply()
    found, state = model.cells(batch)
    torch.testing.assert_close(found.mean((0, 1)), torch.zeros(6), rtol=0, atol=1e-5)
    assert len(state) == (2 if kind is nn.LSTM else 1)
    packed = nn.utils.rnn.pack_padded_sequence(batch, [7] * 5, batch_first=True)
    if batch_first:
        assert isinstance(model.cells(packed)[0], nn.utils.rnn.PackedSequence)
    refusals = insert(Recurrent(kind), "batch", batch=batch).refusals
    assert [refusal.path for refusal in refusals] == ["cells"]
    assert "BatchNormLSTM" in refusals[0].reason


def test_an_attached_norm_is_stripped_and_reverted_without_trace():
    model, batch = Residual(), images(8, 1)()
    model.stem.register_forward_hook(lambda *_: None)
    keys, before = list(model.state_dict()), state_of(model)
    inserted = insert(model, "layer", batch=batch)
    inserted.apply()
    normed = state_of(model)
    stripped = strip(model)
    stripped.apply()
    assert list(model.state_dict()) == keys
    stripped.revert()
    assert state_of(model) == normed
    inserted.revert()
    assert state_of(model) == before


def test_a_residual_addition_of_which_nothing_is_known_is_refused_by_name():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(F.relu(x + x.flip(0)))

    plan = insert(Sum(), "layer", batch=torch.randn(3, 4))
    assert "the function add" in plan.refusals[0].reason


@pytest.mark.compiles
def test_a_compiled_model_does_not_miss_an_attached_norm():
    model, batch = Convolutional(), images(12, 1)()
    compiled = torch.compile(model, backend="eager")
    plain = compiled(batch)
    plan = insert(model, "layer", batch=batch)
    plan.apply()
    torch.testing.assert_close(compiled(batch), model(batch))
    assert not torch.allclose(compiled(batch), plain)
    plan.revert()
    assert torch.equal(compiled(batch), plain)


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("fused", [lambda: BatchNormAct2d(4), lambda: TimmBatchNormAct2d(4, nn.ReLU())])
def test_an_activation_in_one_layer_with_a_norm_gets_no_other_until_that_is_stripped(fused, where):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), fused(), nn.Conv2d(4, 2, 3))
    (refusal,) = insert(model, "batch", where).refusals
    assert refusal.path == "1"
    assert (
        "its activation, relu, is in one layer with a norm already; strip the norms first" in refusal.reason
    )
    plan = insert(strip(model).apply(), "batch", where)
    assert plan.changes
    assert not plan.refusals
    assert where == "after" or any(change.path == "0.bias" for change in plan.changes)


@pytest.mark.parametrize("where", ["before", "after"])
def test_channels_of_a_slice_are_known_from_the_layer_after_the_sum(where):
    class Causal(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act, self.end = nn.Conv1d(4, 4, 3, padding=2), nn.ReLU(), nn.Conv1d(4, 2, 1)

        def forward(self, x):
            return self.end(x + self.act(self.conv(x)[:, :, :-2]))

    model, batch = Causal(), torch.randn(3, 4, 9)
    plan = insert(model, "batch", where, batch=batch)
    assert not plan.refusals
    plan.apply()
    (norm,) = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    assert norm.num_features == 4
    assert model(batch).shape == (3, 2, 9)
