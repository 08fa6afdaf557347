"""What is merged: the statistics of each layer in each model, and how many values they are of."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._choices import did_you_mean, is_number
from normsmith._text import path_text
from normsmith.anatomy.forward import unwrapped
from normsmith.errors import InputError, SurgeryError
from normsmith.measure.layers import MeasuredLayer
from normsmith.measure.statistics import Statistics
from normsmith.ops import Moments, merge
from normsmith.surgery.operations.recalibrate import LayerStatistics, Recalibration

State = Mapping[str, Tensor]
Source = nn.Module | State
"""A model, or its state dict."""

Count = float | Mapping[str, float] | Recalibration
"""How many values per channel a model's statistics are of: in all layers, in each by its path, or as measured."""

_NOT_NEEDED = ".num_batches_tracked"


@dataclass(frozen=True)
class Part:
    """The statistics of one layer in one model, in float64 on the CPU.

    - `count`: the values per channel that they are of, or what the model counts for where that is not known.
    - `known`: whether it is. If not, a variance counts as that of a whole population.
    - `measured`: whether `recalibrate` has measured them.
    - `steps`: `num_batches_tracked`; None where the layer has none.
    """

    statistics: Statistics
    count: float
    known: bool
    measured: bool
    steps: int | None


def state_of(source: Source) -> State:
    """The tensors of a model by name; those of the model within a wrapper."""
    return unwrapped(source).state_dict() if isinstance(source, nn.Module) else source


def check_several(others: Any) -> None:
    """Raise InputError unless these are models or state dicts, at least one."""
    if not isinstance(others, Sequence) or isinstance(others, nn.Module) or not others:
        got = "none" if isinstance(others, Sequence) else type(others).__name__
        raise InputError(f"others: expected a sequence of models or state dicts, at least one, got {got}")
    for number, other in enumerate(others):
        if not isinstance(other, (nn.Module, Mapping)):
            raise InputError(
                f"others[{number}]: expected a model or a state dict, got {type(other).__name__}"
            )


def check_same_structure(states: Sequence[State], operation: str) -> None:
    """Raise InputError unless all models have tensors of the same names and shapes; says the first that differs."""
    first = states[0]
    for number, other in enumerate(states[1:]):
        where = f"{operation}: others[{number}]"
        for name in [*first, *(name for name in other if name not in first)]:
            one, theirs = first.get(name), other.get(name)
            if isinstance(one, Tensor) and theirs is not None and not isinstance(theirs, Tensor):
                raise InputError(f"{where}: expected a tensor as {name}, got {type(theirs).__name__}")
            if (one is None or theirs is None) and not name.endswith(_NOT_NEEDED):
                missing = "lacks" if theirs is None else "has, and the model has not,"
                raise InputError(
                    f"{where}: expected a model of the same structure, got one that {missing} {name!r}"
                )
            if isinstance(one, Tensor) and isinstance(theirs, Tensor) and one.shape != theirs.shape:
                raise InputError(
                    f"{where}: expected {name} of shape {tuple(one.shape)}, got {tuple(theirs.shape)}"
                )


def parts_of(
    layer: MeasuredLayer, states: Sequence[State], counts: Sequence[Count] | None, shares: Sequence[float]
) -> list[Part]:
    """What each model has for a layer. Models whose data never reached it are left out.

    Args:
        counts: for each model; None where there are no counts.
        shares: what each model counts for then.
    """
    prefix = f"{layer.path}." if layer.path else ""
    parts: list[Part] = []
    for number, state in enumerate(states):
        steps = state.get(f"{prefix}num_batches_tracked")
        tracked = None if steps is None else int(steps)
        given = None if counts is None else counts[number]
        if isinstance(given, Recalibration):
            row = _row(given, layer, number)
            if row.count >= 2:  # else the layer stayed as it was
                parts.append(Part(_wide(row.after), row.count, True, True, tracked))
            continue
        held = {
            name: state[f"{prefix}running_{name}"]
            for name in Statistics._fields
            if f"{prefix}running_{name}" in state
        }
        statistics = _wide({f"running_{name}": tensor for name, tensor in held.items()})
        _check_finite(statistics, layer, number)
        count = shares[number] if given is None else _number(given, layer, number)
        parts.append(Part(statistics, count, given is not None, False, tracked))
    return parts


