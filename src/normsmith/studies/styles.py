"""Data in two styles: half of the samples inverted, with less contrast, and brighter, and which ones is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from normsmith.layers.domains import HasDomains, use_domain
from normsmith.studies.data_edits import features_of, generator, tensors
from normsmith.studies.names import named
from normsmith.tasks import Task
from normsmith.tasks.task import SPLITS

CONTRAST, BRIGHTER = -0.5, 1.0
"""The second style: so much of each value's distance to the mean of all, moved by so many standard deviations."""


@dataclass(frozen=True)
class InStyles:
    """A task's forward, for batches that tell the style of each sample: the domain of norms that have domains."""

    forward: Callable[[nn.Module, Any], tuple[Any, Any]]

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Any, Any]:
        inputs, styles, target = batch
        if not any(isinstance(module, HasDomains) for module in model.modules()):
            return self.forward(model, (inputs, target))
        with use_domain(model, styles):
            return self.forward(model, (inputs, target))


@named("two-styles")
def two_styles(task: Task) -> Task:
    """Give half of the samples of every split, drawn at random, a second style; batches say which (0 or 1).

    The second style of a value x is mean − (x − mean)/2 + SD, mean and standard deviation those of all training values.

    Raises:
        StudyError: a split is no pair of tensors, or its inputs are not floating point numbers.
    """
    train = features_of(task)
    mean, spread, draw = train.mean(), train.std(), generator()
    splits: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for split in SPLITS:
        inputs, targets = features_of(task, split), tensors(task, split)[1]
        styles = (torch.randperm(len(inputs), generator=draw) % 2).to(inputs.device)
        second = mean + CONTRAST * (inputs - mean) + BRIGHTER * spread
        mixed = torch.where((styles == 1).view(-1, *(1,) * (inputs.dim() - 1)), second, inputs)
        splits[split] = (mixed, styles, targets)
    return replace(task, **splits, forward=InStyles(task.forward))  # type: ignore[arg-type]


@named("styles-standardised")
def styles_standardised(task: Task) -> Task:
    """Bring each style of a task in two styles to mean 0 and standard deviation 1, those of its training samples.

    Norms for each style do this, and more, inside of the network; here any network is told as much beforehand.
    """
    inputs, styles, _ = task.dataset("train")[:]
    each = [inputs[styles == style] for style in (0, 1)]
    means, spreads = (torch.stack([measure(x) for x in each]) for measure in (torch.mean, torch.std))
    splits: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for split in SPLITS:
        inputs, styles, targets = task.dataset(split)[:]
        mean, spread = (value[styles].view(-1, *(1,) * (inputs.dim() - 1)) for value in (means, spreads))
        splits[split] = ((inputs - mean) / spread, styles, targets)
    return replace(task, **splits)  # type: ignore[arg-type]
