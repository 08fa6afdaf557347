"""Shifted test inputs, and what adapted statistics make of them."""

import copy

import pytest
import torch
from tests.studies.tiny import make, task
from torch import nn

from normsmith.studies.arms import normalized
from normsmith.studies.data_edits import tensors
from normsmith.studies.shifts import SHIFTS, shift_test, shifted_metrics
from normsmith.tasks import evaluate

TRAIN, TEST = tensors(task, "train")[0], tensors(task, "test")[0]
MEAN, SD = TRAIN.mean(), TRAIN.std()


def shifted(how, of=task):
    return tensors(shift_test(of, how), "test")[0]


@pytest.mark.parametrize("how", SHIFTS)
def test_test_inputs_alone_are_shifted_and_the_same_each_time(how):
    changed = shift_test(task, how)
    for split in ("train", "validation"):
        assert torch.equal(tensors(changed, split)[0], tensors(task, split)[0])
    assert not torch.equal(shifted(how), TEST)
    assert torch.equal(shifted(how), shifted(how))


def test_shifts_are_what_they_are_called():
    assert torch.allclose(shifted("contrast") - MEAN, (TEST - MEAN) / 4, atol=1e-6)
    assert torch.allclose(shifted("brightness") - TEST, SD.expand_as(TEST), atol=1e-5)
    assert torch.allclose(shifted("invert") + TEST, (TRAIN.min() + TRAIN.max()).expand_as(TEST), atol=1e-5)
    assert (shifted("noise") - TEST).std().item() == pytest.approx(SD.item() / 2, rel=0.1)


def test_blur_is_the_mean_of_neighbours_along_the_last_axis():
    images = torch.zeros(64, 1, 4, 4)
    images[..., 1] = 3.0
    data = images, torch.zeros(64, dtype=torch.long)
    ramp = make("ramp", train=data, validation=data, test=data)
    assert shifted("blur", ramp)[0, 0, 0].tolist() == [1.5, 1.0, 1.0, 0.0]


def test_adaptation_undoes_a_shift_of_all_means_and_leaves_the_network_as_it_was():
    torch.manual_seed(0)
    model = normalized(None).build(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), task).eval()
    before = copy.deepcopy(model.state_dict())
    measured = shifted_metrics(model, task)
    assert set(measured) == {f"{how}, {by}" for how in SHIFTS for by in ("source", "adapted")}
    assert measured["brightness, source"] == evaluate(shift_test(task, "brightness"), model, "test")[1]
    assert measured["brightness, adapted"] == pytest.approx(measured["contrast, adapted"], abs=0.03)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