def pooled(parts: Sequence[Part], epsilon: float) -> Statistics:
    """The statistics of all values together, those between the models in it, by Chan's formula.

    >>> def part(mean, var):
    ...     return Part(Statistics(torch.tensor([mean]), torch.tensor([var])), 2.0, True, True, None)
    >>> pooled([part(0.0, 2.0), part(4.0, 2.0)], 1e-5)  # of the values −1, 1, 3, 5
    Statistics(mean=tensor([2.], dtype=torch.float64), var=tensor([6.6667], dtype=torch.float64), std=None)
    """
    moments = merge(_moments(parts, [part.statistics.var for part in parts], biased=False))
    mean, var = (moments.mean + moments.low)[0], moments.unbiased_variance[0]
    deviations = [part.statistics.std for part in parts if part.statistics.std is not None]
    if len(deviations) < len(parts):
        return Statistics(mean, var)
    biased = merge(_moments(parts, [std.square() - epsilon for std in deviations], biased=True))
    return Statistics(mean, var, (biased.variance[0].clamp(min=0) + epsilon).sqrt())


def _moments(parts: Sequence[Part], variances: Sequence[Tensor], *, biased: bool) -> Moments:
    count = torch.tensor([[part.count] for part in parts], dtype=torch.float64)
    squares = torch.tensor([[part.count if part.known else 0.0] for part in parts], dtype=torch.float64)
    mean, var = torch.stack([part.statistics.mean for part in parts]).double(), torch.stack(list(variances))
    degrees = count if biased else count - squares / count
    return Moments(count, mean, var.double() * degrees, squares, torch.zeros_like(mean))


def checked_counts(counts: Any, number: int, paths: Collection[str]) -> Sequence[Count] | None:
    """The counts that were given, one for each model. Raises InputError where they do not fit.

    Args:
        paths: those of the model's modules, of which a mapping may name any.
    """
    if counts is None:
        return None
    if not isinstance(counts, Sequence) or isinstance(counts, str) or len(counts) != number:
        got = len(counts) if isinstance(counts, Sequence) else type(counts).__name__
        raise InputError(
            f"counts: expected one for the model and one for each of the others, {number} together, got {got}"
        )
    for place, count in enumerate(counts):
        if not (is_number(count) or isinstance(count, (Mapping, Recalibration))):
            raise InputError(
                f"counts[{place}]: expected a number, numbers by the paths of layers, or what recalibrate returned; "
                f"got {type(count).__name__}"
            )
        if isinstance(count, Mapping) and (unknown := [path for path in count if path not in paths]):
            near = did_you_mean(unknown[0], paths)
            raise InputError(
                f"counts[{place}]: expected paths of the model's layers, got {unknown[0]!r}{near}"
            )
    return counts


def _number(given: float | Mapping[str, float], layer: MeasuredLayer, number: int) -> float:
    where = f"counts[{number}]"
    if isinstance(given, Mapping):
        if layer.path not in given:
            raise InputError(
                f"{where}: expected a number for each layer, got none for {path_text(layer.path)}"
            )
        given, where = given[layer.path], f"{where}[{layer.path!r}]"
    if not (is_number(given) and 2 <= given < float("inf")):
        raise InputError(
            f"{where}: expected the number of values per channel, at least 2 (samples times positions), got {given!r}; "
            "a model that has seen no data is left out, and without any counts all models count the same"
        )
    return float(given)


def _row(result: Recalibration, layer: MeasuredLayer, number: int) -> LayerStatistics:
    names = (layer.path, f"module.{layer.path}")  # within a wrapper
    row = next((row for row in result.layers if row.path in names), None)
    features = len(layer.statistics().mean)
    if row is None or len(row.after["running_mean"]) != features:
        raise InputError(
            f"counts[{number}]: expected statistics of {path_text(layer.path)} with {features} channels, got a "
            "recalibration without them; recalibrate the same layers of all models"
        )
    return row


def _wide(buffers: Mapping[str, Tensor]) -> Statistics:
    wide = {name.removeprefix("running_"): tensor.detach().cpu().double() for name, tensor in buffers.items()}
    return Statistics(**wide)


def _check_finite(statistics: Statistics, layer: MeasuredLayer, number: int) -> None:
    mean, var, _ = statistics
    wrong = ~(mean.isfinite() & var.isfinite() & (var >= 0))
    if wrong.any():
        raise SurgeryError(
            f"{path_text(layer.path)} of {label(number)}: expected finite statistics and variances of at least 0, got "
            f"others in {int(wrong.sum())} of {len(wrong)} channels; recalibrate that model first"
        )


def label(number: int) -> str:
    """A model in words, by its place among the model and the others."""
    return "the model" if number == 0 else f"others[{number - 1}]"


def steps_of(parts: Sequence[Part], momentum: float | None) -> Iterator[int]:
    """The counter of training steps that a merged layer gets, if it has one.

    A layer without a momentum averages over all its steps alike: it has then seen those of all models. Else the models
    were trained beside each other, and the layer is as far as the furthest of them, by which a schedule of renorm goes.
    """
    known = [part.steps for part in parts if part.steps is not None]
    if known:
        yield sum(known) if momentum is None else max(known)
