"""Passes of batches through a borrowed model."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
from tests.surgery.states import state_of
from torch import nn

from normsmith.errors import InputError
from normsmith.layers import BatchNorm1d
from normsmith.measure import (
    EveryCall,
    MeasuredLayer,
    Passes,
    Statistics,
    batch_statistics,
    measurable_layers,
)  # fmt: skip
from normsmith.measure.passes import BatchSample
from normsmith.ops import moments


def chain() -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.Dropout(0.5), BatchNorm1d(4), nn.Linear(4, 2))


def passes(model: nn.Module, **options) -> Passes:
    return Passes(model, measurable_layers(model).layers, **options)


def rows() -> torch.Tensor:
    return torch.randn(11, 3) * 2 + 1


def assert_measured(result, values: torch.Tensor) -> None:
    var, mean = torch.var_mean(values.detach().double(), 0, correction=0)
    torch.testing.assert_close((result.mean + result.low)[0], mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(result.variance[0], var, rtol=3e-6, atol=0)
    assert float(result.count) == len(values)


def test_a_pass_measures_what_evaluation_gives_each_layer():
    model, x = chain(), rows()
    through = passes(model)
    with through.borrowed_model():
        result = through.run(x.split(4))
    model.eval()
    assert_measured(result.moments[0], x)
    assert_measured(result.moments[1], model[1](model[0](x)))
    assert (result.samples, result.loss) == (11, 0.0)


def test_layers_normalise_by_the_statistics_of_the_pass():
    model, x = chain(), rows()
    through, first = passes(model), model[0]
    own = first.running_mean
    statistics = [Statistics(torch.full((3,), 5.0), torch.full((3,), 4.0)), through.layers[1].statistics()]
    with through.borrowed_model():
        result = through.run([x], statistics)
        assert first.running_mean is own
    expected = (x - 5) / (4 + first.eps) ** 0.5
    assert_measured(result.moments[1], model[1](expected))


def test_by_a_rule_layers_normalise_as_in_training():
    model, x = chain(), rows()
    through = passes(model)
    with through.borrowed_model():
        result = through.run(x.split(4), rule=batch_statistics)
    halves = [model[1](nn.BatchNorm1d(3).train()(part)) for part in x.split(4)]
    assert_measured(result.moments[1], torch.cat(halves))


@pytest.mark.parametrize("fails", [False, True])
def test_a_borrowed_model_is_as_it_was(fails):
    model = chain().train()
    model[3].eval()
    model[1].weight.grad = torch.ones(4, 3)
    through, batches = passes(model), [*rows().split(4), *(["no batch"] if fails else [])]
    before = state_of(model)
    with pytest.raises(InputError, match="got str") if fails else nullcontext(), through.borrowed_model():
        assert not model.training
        assert not torch.is_grad_enabled()
        through.run(batches, rule=lambda epsilon, own, moments, samples: own)
    assert state_of(model) == before


def test_dropout_drops_where_it_is_asked_for_and_norms_stay_in_evaluation_mode():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(2)).eval()
    x = torch.ones(2000, 2)
    through = passes(model, dropout=True)
    with through.borrowed_model():
        assert (model[0].training, model[1].training) == (True, False)
        result = through.run([x])
    torch.testing.assert_close(result.moments[0].variance, torch.ones(1, 2).double(), rtol=0.01, atol=0)
    assert model[1].num_batches_tracked == 0


def test_every_pass_draws_the_same_random_numbers():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(2))
    through = passes(model, dropout=True)
    with through.borrowed_model():
        first, again = through.run([torch.ones(50, 2)]), through.run([torch.ones(50, 2)])
    assert torch.equal(first.moments[0].mean, again.moments[0].mean)


def test_the_loss_is_the_mean_over_the_samples():
    model, x = nn.Sequential(nn.BatchNorm1d(3)), rows()
    through = passes(model)
    with through.borrowed_model():
        result = through.run(x.split(4), loss=lambda output, batch: (output - 2 * batch).mean())
    assert result.loss == pytest.approx((model.eval()(x) - 2 * x).mean().item(), rel=1e-5)


def test_masks_are_taken_from_the_batch():
    model, x, mask = nn.Sequential(nn.BatchNorm1d(3), BatchNorm1d(3)), rows(), torch.arange(11) % 3 > 0
    through = passes(model, mask=1)
    with through.borrowed_model():
        result = through.run(list(zip(x.split(4), mask.split(4), strict=True)))
        assert_measured(result.moments[0], x[mask])
        assert float(result.moments[1].count) == mask.sum()
        with pytest.raises(InputError, match="mask: expected"):
            through.run([x])


def test_a_layer_that_is_not_called_has_no_moments():
    model = nn.Sequential(nn.BatchNorm1d(3))
    through = Passes(model, (*measurable_layers(model).layers, MeasuredLayer("spare", nn.BatchNorm1d(3))))
    with through.borrowed_model():
        result = through.run([rows()])
        assert result.moments[0] is not None
        assert result.moments[1] is None
        nothing = through.run([])
    assert (nothing.moments, nothing.samples) == ((None, None), 0)


@pytest.mark.parametrize(
    ("batch", "samples"),
    [({"input": torch.ones(5, 3)}, 5), ((torch.ones(4, 3), torch.zeros(2)), 4), (torch.ones(6, 3), 6)],
    ids=["dict", "tuple", "tensor"],
)
def test_the_first_tensor_of_a_batch_tells_its_samples(batch, samples):
    through = passes(nn.BatchNorm1d(3))
    with through.borrowed_model():
        assert through.run([batch]).samples == samples


# Samples of batches.


@pytest.mark.parametrize(
    ("number", "kept"), [(1, [0]), (41, [0, 40]), (320, [*range(0, 320, 40)]), (321, [0, 80, 160, 240, 320])]
)
def test_a_sample_is_spread_over_batches_of_unknown_number(number, kept):
    sample = BatchSample()
    for index in range(number):
        sample.add(index, index)
    assert sample.batches == kept


def test_a_sample_never_grows_beyond_its_bound():
    sample = BatchSample()
    for index in range(10_000):
        assert (sample.add(index, index) is not None) == (index in sample.batches)
        assert len(sample.batches) <= 8
    assert len({after - before for before, after in pairwise(sample.batches)}) == 1
    assert sample.batches[-1] >= 7_000


def test_the_result_of_a_sample_is_that_of_its_batches_alone():
    layer, other = MeasuredLayer("a", nn.BatchNorm1d(3)), MeasuredLayer("b", nn.BatchNorm1d(3))
    sample, batches = BatchSample(), torch.randn(90, 5, 3)
    for index, batch in enumerate(batches):
        entry = sample.add(index, batch)
        if entry is not None:
            entry.append((layer, moments(batch)))
    result = sample.result([layer, other])
    assert_measured(result.moments[0], batches[[0, 40, 80]].flatten(0, 1))
    assert result.moments[1] is None


def test_every_call_of_every_batch_can_be_kept():
    norm = nn.BatchNorm1d(1)
    model = nn.Sequential(norm, norm)
    calls = EveryCall()
    passes = Passes(model, measurable_layers(model).layers)
    with passes.borrowed_model():
        passes.run([torch.randn(4, 1), torch.randn(2, 1)], rule=batch_statistics, sample=calls)
    assert [[float(moments.count) for _, moments in batch] for batch in calls.batches] == [[4, 4], [2, 2]]


def test_what_a_pass_keeps_of_a_batch_is_one_piece_of_memory():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 5), nn.BatchNorm1d(5))
    calls = EveryCall()
    passes = Passes(model, measurable_layers(model).layers)
    with passes.borrowed_model():
        passes.run([torch.randn(4, 3)], rule=batch_statistics, sample=calls)
    tensors = [value for _, part in calls.batches[0] for value in part if isinstance(value, torch.Tensor)]
    assert len(tensors) == 6
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1


def test_a_prepared_model_only_changes_its_modes():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(1)).train()
    with Passes(model, measurable_layers(model).layers, dropout=True).prepared_model():
        assert [module.training for module in model] == [True, False]
        assert not torch.is_grad_enabled()
