"""One small training run of the embedded digits, and what the explorer page shows of it, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from normsmith import measure, surgery
from normsmith.errors import SurgeryError
from normsmith.layers import init
from normsmith.tasks import Task
from normsmith.tasks.build import build
from normsmith.tasks.data import batches, evaluating
from normsmith.tasks.digits import digits_mlp

SEED = 0
STEPS = 200
POPULATION = 1024
"""Training samples that stand for all of them: every batch size divides their number."""
EVALUATED = (0, 1, 3, 6, 10, 15, 20, 30, 45, 60, 80, 110, 150, 200)
TRACED = tuple(range(1, STEPS + 1, 4))
PROBED = (0, 10, 50, 180)
MULTIPLES = tuple(k / 4 for k in range(17))
"""How far the loss is followed along the negative gradient: in steps of the run's learning rate."""
MOMENTA = (0.01, 0.1, 0.5)
TRACKED = ("batch", "renorm")
"""The norms that have running statistics."""


@dataclass(frozen=True)
class Setting:
    """Where the page's controls stand for one run.

    Attributes:
        norm: "none", or what `surgery.insert` calls it.
        where: "before" or "after" every activation; "" without a norm.
        batch: samples in a batch.
        rate: the learning rate.
        gain: a factor on the initial weights of the hidden layers.
    """

    norm: str
    where: str
    batch: int
    rate: float
    gain: float = 1.0

    @property
    def key(self) -> str:
        """The name of its run in the data: `batch/before/64/0.25/1`."""
        return f"{self.norm}/{self.where}/{self.batch}/{self.rate:g}/{self.gain:g}"


Tensors = Mapping[str, Tensor]
Moments = tuple[Tensor, Tensor]
"""Mean and unbiased variance by channel."""


