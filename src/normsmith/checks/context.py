"""What a user handed over, and the facts about it that rules share: each is made once, when a rule first asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from torch import Tensor, nn
from torch.optim import Optimizer

from normsmith._text import error_text
from normsmith._torch import map_leaves
from normsmith.anatomy.forward import Forward, call, copied, flat, unwrapped
from normsmith.anatomy.graph import Event, Graph
from normsmith.anatomy.trace import trace
from normsmith.checks.batches import Sizes, first_batches, first_rows, rows, sizes
from normsmith.checks.comparison import Comparison, Judge, compared, normalising_by, normalising_by_batches
from normsmith.checks.evaluations import Evaluations
from normsmith.checks.finding import Fix, UnavailableError
from normsmith.checks.inputs import first_inputs
from normsmith.checks.learning import Judged, Losses, Tried
from normsmith.checks.moments import Call, LayerMoments, moments_of_calls, numbered
from normsmith.checks.norms import Norm, norms_of
from normsmith.checks.restore import modes_kept
from normsmith.checks.scales import Scales, scales_of
from normsmith.checks.signals import Signals, signals_of
from normsmith.checks.training import Trainee, TrainingRun, copied_model, training_run, validation_run
from normsmith.checks.watcher import Record
from normsmith.errors import NormsmithError
from normsmith.layers.init import unit_variance_
from normsmith.measure import MeasuredLayer, Statistics, measurable_layers
from normsmith.surgery import recalibrate

T = TypeVar("T")
_FOLLOWED = 2
"""Samples with which a forward is followed."""
Pair = Callable[[nn.Module, Any], tuple[Any, Any]]
"""`forward(model, batch)` → (output, target)."""


class fact(Generic[T]):  # noqa: N801  reads as a property does
    """A property that is computed once; that it cannot be had is remembered as well."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> fact[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> fact[T] | T:
        if instance is None:
            return self
        kept = vars(instance).setdefault("facts", {})
        if self._name not in kept:
            try:
                kept[self._name] = self._compute(instance)
            except UnavailableError as reason:
                kept[self._name] = reason
        value = kept[self._name]
        if isinstance(value, UnavailableError):
            raise UnavailableError(*value.args)
        return value  # type: ignore[no-any-return]


def pair(model: nn.Module, batch: Any) -> tuple[Any, Any]:
    """The usual forward: output and target of a batch (input, target); None as target where there is none.

    The target comes to the device of the output.
    """
    output = call(model, batch)
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        return output, None
    first = next(flat(output), None)
    device = None if first is None else first.device
    return output, map_leaves(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, batch[1])


