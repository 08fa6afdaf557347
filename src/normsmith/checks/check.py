"""`normsmith.check`: what is wrong with a network's normalization."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from normsmith._choices import check_choice
from normsmith.anatomy.locations import check_changeable
from normsmith.checks.batches import MOST, Sizes
from normsmith.checks.context import Context, Pair, pair
from normsmith.checks.engine import run
from normsmith.checks.findings import Findings
from normsmith.checks.registry import chosen_rules
from normsmith.checks.rule import LEVELS, Level
from normsmith.errors import InputError
from normsmith.tasks import Task, seeded
from normsmith.tasks import batches as training_batches


def check(
    model: nn.Module,
    batches: Iterable[Any] | None = None,
    *,
    loss: Callable[[Any, Any], Any] | None = None,
    optimizer: Optimizer | None = None,
    validate: Callable[[nn.Module], Any] | None = None,
    training_step: Callable[..., Any] | None = None,
    domain: Callable[[Any], Any] | None = None,
    ema: nn.Module | None = None,
    checkpoint: str | Path | None = None,
    rank_checkpoints: Iterable[str | Path] | None = None,
    level: Level = "standard",
    forward: Pair | None = None,
    metric: Callable[[Any, Any], Any] | None = None,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    prove: bool = False,
) -> Findings:
    """Find what is wrong with the normalization of a model; the model is afterwards as it was.

    The more is handed over, the more rules can look; those that cannot say what they lack. `normsmith rules` lists
    them, `normsmith explain CODE` says what a rule measures, why it matters and how to mend it.

    Args:
        model: any module, in any mode; trained, as it is to be used.
        batches: those it is trained with: a DataLoader, or anything that yields batches. At most 16 are looked at.
            A batch is a tensor, a tuple (input, target), or a dict that the model takes by names.
        loss: `loss(output, target)`, the mean over a batch.
        optimizer: the one that trains the model. It is only looked at.
        validate: `validate(model)`, your own validation.
        training_step: `training_step(model, batches, optimizer)`, what happens within a step of your training.
        domain: `domain(batch)`, where a batch comes from, if the data are of several kinds.
        ema: an averaged copy of the model.
        checkpoint: the file that the weights were loaded from.
        rank_checkpoints: the files that the ranks of a distributed run have saved, one each.
        level: "fast" looks at the network, its settings and buffers; "standard" runs a few batches as well; "deep"
            adds a few training steps on a copy.
        forward: `forward(model, batch)` → (output, target), for batches of another kind.
        metric: `metric(output, target)`, higher is better.
        select, ignore: codes or names of rules, or how codes begin; all rules by default.
        prove: try each fix on a copy: loss and metric in evaluation before and after, on held-back batches.

    Raises:
        InputError: an argument does not fit, with what was expected.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=0.99), nn.ReLU())
    >>> findings = check(model)
    >>> print(findings[0].code, findings[0])
    NS201 1: momentum is 0.99: the running statistics are those of the last 1.02 batches
    >>> findings.fix(model)[1].momentum
    0.01
    """
    check_changeable(model)
    check_choice("level", level, LEVELS)
    _check_provable(prove, level)
    if isinstance(batches, torch.Tensor) or (batches is not None and not isinstance(batches, Iterable)):
        raise InputError(
            f"batches: expected a DataLoader or a list of batches, got {type(batches).__name__}; for a single "
            "batch give [batch]"
        )
    if optimizer is not None and not hasattr(optimizer, "param_groups"):
        raise InputError(f"optimizer: expected an Optimizer of torch, got {type(optimizer).__name__}")
    context = Context(
        model,
        batches,
        loss,
        metric,
        optimizer,
        validate,
        training_step,
        domain,
        ema,
        None if checkpoint is None else Path(checkpoint),
        pair if forward is None else forward,
        rank_checkpoints=None if rank_checkpoints is None else [Path(file) for file in rank_checkpoints],
    )
    return run(chosen_rules(select, ignore), context, level, prove=prove)


def check_task(
    task: Task,
    model: nn.Module,
    *,
    level: Level = "standard",
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    checkpoint: Path | None = None,
    ema: nn.Module | None = None,
    rank_checkpoints: Sequence[Path] | None = None,
    prove: bool = False,
) -> Findings:
    """Find what is wrong with a network of a task, on the task's training batches."""
    _check_provable(prove, level)
    context = Context(
        model,
        TrainingBatches(task),
        task.loss,
        task.metric,
        task.optimizer(model.parameters(), task.learning_rates[0]),
        task.validate,
        task.training_step,
        task.domain,
        ema,
        checkpoint,
        forward=task.forward,
        higher_is_better=task.higher_is_better,
        point=task.point,
        rank_checkpoints=rank_checkpoints,
    )
    return run(chosen_rules(select, ignore), context, level, prove=prove)


def _check_provable(prove: bool, level: Level) -> None:
    if prove and level == "fast":
        raise InputError(
            "prove: fixes are tried on batches, which level fast does not run; expected standard or deep"
        )


class TrainingBatches:
    """As many training batches of a task as are looked at, the same at each iteration.

    >>> from normsmith.tasks import digits_mlp
    >>> len(list(TrainingBatches(digits_mlp())))
    16
    """

    def __init__(self, task: Task) -> None:
        self._task = task

    def sizes(self) -> Sizes:
        """All are of one size: an epoch's incomplete last batch is left out."""
        return Sizes(self._task.batch_size, self._task.batch_size, True)

    def __iter__(self) -> Iterator[Any]:
        with seeded(0, self._task.device):  # a dataset that augments draws from the global state
            stream = training_batches(self._task, torch.Generator().manual_seed(0))
            taken = list(islice(stream, MOST))
        return iter(taken)