class Watched:
    """A network, and what went into and came out of each of its norms in the last forward.

    Without norms the activations are watched in their place: what would be normalised.
    """

    def __init__(self, setting: Setting, steps: int) -> None:
        self.setting, self.task = setting, replace(digits_mlp(), batch_size=setting.batch)
        self.model = network(setting, self.task, steps)
        kinds = (nn.ReLU,) if setting.norm == "none" else (nn.BatchNorm1d, nn.LayerNorm, nn.GroupNorm)
        self.paths = [path for path, module in self.model.named_modules() if isinstance(module, kinds)]
        self.signals: dict[str, tuple[Tensor, Tensor]] = {}
        for path in self.paths:
            self.model.get_submodule(path).register_forward_hook(self._keep(path))

    def _keep(self, path: str) -> Any:
        def keep(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            self.signals[path] = inputs[0].detach(), output.detach()

        return keep

    def state(self) -> dict[str, Tensor]:
        """Parameters as they are, and copies of the buffers, so that a forward with them updates nothing."""
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        return {**dict(self.model.named_parameters()), **buffers}

    def iterate(self, batch: Any) -> measure.Iterate:
        """Where the network stands now, on a batch."""
        return measure.Iterate(self.model, batch, lambda model, pair: self.task.loss(model(pair[0]), pair[1]))

    def test(self, state: Tensors) -> tuple[float, float]:
        """Loss and accuracy on the test split."""
        return self.split("test", state)

    def split(self, name: str, state: Tensors) -> tuple[float, float]:
        """Loss and accuracy on a split."""
        images, labels = _tensors(self.task, name)
        with torch.no_grad():
            output = functional_call(self.model, dict(state), (images,))
        return float(self.task.loss(output, labels)), float(self.task.metric(output, labels))

    def population(self) -> dict[str, tuple[Tensor, Tensor]]:
        """What goes into each norm, and comes out, over the training set in the batches of training."""
        images, _ = _tensors(self.task, "train")
        with torch.no_grad():
            functional_call(self.model, self.state(), (images[:POPULATION],))
        return dict(self.signals)


def network(setting: Setting, task: Task, steps: int) -> nn.Module:
    """The digits' network with He's initial weights, scaled by the gain, and with its norms."""
    model = build(task, SEED)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        init.he_(model)
        *hidden, _ = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        for layer in hidden:
            layer.weight.mul_(setting.gain)
    if setting.norm == "none":
        return model
    # a batch is one ghost batch; a whole split in training mode is normalised in parts as large as a batch
    options: dict[str, Any] = {"ghost_batch_size": setting.batch} if setting.norm in TRACKED else {}
    if setting.norm == "renorm":
        options["total_steps"] = steps
    return surgery.insert(model, setting.norm, setting.where, **options).apply()


class Averages:
    """The running statistics that a momentum gives: training does not depend on them, so one run has several."""

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.values: dict[str, Moments] = {}

    def update(self, moments: Mapping[str, Moments]) -> None:
        """Move every layer's mean and variance towards those of a batch."""
        for path, new in moments.items():
            old = self.values.get(path, (torch.zeros_like(new[0]), torch.ones_like(new[1])))
            mean, variance = (torch.lerp(a, b, self.momentum) for a, b in zip(old, new, strict=True))
            self.values[path] = mean, variance

    def into(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state with these statistics in place of the layers' own."""
        for path, (mean, variance) in self.values.items():
            state |= {f"{path}.running_mean": mean, f"{path}.running_var": variance}
        return state


def moments(signals: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Moments]:
    """Mean and variance of what went into each norm."""
    return {path: (x.mean(0), x.var(0)) for path, (x, _) in signals.items()}


def measured(setting: Setting, steps: int = STEPS) -> dict[str, Any]:
    """Train once, and return what the page shows of it: numbers rounded, None for what is not finite.

    Plain gradient descent. `train` and `evaluation` hold losses and accuracies on the test split at the steps
    `EVALUATED`, the latter by momentum; `batch`, `running` and `population` mean and standard deviation of one
    channel of the second norm; `landscape` losses along the negative gradient at the steps `PROBED`.
    """
    watched = Watched(setting, steps)
    model, record = watched.model, Record(watched)
    optimizer = torch.optim.SGD(model.parameters(), setting.rate)
    stream = batches(watched.task, torch.Generator().manual_seed(SEED))
    diverged = None
    for step in range(steps + 1):
        if step in EVALUATED or step == steps:
            record.evaluate()
        batch = next(stream)
        if step in PROBED:
            record.probe(batch)
        if step == steps:
            diverged = None if math.isfinite(record.train[-1][0]) else steps
            break
        loss = watched.task.loss(model(batch[0]), batch[1])
        if not math.isfinite(loss.item()):
            diverged = step
            break
        record.step(step + 1)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return record.kept(diverged)


class Record:
    """What is measured along one run."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        tracked = watched.setting.norm in TRACKED
        only = watched.setting.norm == "renorm" or watched.setting.gain != 1
        momenta = ((0.1,) if only else MOMENTA) if tracked else ()
        self.averages = [Averages(momentum) for momentum in momenta]
        self.middle = watched.paths[1]
        self.train: list[tuple[float, float]] = []
        self.evaluation: dict[float, list[tuple[float, float]]] = {momentum: [] for momentum in momenta}
        self.batch: list[Moments] = []
        self.running: dict[float, list[Moments]] = {momentum: [] for momentum in momenta}
        self.inside: list[Moments] = []
        self.outside: list[Moments] = []
        self.landscape: list[list[float]] = []
        self.beta: list[float] = []
        self.agreement: list[float] = []

    def evaluate(self) -> None:
        """The test split in both modes, and the population of the norms."""
        self.train.append(self.watched.test(self.watched.state()))
        with evaluating(self.watched.model):
            for averages in self.averages:
                state = averages.into(self.watched.state())
                self.evaluation[averages.momentum].append(self.watched.test(state))
        x, y = self.watched.population()[self.middle]
        self.inside.append((x.mean(0), x.var(0)))
        self.outside.append((y.mean(0), y.var(0)))

    def step(self, step: int) -> None:
        """The statistics of the batch that was just run."""
        of_batch = moments(self.watched.signals)
        for averages in self.averages:
            averages.update(of_batch)
        if step in TRACED:
            self.batch.append(of_batch[self.middle])
            for averages in self.averages:
                self.running[averages.momentum].append(averages.values[self.middle])

    def probe(self, batch: Any) -> None:
        """The loss along the negative gradient, and whether a gradient is right once the layers below have moved."""
        iterate, rate = self.watched.iterate(batch), self.watched.setting.rate
        along = measure.smoothness(iterate, rate, multiples=MULTIPLES[1:])
        self.landscape.append([along.loss, *along.losses])
        self.beta.append(along.beta)
        shifts = measure.internal_covariate_shift(iterate, rate)
        linear = [
            path for path, module in self.watched.model.named_modules() if isinstance(module, nn.Linear)
        ]
        self.agreement.append(shifts[linear[2]].cosine)

    def kept(self, diverged: int | None) -> dict[str, Any]:
        """All of it, of one channel, rounded."""
        channel = self.channel()
        kept: dict[str, Any] = {
            "diverged": diverged,
            "train": curves(self.train),
            "evaluation": {f"{m:g}": curves(values) for m, values in self.evaluation.items()},
            "batch": traces(self.batch, channel),
            "running": {f"{m:g}": traces(values, channel) for m, values in self.running.items()},
            "population": traces(self.inside, channel),
            "output": traces(self.outside, channel) if self.watched.setting.norm != "none" else None,
            "landscape": [rounded(losses) for losses in self.landscape],
            "beta": rounded(self.beta),
            "agreement": rounded(self.agreement),
        }
        if diverged is None:
            kept |= self.at_the_end()
        return kept

    def channel(self) -> int:
        """A channel that is alive: the one whose standard deviation at the end is the median of those above zero."""
        deviations = self.inside[-1][1].nan_to_num(0.0, 0.0, 0.0)
        alive = [int(i) for i in deviations.argsort() if deviations[i] > 0]
        return alive[len(alive) // 2] if alive else 0

    def at_the_end(self) -> dict[str, Any]:
        """Accuracies of the finished network: on its training data, and with statistics measured anew."""
        watched = self.watched
        with evaluating(watched.model):
            states = [averages.into(watched.state()) for averages in self.averages] or [watched.state()]
            on_train = [percent(watched.split("train", state)[1]) for state in states]
            names = [f"{averages.momentum:g}" for averages in self.averages] or ["any"]
        kept: dict[str, Any] = {"on training data": dict(zip(names, on_train, strict=True))}
        if self.averages:
            images, _ = _tensors(watched.task, "train")
            noise = measure.normalisation_noise(watched.model, [images[:POPULATION]])
            kept["noise"] = rounded([noise[self.middle]])[0]
            kept["measured anew"] = None
            with suppress(SurgeryError):  # statistics of a network that is about to diverge are not finite
                anew = list(torch.split(images[:POPULATION], 256))
                surgery.recalibrate(watched.model, anew, gap="none").apply()
                with evaluating(watched.model):
                    kept["measured anew"] = percent(watched.test(watched.state())[1])
        return kept


def _tensors(task: Task, split: str) -> tuple[Tensor, Tensor]:
    tensors: tuple[Tensor, Tensor] = task.dataset(split).tensors  # type: ignore[attr-defined]
    return tensors


def curves(values: Sequence[tuple[float, float]]) -> dict[str, list[float | None]]:
    """Losses and accuracies as two lists."""
    return {
        "loss": rounded([loss for loss, _ in values]),
        "accuracy": [percent(share) for _, share in values],
    }


def traces(values: Sequence[Moments], channel: int) -> dict[str, list[float | None]]:
    """Mean and standard deviation of one channel as two lists."""
    means = [float(mean[channel]) for mean, _ in values]
    deviations = [math.sqrt(float(variance[channel])) for _, variance in values]
    return {"mean": rounded(means), "deviation": rounded(deviations)}


def percent(share: float) -> float:
    return round(100 * share, 1)


def rounded(values: Sequence[float]) -> list[float | None]:
    """Three significant digits; None for what is not finite."""
    return [float(f"{value:.3g}") if math.isfinite(value) else None for value in values]
