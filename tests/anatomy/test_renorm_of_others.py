"""Renorm layers of other libraries are known by their names, and read with their own settings."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.foreign import MovingAverages, Sb3BatchRenorm1d, TorchrlBatchRenorm1d, used
from torch import nn

from normsmith import layers
from normsmith.anatomy import Refusal
from normsmith.anatomy.renorm_of_others import library_of, read_renorm


class Renorm(Sb3BatchRenorm1d):
    """A copy in somebody's own code."""


class BatchRenormPlus(TorchrlBatchRenorm1d):
    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.extra = nn.Parameter(torch.ones(features))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (Sb3BatchRenorm1d(6), "sb3-contrib"),
        (Renorm(6), "sb3-contrib"),
        (TorchrlBatchRenorm1d(6), "torchrl"),
        (BatchRenormPlus(6), None),
        (MovingAverages(6), None),
        (nn.BatchNorm1d(6), None),
        (layers.BatchRenormAct1d(6), None),
    ],
)
def test_a_library_is_known_by_class_tensors_and_settings(module, name):
    library = library_of(module)
    assert (None if library is None else library.name) == name


def test_settings_are_those_of_the_layer():
    module = used(Sb3BatchRenorm1d(6, warmup_steps=50))
    module.rmax, module.momentum = 2.0, 0.05
    norm = read_renorm(module, library_of(module))
    assert (norm.features, norm.dimensions, norm.eps, norm.momentum) == (6, 1, 1e-3, 0.05)
    schedule = norm.renorm["schedule"]
    assert (schedule.r_max, schedule.d_max, schedule.start) == (2.0, 5.0, 51)
    assert norm.tensors["weight"] is module.scale
    assert norm.tensors["running_var"] is module.ra_var
    assert norm.tensors["num_batches_tracked"] is module.steps


def test_without_affine_the_parameters_that_it_holds_are_not_used():
    module = used(Sb3BatchRenorm1d(6, affine=False))
    norm = read_renorm(module, library_of(module))
    assert not norm.affine
    assert norm.tensors["bias"] is None


@pytest.mark.parametrize("make", [Sb3BatchRenorm1d, TorchrlBatchRenorm1d])
def test_statistics_that_are_none_are_refused(make):
    module = make(6)
    getattr(module, "ra_var" if make is Sb3BatchRenorm1d else "running_var")[0] = -1.0
    refusal = read_renorm(module, library_of(module))
    assert isinstance(refusal, Refusal)
    assert refusal.reason.startswith("its running_var is negative in 1 of 6 channels")


def test_without_values_it_cannot_be_tried():
    module = TorchrlBatchRenorm1d(6).to("meta")
    assert "on the meta device" in read_renorm(module, library_of(module)).reason
