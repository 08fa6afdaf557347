"""Try a task on one batch before a study spends minutes on it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from normsmith._text import count, error_text
from normsmith._torch import leaves_of
from normsmith.errors import TaskError
from normsmith.tasks.build import build, seeded
from normsmith.tasks.calls import users_code
from normsmith.tasks.classes import check_classes
from normsmith.tasks.data import batches, evaluate
from normsmith.tasks.finite import check_finite
from normsmith.tasks.task import SPLITS, Task


def check(task: Task) -> None:
    """Do everything a trial does, once: build, one training step, evaluate validation and test.

    The task and the caller's random state stay as they are.

    Raises TaskError, which says in one line what failed and where: the data (NaN or infinity in a split, training
    targets of a single class), the model factory, the batch, the forward, the loss (not a scalar, not finite, no
    gradient), the optimizer (not of the network's parameters), or the metric (raises, no number, not finite).

    >>> from normsmith.tasks.digits import digits_mlp
    >>> check(digits_mlp())
    """
    model = _model(task)
    for split in SPLITS:
        words = "training" if split == "train" else split
        with seeded(0, task.device), _naming(task, f"the {words} data raised"):
            check_finite(task, split)
    with seeded(0, task.device):
        with _naming(task, "the training data raised"):
            batch = next(batches(task, torch.Generator().manual_seed(0)))
        output, target = _forward(task, model, batch)
        loss = _loss(task, output, target)
        with _naming(task, "the untrained network on the training data raised"):
            check_classes(task, model, output, target)
        _step(task, model, loss)
    for split in ("validation", "test"):
        with _naming(task, f"evaluating the untrained network on {split} raised"):
            _, value = evaluate(task, model, split)
        if not math.isfinite(value):
            raise task.error(
                f"metric is {value} on {split} for the untrained network; return a finite number, also where the "
                "metric is not defined",
            )


def _model(task: Task) -> nn.Module:
    """Build twice: trials need networks of their own, and pairs of trials the same initial weights."""
    model, again = build(task, 0), build(task, 0)
    first, second = (list(chain(m.parameters(), m.buffers())) for m in (model, again))
    if model is again or {id(tensor) for tensor in first} & {id(tensor) for tensor in second}:
        raise task.error(
            "the model factory must build a new network at each call; two calls share parameters"
        )
    lazy = any(nn.parameter.is_lazy(tensor) for tensor in first)
    if not lazy and not all(
        a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in zip(first, second, strict=True)
    ):
        raise task.error(
            "the model factory must draw from torch's, numpy's or Python's global random state; two "
            "calls from one seed gave different weights",
        )
    return model


def _forward(task: Task, model: nn.Module, batch: Any) -> tuple[Any, Any]:
    model.train()
    with _naming(task, f"forward raised on a training batch of {_shapes(batch)}"):
        pair: Any = task.forward(model, batch)
    if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
        raise task.error(f"forward must return (output, target), got {type(pair).__name__}")
    return pair[0], pair[1]


def _loss(task: Task, output: Any, target: Any) -> Tensor:
    with _naming(task, f"loss raised on output {_shapes(output)} and target {_shapes(target)}"):
        loss: Any = task.loss(output, target)
    if not isinstance(loss, Tensor) or loss.ndim:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise task.error(f"loss must return a scalar tensor, got {got}")
    if not torch.isfinite(loss):
        value = float(loss.detach())
        raise task.error(f"loss is {value} from the start, at the initial weights; look at data and loss")
    if not loss.requires_grad:
        raise task.error("loss must depend on the network's parameters, got a tensor without a gradient")
    return loss


def _step(task: Task, model: nn.Module, loss: Tensor) -> None:
    with _naming(task, "the optimizer raised"):
        optimizer: Any = task.optimizer(model.parameters(), task.learning_rates[0])
    if not isinstance(optimizer, Optimizer):
        raise task.error(f"optimizer must return a torch.optim.Optimizer, got {type(optimizer).__name__}")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if held.isdisjoint(map(id, model.parameters())):
        raise task.error(
            f"optimizer must train the parameters that it is called with, got {type(optimizer).__name__} with "
            f"{count(len(held), 'parameter')}, none of them the network's"
        )
    with _naming(task, "the first training step raised"):
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _shapes(batch: Any) -> str:
    """The shapes of the tensors in a batch, for a message.

    >>> _shapes({"x": torch.zeros(2, 3), "y": torch.zeros(2)})
    '(2, 3), (2,)'
    """
    tensors = [leaf for leaf in leaves_of(batch) if isinstance(leaf, Tensor)]
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or type(batch).__name__


@contextmanager
def _naming(task: Task, what: str) -> Iterator[None]:
    with users_code(lambda error: task.error(f"{what} {error_text(error)}"), but=(TaskError,)):
        yield
