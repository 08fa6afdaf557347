"""Shifted test inputs: the edits that shift them, and the probe that evaluates a network on them."""

from __future__ import annotations

import copy
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normsmith import surgery
from normsmith.studies.data_edits import features_of, generator, with_inputs
from normsmith.studies.names import named
from normsmith.tasks import Task, evaluating, metric

SHIFTS = ("contrast", "brightness", "blur", "noise", "invert")


@named("shift-test-inputs")
def shift_test(task: Task, how: str) -> Task:
    """Shift the inputs of the test split; training and validation stay. m, SD, low and high are those of training.

    - "contrast": a quarter of it, m + (x − m) / 4;
    - "brightness": x + SD;
    - "blur": each value is the mean of itself and its two neighbours along the last axis;
    - "noise": x + SD / 2 times standard normal noise;
    - "invert": low + high − x.
    """
    inputs = features_of(task)
    mean, spread = inputs.mean(), inputs.std()
    low, high = inputs.aminmax()

    def shifted(x: Tensor) -> Tensor:
        if how == "contrast":
            return mean + (x - mean) / 4
        if how == "brightness":
            return x + spread
        if how == "blur":
            return F.avg_pool1d(x.flatten(0, -2)[:, None], 3, 1, 1, count_include_pad=False).reshape(x.shape)
        if how == "noise":
            return x + spread / 2 * torch.randn(x.shape, generator=generator()).to(x)
        return low + high - x

    return with_inputs(task, lambda x, split: shifted(x) if split == "test" else x)


@named("shifted-metrics")
def shifted_metrics(model: nn.Module, task: Task) -> dict[str, float]:
    """The test metric on inputs that are shifted in each way, by the statistics of training and by adapted ones.

    Adapted are those of the shifted inputs themselves, as batch norm would normalise them in training.
    """
    replica, values = copy.deepcopy(model), {}
    with evaluating(replica):
        for how in SHIFTS:
            shifted = _shifted(task, how)
            values[f"{how}, source"] = metric(shifted, replica, "test")
            with surgery.adapt(replica, prior=0.0):
                values[f"{how}, adapted"] = metric(shifted, replica, "test")
    return values


@lru_cache(maxsize=16)
def _shifted(task: Task, how: str) -> Task:
    """One task for all trials, so that its batches are collated once."""
    return shift_test(task, how)
