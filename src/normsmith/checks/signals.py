"""What a few training steps show of a network's signals: activations, gradients, updates, norms' inputs, renorm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normsmith._torch import backward_number, has_function_transforms, parameters_of
from normsmith.anatomy.forward import Forward
from normsmith.anatomy.graph import Graph
from normsmith.anatomy.kinds import is_producer
from normsmith.checks.activations import Activation, ActivationMeter
from normsmith.checks.finding import UnavailableError
from normsmith.checks.inputs import moments_of_inputs
from normsmith.checks.moments import moments_of_calls
from normsmith.checks.norms import norms_of
from normsmith.checks.training import Trainee
from normsmith.layers.batch_renorm import RenormBase
from normsmith.measure import measurable_layers

Inputs = dict[str, list[tuple[Tensor, Tensor]]]
"""(mean, variance) of a layer's input, by its path, each (channels,), one after the other."""
STEPS = 8
"""Training steps in which signals are measured."""
_LEAST = 0.1
"""A weight whose values are smaller than so much of torch's own initial weights began at 0, and has no scale yet."""
_OPEN = 10**12


@dataclass(eq=False)
class WeightSignal:
    """What the weight of a linear layer or convolution went through, step by step.

    - `gradients`: the mean of |gradient| in each step, where there was one.
    - `relative`: the gradient's norm over the weight's.
    - `updates`: the norm of the change over that of the weight, in each step that changed it, and to finite values.
    - `has_scale`: whether the weight is more than next to nothing, as one that began at 0 is.
    - `group`: the number of its group in the optimizer; None where it is in none.
    """

    path: str
    has_scale: bool
    group: int | None
    gradients: list[float] = field(default_factory=list)
    relative: list[float] = field(default_factory=list)
    updates: list[float] = field(default_factory=list)


@dataclass(eq=False)
class RenormSignal:
    """What batch renorm corrected in training: the share of channels whose r or d was cut off, call by call.

    Calls while the bounds are still opening do not count. `r` and `d` are the largest of r, 1/r and |d| that would have
    been, of 95 % of the channels, call by call; `bounds` are r_max and d_max.
    """

    path: str
    bounds: tuple[float, float]
    clipped: list[float] = field(default_factory=list)
    r: list[float] = field(default_factory=list)
    d: list[float] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Signals:
    """All that was measured, and the copy that was trained meanwhile.

    - `steps`: how many there were.
    - `activations`: none where the graph is not known.
    - `inputs`: for each batch norm, by its path, (mean, variance) of what the first batch makes of its input, before
      the first step and after each; dropout does not drop. Those that cannot be measured are left out.
    - `layer_inputs`: the same of linear, convolutional and recurrent layers, in a network that has no batch norm.
    """

    trained: nn.Module
    steps: int
    weights: tuple[WeightSignal, ...]
    renorms: tuple[RenormSignal, ...]
    activations: tuple[Activation, ...]
    inputs: Inputs
    layer_inputs: Inputs


def signals_of(trainee: Trainee, graph: Graph | None, forward: Forward) -> Signals:
    """Train a copy for a few steps, and measure its signals online.

    Raises:
        UnavailableError: a step raised.
    """
    model = trainee.model
    groups = {
        id(parameter): number
        for number, group in enumerate(trainee.optimizer.param_groups)
        for parameter in group["params"]
    }
    weights = {
        path: WeightSignal(path, _has_scale(weight), groups.get(id(weight)))
        for path, weight in _weights(model)
    }
    renorms = {
        module: RenormSignal(path, (1.0, 0.0))
        for path, module in model.named_modules()
        if isinstance(module, RenormBase)
    }
    meter = None if graph is None else ActivationMeter(model, graph)
    inputs: Inputs = {}
    layer_inputs: Inputs = {}
    _add_inputs(inputs, layer_inputs, trainee, forward)
    for number in range(STEPS):
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(_weights_measured(model, weights))
            for module, signal in renorms.items():
                stack.callback(module.register_forward_pre_hook(_renorm_hook(signal)).remove)
            if meter is not None:
                stack.enter_context(meter.watching())
            trainee.step(number)
        _add_inputs(inputs, layer_inputs, trainee, forward)
    return Signals(
        model,
        STEPS,
        tuple(weights.values()),
        tuple(renorms.values()),
        () if meter is None else meter.measured,
        inputs,
        layer_inputs,
    )


