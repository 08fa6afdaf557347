"""Layers in one line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normsmith.anatomy.describe import describe_layer, describe_module, label
from normsmith.anatomy.graph import Event
from normsmith.anatomy.trace import trace
from normsmith.layers import BatchNorm1d, BatchNormAct2d, BatchRenorm1d


def frozen() -> BatchNorm1d:
    layer = BatchNorm1d(4)
    layer.freeze()
    return layer


class FrozenNorm(nn.Module):
    """A norm of somebody's, known by its buffers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(6))


def opens_at_once(step):
    return 3.0, 5.0


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (nn.BatchNorm2d(8), "nn.BatchNorm2d(8)"),
        (BatchNorm1d(8), "BatchNorm1d(8)"),
        (nn.LazyBatchNorm1d(), "nn.LazyBatchNorm1d()"),
        (nn.GroupNorm(2, 8), "nn.GroupNorm(8, num_groups=2)"),
        (BatchNorm1d(8, ghost_batch_size=16), "BatchNorm1d(8, ghost_batch_size=16)"),
        (BatchNorm1d(8, process_group="world"), "BatchNorm1d(8, process_group='world')"),
        (BatchRenorm1d(8, total_steps=100), "BatchRenorm1d(8, total_steps=100)"),
        (BatchRenorm1d(8, schedule="crossq"), "BatchRenorm1d(8, schedule=crossq)"),
        (
            BatchRenorm1d(8, schedule=opens_at_once, track="std"),
            "BatchRenorm1d(8, schedule=opens_at_once, track=std)",
        ),
        (BatchRenorm1d(8, total_steps=9, momentum=None), "BatchRenorm1d(8, total_steps=9, momentum=None)"),
        (nn.BatchNorm2d(8, momentum=0.0123456789), "nn.BatchNorm2d(8, momentum=0.0123457)"),
        (BatchNormAct2d(8, activation="relu"), "BatchNormAct2d(8, activation='relu')"),
        (frozen(), "BatchNorm1d(4, frozen)"),
        (FrozenNorm(), "FrozenNorm(6)"),
        (nn.Linear(3, 5), "Linear(3, 5)"),
        (nn.ConvTranspose2d(3, 5, 2, groups=1), "ConvTranspose2d(3, 5)"),
    ],
)
def test_layers_are_told_by_class_channels_and_unusual_settings(layer, text):
    assert describe_layer(layer) == text


def test_a_process_group_is_named_and_not_printed():
    layer = BatchNorm1d(8)
    layer.process_group = object()
    assert describe_layer(layer) == "BatchNorm1d(8, process_group)"


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (nn.GroupNorm(2, 8), "nn.GroupNorm(8, num_groups=2)"),
        (nn.LayerNorm(8), str(nn.LayerNorm(8))),
        (nn.Linear(3, 5), "Linear(in_features=3, out_features=5, bias=True)"),
        (nn.Sequential(nn.ReLU(), nn.ReLU()), "Sequential"),
    ],
)
def test_any_module_has_one_line(module, text):
    assert describe_module(module) == text
    assert "\n" not in describe_module(module)


def test_a_call_is_found_in_the_code_by_its_words():
    graph = trace(nn.Sequential(nn.Linear(3, 6), nn.ReLU()))
    assert [label(e) for e in graph.events] == ["the model's input", "Linear 0", "ReLU 1"]
    assert label(Event(0, "function", "", "relu")) == "the function relu in the forward of the model"
