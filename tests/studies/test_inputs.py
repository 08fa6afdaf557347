"""Raw inputs and their preparation."""

import pytest
import torch
from tests.studies.tiny import elman, make, table, task
from torch import nn

from normsmith.errors import StudyError
from normsmith.layers import BatchNorm1d, BatchNorm2d
from normsmith.studies import select
from normsmith.studies.data_edits import tensors
from normsmith.studies.inputs import (
    correlate,
    distort,
    norm_first,
    prepare,
    standardise_outside,
    standardised_outside,
)
from normsmith.studies.lab import Lab
from normsmith.studies.shifts import shift_test
from normsmith.tasks import build

TRAIN = tensors(task, "train")[0]


def inputs(changed, split="train"):
    return tensors(changed, split)[0]


def images(name="images"):
    data = {
        split: (torch.randn(64, 2, 4, 4), torch.zeros(64, dtype=torch.long))
        for split in ("train", "validation", "test")
    }
    return make(name, **data)


def test_raw_scales_are_one_unit_a_feature_the_same_in_every_split():
    changed = distort(task, "scales")
    for split in ("train", "test"):
        ratio = inputs(changed, split) / tensors(task, split)[0]
        assert torch.allclose(ratio, ratio[:1].expand_as(ratio), rtol=1e-4)
    units = (inputs(changed) / TRAIN)[0].abs()
    assert units.sort().values.log10().tolist() == pytest.approx([-3.0, -1.8, -0.6, 0.6, 1.8, 3.0], abs=1e-4)


def test_tails_are_heavy_and_keep_the_order():
    changed = inputs(distort(task, "tails"))
    assert torch.equal(changed.argsort(0), TRAIN.argsort(0))
    standard = (changed - changed.mean()) / changed.std()
    assert standard.pow(4).mean() > 10 * ((TRAIN - TRAIN.mean()) / TRAIN.std()).pow(4).mean()


def test_one_value_in_a_hundred_is_an_outlier():
    changed = inputs(distort(task, "outliers"))
    far = changed != TRAIN
    assert 0.003 < far.float().mean() < 0.03
    assert torch.allclose((changed[far] - TRAIN.mean()).abs() / TRAIN.std(), torch.tensor(100.0))


def test_correlated_inputs_have_the_condition_asked_for_and_keep_their_size():
    changed = correlate(task, 100.0)
    mix = torch.linalg.lstsq(TRAIN.double(), inputs(changed).double()).solution
    values = torch.linalg.svdvals(mix)
    assert values[0] / values[-1] == pytest.approx(100.0, rel=1e-3)
    assert values.square().mean() == pytest.approx(1.0, rel=1e-3)
    assert inputs(correlate(images(), 10.0)).shape == (64, 2, 4, 4)


def test_a_scaler_undoes_raw_scales():
    assert torch.allclose(
        inputs(prepare(distort(task, "scales"), "standard"), "test"),
        inputs(prepare(task, "standard"), "test"),
        atol=1e-4,
    )
    fitted = inputs(prepare(task, "standard"))
    assert torch.allclose(fitted.mean(0), torch.zeros(6), atol=1e-5)
    assert torch.allclose(fitted.std(0, correction=0), torch.ones(6), atol=1e-5)


def test_a_constant_feature_is_centred():
    constant = make("constant", train=(torch.full((64, 6), 3.0), torch.zeros(64, dtype=torch.long)))
    assert torch.equal(inputs(prepare(constant, "standard")), torch.zeros(64, 6))


def test_a_quantile_transform_makes_tails_normal():
    made = inputs(prepare(distort(task, "tails"), "quantile"))
    assert made[made.abs() < 5].abs().max() < 4
    assert made.median(0).values.abs().max() < 0.1
    pictures = images()
    made, raw = inputs(prepare(pictures, "quantile")), inputs(pictures)
    assert made.shape == raw.shape
    assert torch.equal(made[:, 1].flatten().argsort(), raw[:, 1].flatten().argsort()), "by channel"


def test_a_batch_norm_comes_before_the_network():
    model = norm_first(nn.Linear(6, 3), task)
    assert [type(child) for child in model] == [BatchNorm1d, nn.Linear]
    assert type(norm_first(nn.Identity(), images())[0]) is BatchNorm2d
    deep = make("deep", train=(torch.zeros(64, 1, 1, 1, 1, 1), torch.zeros(64, dtype=torch.long)))
    with pytest.raises(StudyError, match="got 6"):
        norm_first(nn.Identity(), deep)


def labelled(inputs, **changes):
    return make("labelled", train=(inputs, torch.zeros(len(inputs), dtype=torch.long)), **changes)


CHANGES = {
    "scales": lambda task: distort(task, "scales"),
    "tails": lambda task: distort(task, "tails"),
    "correlate": lambda task: correlate(task, 10.0),
    "standard": lambda task: prepare(task, "standard"),
    "norm first": lambda task: norm_first(nn.Identity(), task),
    "shift": lambda task: shift_test(task, "contrast"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize(
    "inputs", [torch.zeros(64, 6, dtype=torch.long), torch.zeros(64)], ids=["words", "flat"]
)
def test_inputs_that_are_no_features_are_refused_by_every_edit(change, inputs):
    with pytest.raises(StudyError, match="in floating point, which this question can change; got shape"):
        change(labelled(inputs))


@pytest.mark.parametrize("change", ["scales", "correlate"])
def test_one_feature_differs_from_no_other(change):
    with pytest.raises(StudyError, match=r"at least 2 features, .* got shape \(64, 1, 4, 4\)"):
        CHANGES[change](labelled(torch.randn(64, 1, 4, 4)))


@pytest.mark.parametrize("change", ["scales", "tails", "correlate", "standard", "norm first"])
def test_time_is_taken_for_no_feature(change):
    with pytest.raises(StudyError, match="for a recurrent network, in which it is time"):
        CHANGES[change](labelled(torch.randn(64, 3, 2), model=elman))


def test_a_norm_before_a_network_is_where_the_network_is():
    (norm, _) = norm_first(nn.Linear(6, 3, dtype=torch.float64, device="meta"), task)
    assert {(t.device.type, t.dtype) for t in (norm.weight, norm.running_var)} == {("meta", torch.float64)}


def test_what_a_network_standardises_itself_is_standardised_outside_it():
    moved = standardise_outside(table)
    raw, standard = inputs(table), inputs(moved)
    assert torch.equal(standard, (raw - 0.5) / 2.0)
    torch.testing.assert_close(build(moved, 3)(standard), build(table, 3)(raw))
    torch.testing.assert_close(build(moved, 3)(raw), build(table, 3)[1:](raw))  # nothing standardises within
    assert standardise_outside(task) is task
    assert standardised_outside(task) == ()


@pytest.mark.parametrize("name", ["data-preparation", "whitening", "shifted-inputs"])
def test_questions_that_change_inputs_leave_no_standardising_within(name):
    (question,) = select((name,))
    arms = {trial.arm for trial in next(question.ask(Lab(table, (0,), "quick", 10)))}
    assert all(arm.data[0].function is standardise_outside for arm in arms)