@dataclass(eq=False)
class Context:
    """What a rule looks at. The fields are what a user handed over; the rest is computed from it when asked for.

    What cannot be had raises `UnavailableError`, which rules let through: they are then not run, with that reason.

    - `forward`: (model, batch) → (output, target).
    - `loss`, `metric`: (output, target) → a number; `point`: a difference of the metric that counts.
    - `validate(model)`, `training_step(model, batches, optimizer)`, `domain(batch)`: the user's own.
    - `data`: the batches, as they were given.
    - `looks_at_data`, `looks_at_training`: whether the level allows to run batches, and to make training steps.
    - `proving`: whether fixes are being tried, so that they may not see the held-back batches.
    """

    model: nn.Module
    data: Iterable[Any] | None = None
    loss: Callable[[Any, Any], Any] | None = None
    metric: Callable[[Any, Any], Any] | None = None
    optimizer: Optimizer | None = None
    validate: Callable[[nn.Module], Any] | None = None
    training_step: Callable[..., Any] | None = None
    domain: Callable[[Any], Any] | None = None
    ema: nn.Module | None = None
    checkpoint: Path | None = None
    forward: Pair = pair
    higher_is_better: bool = True
    point: float = 0.01
    looks_at_data: bool = True
    proving: bool = False
    looks_at_training: bool = True
    rank_checkpoints: Sequence[Path] | None = None

    @cached_property
    def network(self) -> nn.Module:
        """The model inside DistributedDataParallel and torch.compile."""
        return unwrapped(self.model)

    @fact
    def norms(self) -> tuple[Norm, ...]:
        """The batch norms, in the order of the model's modules."""
        return norms_of(self.network)

    @fact
    def batches(self) -> Sequence[Any]:
        """The first batches that were given."""
        if self.data is None:
            raise UnavailableError("give batches=...")
        return first_batches(self.data)

    @fact
    def sizes(self) -> Sizes:
        """How many samples the loader's batches have, the last one too."""
        taken = self.batches
        assert self.data is not None  # or there were no batches
        return sizes(self.data, list(taken))

    @fact
    def rows(self) -> int:
        """How many samples the first batch has."""
        return rows(self.batches[0])

    @fact
    def few(self) -> Any:
        """The first samples of the first batch, as few as the forward takes; for what one sample tells as well."""
        with suppress(UnavailableError):
            return first_rows(self.batches[0], self._followed[1] or self.rows)
        return self.batches[0]

    @fact
    def graph(self) -> Graph:
        """The forward, followed: by samples of the first batch, or without data where none may be used."""
        return self._followed[0]

    @fact
    def _followed(self) -> tuple[Graph, int]:
        """The graph, and how many samples it was followed with; 0 for none."""
        if self.data is None or not self.looks_at_data:
            try:
                return _followed(self.network, None, self.output), 0
            except UnavailableError:
                if self.data is None:
                    raise
        if self.rows > _FOLLOWED:  # all results of the forward are held meanwhile
            with suppress(UnavailableError):
                few = first_rows(self.batches[0], _FOLLOWED)
                return _followed(self.network, few, self.output), _FOLLOWED
        return _followed(self.network, self.batches[0], self.output), self.rows

    def calls(self, norm: Norm) -> tuple[Event, ...]:
        """The calls of a norm in one forward."""
        return self.graph.of(norm.module)

    def may_call(self, norm: Norm) -> bool:
        """Whether the forward calls a norm, or cannot be followed so that it may."""
        try:
            return bool(self.calls(norm))
        except UnavailableError:
            return True

    def values_per_channel(self, norm: Norm) -> int | None:
        """How many values of a channel the norm gets from the first batch; None where no forward with it was followed.

        Over its calls it is the smallest number.
        """
        samples = self._followed[1]
        inputs = [event.sources[0].shape for event in self.calls(norm) if event.sources]
        counts = [_values(shape) for shape in inputs if shape is not None and len(shape) > 1]
        return min(counts) * self.rows // samples if counts and samples else None

    @property
    def measured(self) -> Sequence[Any]:
        """The batches that statistics are measured on."""
        return self._split[0]

    @property
    def held_back(self) -> Sequence[Any]:
        """The batches on which it is tried what statistics cost: others than the measured ones, if there are enough."""
        return self._split[1]

    @property
    def _split(self) -> tuple[Sequence[Any], Sequence[Any]]:
        every = self.batches
        cut = len(every) * 5 // 8
        return (every, every) if len(every) < 6 else (every[:cut], every[cut:])

    @fact
    def layers(self) -> tuple[MeasuredLayer, ...]:
        """The norms whose inputs can be measured: those that are not frozen, with a forward that is known."""
        return measurable_layers(self.network).layers

    @fact
    def moments(self) -> dict[nn.Module, LayerMoments]:
        """What reached each of the layers, call by call, in training mode; the model's losses meanwhile are in it too.

        Dropout drops, and each batch is normalised by its own statistics: this is what running statistics average.
        """
        return moments_of_calls(self.network, self.layers, self.measured, self.output)

    @fact
    def moments_without_dropout(self) -> dict[nn.Module, LayerMoments]:
        """The same with all other layers in evaluation mode, so that dropout does not drop."""
        return moments_of_calls(self.network, self.layers, self.measured, self.output, dropout=False)

    def calls_of(self, norm: Norm) -> tuple[Call, ...]:
        """The moments of a norm's calls over the measured batches; none where it cannot be measured."""
        measured = self.moments.get(norm.module)
        return () if measured is None else measured.calls

    @fact
    def first_inputs(self) -> tuple[str, Tensor]:
        """The path of the first layer with weights, and what reaches it from the measured batches; see `inputs`."""
        return first_inputs(self.network, self.measured, self.output)

    @fact
    def training(self) -> TrainingRun:
        """A few training steps on a copy, then the user's validation and one more step."""
        return training_run(self._trainee(), self.validate)

    def _trainee(self) -> Trainee:
        """A new copy to train, as the user does."""
        if self.training_step is None and self.loss is None:
            raise UnavailableError("give loss=... or training_step=...")
        return Trainee.of(self.network, self.optimizer, self.batches, self.training_step, self._loss_of)

    @fact
    def step_in_evaluation(self) -> Record:
        """A step of the user's training, on a copy that comes in evaluation mode."""
        return self._trainee().step_in_evaluation()

    @fact
    def signals(self) -> Signals:
        """Activations, gradients, updates and norms' inputs over a few training steps on a copy, measured once."""
        graph: Graph | None = None
        with suppress(UnavailableError):
            graph = self.graph
        return signals_of(self._trainee(), graph, self.output)

    @fact
    def scales(self) -> Scales:
        """The scales of the layers on the longest way without norms, on the first batch in evaluation."""
        return scales_of(self.network, self.graph, self.batches[0], self.output)

    @fact
    def losses_in_training(self) -> Losses:
        """The losses of the batches in training mode, with their own targets and those of other samples."""
        return self._judged.losses(copied_model(self.network))

    @fact
    def has_learned(self) -> bool | None:
        """Whether outputs fit their own targets better than those of other samples; None where no loss can tell."""
        try:
            return self.losses_in_training.show_learning
        except UnavailableError:
            return None

    @fact
    def losses_after_steps(self) -> Losses:
        """The same after some training steps on a copy."""
        return self._judged.after_steps(self._trainee(), {})

    def with_other_rates(self, factors: Mapping[int, float]) -> Tried:
        """Whether learning rates times these factors, by the number of their group, bring more in as many steps."""
        other = self._judged.after_steps(self._trainee(), factors)
        return Tried(self.losses_after_steps, other, self.losses_in_training.chance)

    @fact
    def cost_of_scales(self) -> str | None:
        """What a few training steps cost with these scales, against layers of unit variance; None for nothing."""
        trainee, paths = self._trainee(), {scale.path for scale in self.scales.layers}
        first, run = copied(self.batches[0]), numbered(self.output)
        unit_variance_(trainee.model, lambda model: run(model, first), only=lambda path, _: path in paths)
        other = self._judged.after_steps(trainee, {})
        return Tried(self.losses_after_steps, other, self.losses_in_training.chance).cost

    @fact
    def cost_of_drift(self) -> str | None:
        """What running statistics cost, against those of the batch, after the few training steps; None for nothing."""
        trained = self.signals.trained
        layers = measurable_layers(trained).layers
        evaluations = Evaluations(trained, self.held_back, self.forward, [])
        return compared(evaluations, self.held_back, lambda: normalising_by_batches(layers), self.judge).cost

    @property
    def _judged(self) -> Judged:
        return Judged(self.batches, self.forward, self.judge)

    @property
    def own_steps(self) -> tuple[Record, ...]:
        """The steps of the user's own training; where there are none the usual step would tell nothing."""
        if self.training_step is None:
            raise UnavailableError("give training_step=...")
        return self.training.every_step

    @fact
    def average(self) -> Context:
        """The averaged copy of the model, on the same batches."""
        if self.ema is None:
            raise UnavailableError("give ema=...")
        data = None if self.data is None else self.batches  # an iterator cannot be gone through twice
        return replace(self, model=self.ema, data=data, optimizer=None, ema=None, checkpoint=None)

    @fact
    def validation(self) -> Record:
        """The user's validation, on a copy in training mode, as after a training step."""
        if self.validate is None:
            raise UnavailableError("give validate=...")
        return validation_run(self.network, self.validate)

    def _loss_of(self, model: nn.Module, batch: Any) -> Any:
        assert self.loss is not None  # the usual step is not taken without one
        return self.loss(*self.forward(model, batch))

    @fact
    def evaluations(self) -> Evaluations:
        """The batches in evaluation as the model is, each run once for all rules."""
        norms = [norm.module for norm in self.norms if not norm.is_frozen]
        return Evaluations(self.network, self.batches, self.forward, norms)

    def compare(self, statistics: dict[nn.Module, Statistics]) -> Comparison:
        """The held-back batches in evaluation with the statistics that the layers hold, and with these ones."""
        layers = [layer for layer in self.layers if layer.layer in statistics]
        other = [statistics[layer.layer] for layer in layers]
        return self.compare_with(lambda: normalising_by(layers, other))

    def compare_with(
        self, changed: Callable[[], AbstractContextManager[None]], batches: Sequence[Any] | None = None
    ) -> Comparison:
        """The held-back batches, or others, in evaluation as the model is, and within `changed()`."""
        of = self.held_back if batches is None else batches
        return compared(self.evaluations, of, changed, self.judge)

    @property
    def judge(self) -> Judge:
        """How outputs are judged."""
        return Judge(self.loss, self.metric, self.higher_is_better, self.point)

    @property
    def for_fixes(self) -> Sequence[Any]:
        """The batches that a fix may measure on: all, but those that are held back where fixes are tried."""
        return self.measured if self.proving else self.batches

    @property
    def output(self) -> Forward:
        """The forward without the target."""
        return lambda model, batch: self.forward(model, batch)[0]

    def recalibration(self) -> Fix:
        """The fix that measures the running statistics anew, on the user's batches where there are some."""
        code = "model = normsmith.surgery.recalibrate(model, batches).apply()"
        if self.data is None:
            return Fix(code)
        return Fix(
            code,
            plan=lambda model: recalibrate(model, self.for_fixes, forward=self.output).plan,
            measures=True,
        )


def _followed(model: nn.Module, batch: Any, forward: Forward) -> Graph:
    try:
        with modes_kept(model):
            return trace(model, batch, forward=forward, preserve=False)
    except NormsmithError as error:
        raise UnavailableError(f"the forward cannot be followed: {error}") from error
    except Exception as error:  # somebody's model, in code that no trace expects
        raise UnavailableError(f"the forward cannot be followed: {error_text(error)}") from error


def _values(shape: tuple[int, ...]) -> int:
    count = 1
    for number, size in enumerate(shape):
        count *= 1 if number == 1 else size
    return count
