"""All steps of a recurrence as one operation, forward and backward.

Step by step, autograd makes a node and new memory for each of a dozen small operations, which takes several times as
long as what they compute. Here the same formulas write to memory that is there already. The gradient has a closed
form: what does not depend on the recurrence is computed for several steps at once. What is not plain takes the steps
one by one, and so do gradients of gradients; both are the same function to rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from normsmith._torch import is_batched_gradient
from normsmith.ops import Moments
from normsmith.ops.call import PreparedSteps
from normsmith.ops.prepared import is_plain, nothing_intervenes

Tensors = tuple[Tensor, ...]
Again = Callable[[Sequence[Tensor]], Tensors]
"""The outputs and the last states by differentiable operations, one by one, of the tensors that `run` is given."""


def can_run(x: Tensor, *others: Tensor) -> bool:
    """Whether these are plain tensors on the CPU, of one dtype, and nothing looks on or intervenes."""
    if torch.compiler.is_compiling() or not nothing_intervenes() or torch.is_autocast_enabled("cpu"):
        return False
    if x.dtype not in (torch.float32, torch.float64) or x.numel() == 0:
        return False
    return all(is_plain(each) and each.is_cpu and each.dtype == x.dtype for each in (x, *others))


class ByConstants:
    """A norm by running statistics, whose scale and shift of each step are known."""

    def __init__(self, constants: list[tuple[Tensor, Tensor]]) -> None:
        self._constants = constants

    def forward(self, step: int, y: Tensor, x: Tensor) -> None:
        """Write the norm of a step's x to y."""
        scale, shift = self._constants[step]
        torch.addcmul(shift, x, scale, out=y)


class ByBatch:
    """A norm of each step by the statistics of its own batch."""

    def __init__(self, call: PreparedSteps, steps: int, vectors: Tensors) -> None:
        self._call, self._statistics = call, call.statistics_of(steps)
        self._of_step = self._statistics.unbind()
        self.vectors = vectors
        """γ, and β where there is one."""

    def forward(self, step: int, y: Tensor, x: Tensor) -> None:
        """Write the norm of a step's x to y, and keep its statistics."""
        self._call.forward_into(y, x, self._of_step[step])

    def gradients(self) -> Tensor:
        """Memory for the gradients of γ and β from each step, (steps, 2, channels)."""
        return self._statistics.new_empty(len(self._of_step), 2, len(self.vectors[0]))

    def backward(self, step: int, dx: Tensor, affine: Tensor, g: Tensor, x: Tensor) -> None:
        """Write the gradients of a step's x, of γ and of β."""
        self._call.backward_into(dx, affine, g, x, self._of_step[step])

    @property
    def moments(self) -> Moments:
        """The moments of all steps."""
        return self._call.moments(self._statistics)


StepMap = ByConstants | ByBatch
"""A norm within the recurrence."""


class Recurrence(ABC):
    """All steps of a cell: its norms, and how the steps are computed one by one, which `again` does.

    `hidden` normalises W_h·h, and `cell` the state c of an LSTM; None: not normalised.
    """

    def __init__(self, hidden: StepMap | None, cell: StepMap | None, again: Again) -> None:
        self._hidden, self._cell, self._again = hidden, cell, again
        norms = [norm for norm in (hidden, cell) if isinstance(norm, ByBatch)]
        self._vectors = [vector for norm in norms for vector in norm.vectors]

    def run(self, inputs: Tensor, weight: Tensor, states: Tensors) -> tuple[Tensor, Tensors]:
        """The outputs of all steps and the last states.

        Args:
            inputs: BN(W_x·x) + b of all steps, (steps, batch, gates·hidden_size).
            weight: W_h.
            states: the first h (and c).
        """
        given = (inputs, weight, *states, *self._vectors)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
            outputs, *others = _AllSteps.apply(self, len(states), *given)  # type: ignore[no-untyped-call]
        else:
            outputs, others, _ = self.forward(inputs, weight, states, False)
        return outputs, (outputs[-1], *others)

    @abstractmethod
    def forward(
        self, inputs: Tensor, weight: Tensor, states: Tensors, keep: bool
    ) -> tuple[Tensor, Tensors, Tensors]:
        """The outputs, the last states but h, and what `backward` needs, which is only to be used if `keep`."""

    @abstractmethod
    def backward(
        self, incoming: Tensors, weight: Tensor, states: Tensors, outputs: Tensor, kept: Tensors
    ) -> Tensors:
        """The gradients of the inputs, of W_h, of the first states and of the vectors.

        `incoming` are those of the outputs and of the last states but h.
        """

    def again(
        self, given: Sequence[Tensor], wanted: Sequence[bool], incoming: Tensors
    ) -> list[Tensor | None]:
        """The gradients by differentiable operations, for gradients of gradients."""
        with torch.enable_grad():
            # each by itself: one may have been computed from another
            apart = [tensor.view_as(tensor) for tensor in given]
            results = self._again(apart)
            leaves = [tensor for tensor, is_wanted in zip(apart, wanted, strict=True) if is_wanted]
            found = iter(torch.autograd.grad(results, leaves, incoming, create_graph=True, allow_unused=True))
        return [next(found) if is_wanted else None for is_wanted in wanted]

    def _gates(self, step: int, y: Tensor, product: Tensor, given: Tensor, h: Tensor, turned: Tensor) -> None:
        """Write BN(W_h·h) + what is given of a step's input to y; `turned` is the transpose of W_h."""
        if self._hidden is None:
            torch.addmm(given, h, turned, out=y)
        else:
            torch.mm(h, turned, out=product)
            self._hidden.forward(step, y, product)
            y.add_(given)


class _AllSteps(torch.autograd.Function):
    """A recurrence with its gradient in closed form."""

    @staticmethod
    def forward(ctx: Any, run: Recurrence, number: int, *given: Tensor) -> Tensors:
        states = given[2 : 2 + number]
        outputs, others, kept = run.forward(given[0], given[1], states, True)
        ctx.run = run, number, len(given)
        ctx.save_for_backward(*given, outputs, *kept)
        return outputs.clone(), *others  # which may be written to

    @staticmethod
    def backward(ctx: Any, *incoming: Any) -> tuple[Any, ...]:
        run, number, length = ctx.run
        saved = ctx.saved_tensors
        given, outputs, kept = saved[:length], saved[length], saved[length + 1 :]
        if torch.is_grad_enabled() or any(is_batched_gradient(each) for each in incoming):
            return None, None, *run.again(given, ctx.needs_input_grad[2:], incoming)
        return None, None, *run.backward(incoming, given[1], given[2 : 2 + number], outputs, kept)


class Affine:
    """The backward of a norm, which may be None, and the gradients of its γ and β so far."""

    def __init__(self, norm: StepMap | None) -> None:
        assert not isinstance(norm, ByConstants)  # whose gradients are left to autograd
        self._norm = norm
        self._of_steps = None if norm is None else norm.gradients()

    def backward(self, step: int, dx: Tensor, g: Tensor, x: Tensor) -> Tensor:
        """The gradient of a step's batch, of all whose batches are `x`: written to `dx`, or `g` without a norm."""
        if self._norm is None or self._of_steps is None:
            return g
        self._norm.backward(step, dx, self._of_steps[step], g, x[step])
        return dx

    def total(self) -> Tensors:
        """The gradients of γ and β; nothing without a norm."""
        if self._norm is None or self._of_steps is None:
            return ()
        return self._of_steps.sum(0).unbind()[: len(self._norm.vectors)]
