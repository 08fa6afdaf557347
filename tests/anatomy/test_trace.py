"""Following the data through any model, which is as it was afterwards."""

import pytest
import torch
from tests.surgery.networks import HARD, REAL, FunctionalResidual, SharedNorm, UsedTwice, images
from tests.surgery.states import state_of
from torch import nn
from torch.nn import functional as F

from normsmith.anatomy import trace
from normsmith.errors import SurgeryError
from normsmith.surgery.placement.places import hidden_events

NORMS = {"hf-resnet": 8, "hf-regnet": 9, "hf-mobilenet-v2": 52, "hf-efficientnet": 22, "hf-levit": 27}
NORMS |= {"monai-unet": 9, "monai-densenet": 11}
RESIDUALS = {"hf-resnet": 3, "hf-regnet": 2, "hf-mobilenet-v2": 10, "hf-levit": 8, "monai-unet": 5}


@pytest.mark.parametrize("name", REAL)
def test_real_networks_are_seen_whole_and_left_as_they_were(name):
    model = REAL[name].model()
    before = state_of(model)
    graph = trace(model, REAL[name].batch())
    assert state_of(model) == before
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d)]
    assert len(norms) == NORMS[name]
    assert {event.module for event in graph.having("norm")} == set(norms)
    assert len(graph.residuals) == RESIDUALS.get(name, 0)
    assert graph.outputs


@pytest.mark.parametrize("name", HARD)
def test_hard_cases_are_left_as_they_were(name):
    model, batch = HARD[name].model().train(), HARD[name].batch()
    before = state_of(model)
    trace(model, batch)
    assert state_of(model) == before


def names(events):
    return [event.name for event in events]


@pytest.mark.parametrize("batch", [None, images(8)()])
def test_functions_in_place_and_residuals(batch):
    model = FunctionalResidual()
    graph = trace(model, batch)
    assert names(graph.events)[1:] == ["Conv2d", "relu", "Conv2d", "BatchNorm2d", "add", "relu"]
    stem, first, conv, norm, add, last = graph.events[1:]
    assert graph.consumers(stem) == (first,)
    assert graph.consumers(first) == (conv, add)
    assert [event.index for event in graph.having("activation")] == [first.index, last.index]
    (residual,) = graph.residuals
    assert (residual.start, residual.skip, residual.branch, residual.add) == (first, (), (conv, norm), add)
    assert graph.producer(norm) is conv
    assert graph.producer(last) is None
    assert graph.is_output(last)
    assert not graph.is_output(add)
    assert first in hidden_events(graph)
    assert last not in hidden_events(graph)
    assert norm.shape == (None if batch is None else (4, 4, 6, 6))


@pytest.mark.parametrize("batch", [None, images(8)()])
def test_shared_and_reused_modules_are_counted(batch):
    shared = SharedNorm()
    graph = trace(shared, batch)
    assert [names(event.sources) for event in graph.of(shared.norm)] == [["Conv2d"], ["Conv2d"]]
    assert graph.calls[shared.norm] == 2
    assert graph.calls[shared.first] == 1
    twice = UsedTwice()
    graph = trace(twice, batch)
    assert graph.calls[twice.block] == graph.calls[twice.block[1]] == 2
    assert graph.calls[twice] == 1


def test_both_ways_agree_where_both_work():
    for name in ("monai-unet", "monai-densenet"):
        model = REAL[name].model()
        seen, told = trace(model, REAL[name].batch()), trace(model)
        assert [(e.kind, e.path, e.name, [s.index for s in e.sources]) for e in seen.events][1:] == [
            (e.kind, e.path, e.name, [s.index for s in e.sources]) for e in told.events
        ][1:]


def test_a_parameter_that_a_function_uses_is_a_source():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return F.relu(x) + self.shift

    for batch in (None, torch.randn(2, 3)):
        graph = trace(Shifted(), batch)
        assert names(graph.outputs[0].sources) == ["relu", "parameter"]
        assert graph.residuals == ()


def test_a_forward_that_fails_leaves_the_model_alone():
    model = HARD["hooked"].model().train()
    batch = torch.randn(2, 5)
    before = state_of(model)
    with pytest.raises(SurgeryError, match="a forward in evaluation failed on this batch"):
        trace(model, batch)
    with pytest.raises(SurgeryError, match="on the meta device"):
        trace(nn.Linear(2, 2, device="meta"), batch)
    assert state_of(model) == before
