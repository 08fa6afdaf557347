"""All steps of a recurrence as one operation, forward and backward.

Step by step, autograd makes a node and new memory for each of a dozen small operations, which takes several times as
long as what they compute. Here the same formulas write to memory that is there already. The gradient has a closed
form: what does not depend on the recurrence is computed for several steps at once. What is not plain takes the steps
one by one, and so do gradients of gradients; both are the same function to rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
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

    `inputs` normalises W_x·x and adds b, `hidden` normalises W_h·h, and `cell` the state c of an LSTM; None: not
    normalised here.
    """

    def __init__(
        self, inputs: StepMap | None, hidden: StepMap | None, cell: StepMap | None, again: Again
    ) -> None:
        self._inputs, self._hidden, self._cell, self._again = inputs, hidden, cell, again
        norms = [norm for norm in (inputs, hidden, cell) if isinstance(norm, ByBatch)]
        self._vectors = [vector for norm in norms for vector in norm.vectors]

    def run(self, inputs: Tensor, weight: Tensor, states: Tensors) -> tuple[Tensor, Tensors]:
        """The outputs of all steps and the last states.

        Args:
            inputs: W_x·x of all steps, (steps, batch, gates·hidden_size), or BN(W_x·x) + b where it is not normalised
                here.
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
    def backward(self, incoming: Tensors, inputs: Tensor, weight: Tensor, kept: Tensors) -> Tensors:
        """The gradients of the inputs, of W_h, of the first states and of the vectors.

        `incoming` are those of the outputs and of the last states but h.
        """

    def _given(self, inputs: Tensor, *columns: slice) -> Iterator[Tensors]:
        """BN(W_x·x) + b of one step after the other, in these columns; a step's may be overwritten by the next."""
        if self._inputs is None:
            yield from zip(*(inputs[..., part].unbind() for part in columns), strict=True)
            return
        normed = torch.empty_like(inputs[0])
        parts = tuple(normed[:, part] for part in columns)
        for step, x in enumerate(inputs.unbind()):
            self._inputs.forward(step, normed, x)
            yield parts

    def again(
        self, given: Sequence[Tensor], wanted: Sequence[bool], incoming: Tensors
    ) -> list[Tensor | None]:
        """The gradients by differentiable operations, for gradients of gradients."""
        with torch.enable_grad():
            # each by itself: one may have been computed from another
            apart = [tensor.view_as(tensor) for tensor in given]
            results = self._again(apart)
            leaves = [tensor for tensor, is_wanted in zip(apart, wanted, strict=True) if is_wanted]
            gradients = torch.autograd.grad(results, leaves, incoming, create_graph=True, allow_unused=True)
        each = iter(gradients)
        return [next(each) if is_wanted else None for is_wanted in wanted]


class _AllSteps(torch.autograd.Function):
    """A recurrence with its gradient in closed form."""

    @staticmethod
    def forward(ctx: Any, run: Recurrence, number: int, *given: Tensor) -> Tensors:
        outputs, others, kept = run.forward(given[0], given[1], given[2 : 2 + number], True)
        ctx.run = run, len(given)
        ctx.save_for_backward(*given, *kept)
        return outputs, *others

    @staticmethod
    def backward(ctx: Any, *incoming: Any) -> tuple[Any, ...]:
        run, length = ctx.run
        saved = ctx.saved_tensors
        given, kept = saved[:length], saved[length:]
        if torch.is_grad_enabled() or any(is_batched_gradient(each) for each in incoming):
            return None, None, *run.again(given, ctx.needs_input_grad[2:], incoming)
        return None, None, *run.backward(incoming, given[0], given[1], kept)


class Gradients:
    """The backward of a norm, which may be None, from step to step: of what it normalised, and of its γ and β."""

    def __init__(self, norm: StepMap | None, xs: Tensor) -> None:
        assert not isinstance(norm, ByConstants)  # whose gradients are left to autograd
        self._norm = norm
        if norm is not None:
            self._xs, self._affine = xs.unbind(), norm.gradients()
            self._of_step = self._affine.unbind()

    def backward(self, step: int, dx: Tensor, g: Tensor) -> Tensor:
        """The gradient of what was normalised at a step: written to `dx`, or `g` itself without a norm."""
        if self._norm is None:
            return g
        self._norm.backward(step, dx, self._of_step[step], g, self._xs[step])
        return dx

    def total(self) -> Tensors:
        """The gradients of γ and β; nothing without a norm."""
        return () if self._norm is None else self._affine.sum(0).unbind()[: len(self._norm.vectors)]
