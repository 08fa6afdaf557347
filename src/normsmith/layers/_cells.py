"""One layer of a recurrent network in one direction: the recurrences, with their norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normsmith.layers._all_steps import (
    Again,
    ByBatch,
    ByConstants,
    Recurrence,
    StepMap,
    can_run,
)
from normsmith.layers._fused_cell import folded
from normsmith.layers._gates import GRUSteps, LSTMSteps
from normsmith.layers._step_norm import SequenceNorm, StepNorm, StepwiseForward
from normsmith.layers.ours import Ours
from normsmith.ops import batch_norm

Constants = list[tuple[Tensor, Tensor]]
"""Scale and shift of each step."""


@dataclass(frozen=True)
class NormSettings:
    """What the norms of all cells of a network have in common."""

    normalize: Literal["all", "input"]
    max_steps: int
    gamma: float
    eps: float
    momentum: float | None
    on_small_batch: Literal["error", "running"]
    on_nonfinite: Literal["skip", "propagate"]

    def per_step(
        self, channels: int, device: Any, dtype: torch.dtype | None, *, beta: bool = False
    ) -> StepNorm:
        """A norm with statistics per step."""
        return StepNorm(
            channels,
            self.max_steps,
            gamma=self.gamma,
            beta=beta,
            eps=self.eps,
            momentum=self.momentum,
            on_small_batch=self.on_small_batch,
            on_nonfinite=self.on_nonfinite,
            device=device,
            dtype=dtype,
        )

    def per_sequence(self, channels: int, device: Any, dtype: torch.dtype | None) -> SequenceNorm:
        """A norm with one set of statistics for all steps."""
        return SequenceNorm(
            channels,
            gamma=self.gamma,
            eps=self.eps,
            momentum=self.momentum,
            on_small_batch=self.on_small_batch,
            on_nonfinite=self.on_nonfinite,
            device=device,
            dtype=dtype,
        )


@dataclass(frozen=True)
class NormAtStep:
    """Applies norms at one time step; an input that has no norm (None) stays as it is."""

    step: int
    alive: Tensor | None
    forwards: dict[StepNorm, StepwiseForward]
    constants: dict[StepNorm, Constants]

    def __call__(self, norm: StepNorm | None, x: Tensor) -> Tensor:
        if norm is None:
            return x
        if norm in self.constants:
            scale, shift = self.constants[norm][self.step]
            return torch.addcmul(shift, x, scale)
        y: Tensor = norm(x.unsqueeze(0), self.forwards[norm], self.step, self.alive)
        return y.squeeze(0)


NormAt = Callable[[StepNorm | None, Tensor], Tensor]
Maps = dict[nn.Module | None, StepMap]
"""The norms that are part of the one operation, and how it applies each; a norm that is called apart is missing."""


class CellBase(Ours, nn.Module):
    """What LSTM and GRU cells share: weights, norms and the loop over time.

    `norm_ih` normalises W_x·x, `norm_hh` W_h·h (None where only inputs are normalised); `bias` is the one b.
    """

    gates: int
    states: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        settings: NormSettings,
        device: Any,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        rows = self.gates * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size, device=device, dtype=dtype))
        self.weight_hh = nn.Parameter(torch.empty(rows, hidden_size, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(rows, device=device, dtype=dtype)) if bias else None
        self.norm_ih: StepNorm | SequenceNorm
        self.norm_hh: StepNorm | None
        if settings.normalize == "all":
            self.norm_ih = settings.per_step(rows, device, dtype)
            self.norm_hh = settings.per_step(rows, device, dtype)
        else:
            self.norm_ih = settings.per_sequence(rows, device, dtype)
            self.norm_hh = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights and bias as torch does for its recurrent networks, and set the norms back."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in (self.weight_ih, self.weight_hh, self.bias):
            if parameter is not None:
                nn.init.uniform_(parameter, -bound, bound)
        for child in self.children():
            child.reset_parameters()  # type: ignore[operator]

    def forward(
        self, x: Tensor, states: tuple[Tensor, ...], alive: Tensor | None, first_step: int
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the cell over all time steps.

        Args:
            x: shape (time, batch, features), each sequence's steps first.
            states: h (and c), each of shape (batch, hidden_size).
            alive: bool, shape (time, batch): which sequences are still running; None: all.
            first_step: the step whose statistics normalise the first input.

        Returns:
            The outputs, (time, batch, hidden_size), 0 where a sequence has ended, and each sequence's last states.
        """
        if alive is None and x.shape[1] > 0 and isinstance(self.norm_ih, SequenceNorm):
            weights = folded(x, self.weight_ih, self.bias, self.norm_ih)
            if weights is not None:
                return self._fused(x, states, [weights.weight, self.weight_hh, weights.bias])
        forwards = {
            norm: norm.start(len(x), x.shape[1], first_step)
            for norm in self.children()
            if isinstance(norm, StepNorm)
        }
        products = F.linear(x, self.weight_ih)
        constants: dict[StepNorm, Constants] = {}
        for norm, started in forwards.items():
            rows = norm.constants(started, products, self.bias if norm is self.norm_ih else None)
            if rows is not None:
                constants[norm] = rows
        maps = None if alive is not None else self._maps(products, states, forwards, constants)
        if maps is None:
            inputs = self._inputs(products, alive, forwards)
            outputs, states = self._one_by_one(inputs, states, alive, forwards, constants)
        else:
            inputs = products if self.norm_ih in maps else self._inputs(products, alive, forwards)
            outputs, states = self._all_steps(inputs, states, maps)
        for norm, started in forwards.items():
            by_batch = None if maps is None else maps.get(norm)
            if isinstance(by_batch, ByBatch):
                started.moments.append(by_batch.moments)
            norm.finish(started)
        return outputs, states

    def _one_by_one(
        self,
        inputs: Tensor,
        states: tuple[Tensor, ...],
        alive: Tensor | None,
        forwards: dict[StepNorm, StepwiseForward],
        constants: dict[StepNorm, Constants],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The outputs and the last states, step by step, of sequences that may have ended."""
        outputs = []
        for step, product in enumerate(inputs.unbind()):
            running = None if alive is None else alive[step]
            norm_at = NormAtStep(step, None if running is None else running.unsqueeze(0), forwards, constants)
            hidden = F.linear(states[0], self.weight_hh)
            moved = self._step(product, hidden, states, norm_at)
            if running is None:
                states = moved
                outputs.append(moved[0])
            else:
                held = running.unsqueeze(1)
                states = tuple(torch.where(held, new, old) for new, old in zip(moved, states, strict=True))
                outputs.append(torch.where(held, moved[0], 0.0))
        return torch.stack(outputs), states

    def _maps(
        self,
        products: Tensor,
        states: tuple[Tensor, ...],
        forwards: dict[StepNorm, StepwiseForward],
        constants: dict[StepNorm, Constants],
    ) -> Maps | None:
        """The norms of all steps, where these can be one operation; None where they are to be taken one by one.

        That of W_x·x adds b; where it is not among them, it has to be called. The gradients of norms by running
        statistics are left to autograd.
        """
        given = (products, self.weight_hh, *states, *(() if self.bias is None else (self.bias,)))
        if (constants and self._learns(*given)) or not can_run(*given):
            return None
        maps: Maps = {}
        for norm, started in forwards.items():
            if norm in constants:
                maps[norm] = ByConstants(constants[norm])
                continue
            bias = self._bias_of(norm)
            call = norm.prepared(started, products.new_empty(products.shape[1], norm.num_features), bias)
            if call is not None:
                vectors = tuple(vector for vector in (norm.weight, bias) if vector is not None)
                maps[norm] = ByBatch(call, len(products), vectors)
            elif norm is not self.norm_ih:
                return None
        return maps

    def _bias_of(self, norm: StepNorm) -> Tensor | None:
        """What is added after a norm: to W_x·x b, as its norm has no β."""
        return self.bias if norm is self.norm_ih else norm.bias

    def _learns(self, *given: Tensor) -> bool:
        """Whether gradients of a parameter, or of what is given, may be asked for."""
        return torch.is_grad_enabled() and any(each.requires_grad for each in (*given, *self.parameters()))

    def _all_steps(
        self, inputs: Tensor, states: tuple[Tensor, ...], maps: Maps
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The outputs and the last states, by one operation."""
        epsilons = {
            norm: norm.epsilon for norm in self.children() if isinstance(norm, StepNorm) and norm in maps
        }
        return self._recurrence(maps, partial(self._again, epsilons)).run(inputs, self.weight_hh, states)

    def _again(self, epsilons: dict[StepNorm, float], given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What `_all_steps` computes, step by step, of all that it was given."""
        inputs, weight, *others = given
        states, vectors = tuple(others[: self.states]), iter(others[self.states :])
        affine = {
            norm: (next(vectors), None if self._bias_of(norm) is None else next(vectors)) for norm in epsilons
        }
        norm_ih = self.norm_ih if isinstance(self.norm_ih, StepNorm) and self.norm_ih in affine else None

        def norm_at(norm: StepNorm | None, x: Tensor) -> Tensor:
            if norm is None:
                return x
            return batch_norm(x, None, None, *affine[norm], eps=epsilons[norm])

        outputs = []
        for product in inputs.unbind():
            states = self._step(norm_at(norm_ih, product), F.linear(states[0], weight), states, norm_at)
            outputs.append(states[0])
        return torch.stack(outputs), *states[1:]

    def _inputs(
        self, products: Tensor, alive: Tensor | None, forwards: dict[StepNorm, StepwiseForward]
    ) -> Tensor:
        """BN(W_x·x) + b of all steps at once, as it does not depend on the recurrence."""
        inputs: Tensor
        if isinstance(self.norm_ih, StepNorm):
            inputs = self.norm_ih(products, forwards[self.norm_ih], 0, alive)
        else:
            inputs = self.norm_ih(products, alive)
        return inputs if self.bias is None else inputs + self.bias

    def _step(
        self, product: Tensor, hidden: Tensor, states: tuple[Tensor, ...], norm_at: NormAt
    ) -> tuple[Tensor, ...]:
        """The states after one step, from BN(W_x·x) + b of that step, W_h·h, and the states before it."""
        raise NotImplementedError

    def _recurrence(self, maps: Maps, again: Again) -> Recurrence:
        """All steps as one operation."""
        raise NotImplementedError

    def _fused(
        self, x: Tensor, states: tuple[Tensor, ...], weights: list[Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """All steps by torch's own layer, with these weights of inputs, weights of states, and one bias."""
        raise NotImplementedError


class LSTMCell(CellBase):
    """Gates in torch's order: input, forget, cell, output."""

    gates = 4
    states = 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        settings: NormSettings,
        device: Any,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, settings, device, dtype)
        self.norm_c = (
            settings.per_step(hidden_size, device, dtype, beta=True) if settings.normalize == "all" else None
        )

    def _step(
        self, product: Tensor, hidden: Tensor, states: tuple[Tensor, ...], norm_at: NormAt
    ) -> tuple[Tensor, ...]:
        _, c = states
        gates = product + norm_at(self.norm_hh, hidden)
        i, f, g, o = gates.chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * norm_at(self.norm_c, c).tanh(), c

    def _recurrence(self, maps: Maps, again: Again) -> Recurrence:
        norm_ih, norm_hh, norm_c = (maps.get(norm) for norm in (self.norm_ih, self.norm_hh, self.norm_c))
        return LSTMSteps(norm_ih, norm_hh, norm_c, again)

    def _fused(
        self, x: Tensor, states: tuple[Tensor, ...], weights: list[Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        given = tuple(state.unsqueeze(0) for state in states)
        output, h, c = torch.lstm(x, given, _with_no_bias_of_states(weights), *_ONE_LAYER)
        return output, (h.squeeze(0), c.squeeze(0))


class GRUCell(CellBase):
    """Gates in torch's order: reset, update, new."""

    gates = 3
    states = 1

    def _step(
        self, product: Tensor, hidden: Tensor, states: tuple[Tensor, ...], norm_at: NormAt
    ) -> tuple[Tensor, ...]:
        (h,) = states
        hidden = norm_at(self.norm_hh, hidden)
        r, z, n = product.chunk(3, dim=1)
        hidden_r, hidden_z, hidden_n = hidden.chunk(3, dim=1)
        r, z = (r + hidden_r).sigmoid(), (z + hidden_z).sigmoid()
        n = (n + r * hidden_n).tanh()
        return (n + z * (h - n),)

    def _recurrence(self, maps: Maps, again: Again) -> Recurrence:
        return GRUSteps(maps.get(self.norm_ih), maps.get(self.norm_hh), None, again)

    def _fused(
        self, x: Tensor, states: tuple[Tensor, ...], weights: list[Tensor]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        output, h = torch.gru(x, states[0].unsqueeze(0), _with_no_bias_of_states(weights), *_ONE_LAYER)
        return output, (h.squeeze(0),)


_ONE_LAYER = (True, 1, 0.0, False, False, False)
"""One layer of torch, with biases, without dropout, not told that it trains, in one direction, time first."""


def _with_no_bias_of_states(weights: list[Tensor]) -> list[Tensor]:
    """Torch adds two biases; here the one stands with the inputs."""
    return [*weights, torch.zeros_like(weights[-1])]