def _add_inputs(inputs: Inputs, layer_inputs: Inputs, trainee: Trainee, forward: Forward) -> None:
    """Measure what the first batch makes of the norms' inputs, or the layers', by now; the model's buffers stay."""
    layers = measurable_layers(trainee.model).layers
    with suppress(UnavailableError):
        if not norms_of(trainee.model):
            for path, moments in moments_of_inputs(trainee.model, trainee.batches[0], forward).items():
                layer_inputs.setdefault(path, []).append(moments)
            return
        measured = moments_of_calls(trainee.model, layers, trainee.batches[:1], forward, dropout=False)
        for of_layer in measured.values():
            first = of_layer.calls[0]
            inputs.setdefault(of_layer.layer.path, []).append((first.mean, first.var))


def _weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights of linear layers and convolutions that may train, by the path of their layer."""
    for path, module in model.named_modules():
        weight = parameters_of(module).get("weight") if is_producer(module) else None
        if weight is not None and weight.requires_grad and not is_lazy(weight) and weight.numel():
            yield path, weight


def _has_scale(weight: Tensor) -> bool:
    """Whether a weight is not next to nothing, in units of torch's own initial weights."""
    fan_in = max(weight[0].numel(), 1)
    return float(weight.detach().double().square().mean().sqrt()) > _LEAST / math.sqrt(3 * fan_in)


@contextmanager
def _weights_measured(model: nn.Module, signals: dict[str, WeightSignal]) -> Iterator[None]:
    """A block that is one training step: gradients and changes of weights are measured."""
    held = dict(_weights(model))
    before = {path: weight.detach().clone() for path, weight in held.items()}
    gradients: dict[str, tuple[Tensor, Tensor]] = {}

    def came(path: str) -> Any:
        def look(weight: Tensor) -> None:
            if weight.grad is not None:
                values = weight.grad.detach().float()
                gradients[path] = values.abs().mean(), values.norm()  # of the last backward, with all before

        return look

    with ExitStack() as stack:
        for path, weight in held.items():
            stack.callback(weight.register_post_accumulate_grad_hook(came(path)).remove)  # type: ignore[no-untyped-call]
        yield
    for path, weight in held.items():
        signal, old = signals[path], before[path].float()
        size = float(old.norm())
        change = float((weight.detach().float() - old).norm())
        if path in gradients:
            mean, norm = gradients[path]
            signal.gradients.append(float(mean))
            signal.relative.append(float(norm) / size if size else math.inf)
        if change and size and math.isfinite(change):
            signal.updates.append(change / size)


def _renorm_hook(signal: RenormSignal) -> Any:
    """A pre-hook that measures how much a renorm layer's correction would be, and how much of it is cut off."""

    def look(layer: Any, arguments: tuple[Any, ...]) -> None:
        usable = layer.training and layer.pinned is None and layer.running_var is not None
        again = backward_number() != -1  # checkpointing computes a forward once more
        if again or has_function_transforms() or not (usable and arguments and _is_batch(arguments[0])):
            return
        bounds = layer.bounds()
        r_max, d_max = float(bounds.r_max), float(bounds.d_max)
        final = layer.schedule(torch.tensor(_OPEN))
        if (r_max, d_max) != tuple(map(float, final)) or (r_max == 1 and d_max == 0):
            return
        signal.bounds = (r_max, d_max)
        r, d = unbounded(layer, arguments[0])
        spread = torch.maximum(r, 1 / r)
        signal.clipped.append(float(((spread > r_max) | (d.abs() > d_max)).double().mean()))
        signal.r.append(float(spread.quantile(0.95)))
        signal.d.append(float(d.abs().quantile(0.95)))

    return look


def _is_batch(x: object) -> bool:
    """Whether there are several values per channel to compute statistics of."""
    return isinstance(x, Tensor) and x.ndim > 1 and x.numel() > x.shape[1]


def unbounded(layer: RenormBase, x: Tensor) -> tuple[Tensor, Tensor]:
    """r and d of a batch without bounds, (channels,) in float64.

    >>> from normsmith.layers import BatchRenorm1d
    >>> layer = BatchRenorm1d(1, schedule="constant", eps=0.0)
    >>> [value.item() for value in unbounded(layer, torch.tensor([[1.0], [5.0]]))]
    [2.0, 3.0]
    """
    schedule = layer.schedule
    layer.schedule = "keras"
    try:
        r, d = layer.correction(x.detach())
    finally:
        layer.schedule = schedule
    return r.double(), d.double()
