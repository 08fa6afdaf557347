"""Calls of the CPU kernels that are prepared once and made again and again, for batches of one shape.

Small batches spend more time on what is decided about them than in kernels. A prepared call keeps argument blocks in
which all is filled that does not change from call to call: the layout, the policy, and how the work is shared out. Each
call fills in the addresses of its tensors and starts the kernel. The kernels, and how their work is shared out, are
those of `forward.normalize` and `backward.differentiate`, and so are all results.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from normsmith._torch import alike, empty_on_cpu, increment_versions
from normsmith.ops.call import Buffers, Call, Update, as_before, computing_dtype
from normsmith.ops.cpu import memory
from normsmith.ops.cpu.argument_block import Block
from normsmith.ops.cpu.calls import ALL, Function, function_of, share_out, start
from normsmith.ops.cpu.forward import CPU, RELU, laid_out_like, writable
from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.kernels.arguments import APPLY, MEASURE, SETTLE
from normsmith.ops.cpu.layout import layout_of
from normsmith.ops.cpu.saved import Packed
from normsmith.ops.cpu.threads import SERIAL_BELOW, threads_for
from normsmith.ops.resolve import Renorm, Resolved, Running


class Filled(Block):
    """A block that is filled but for the addresses of one call, with its kernel and memory for what nobody keeps."""

    __slots__ = ("_asked", "_kernel", "_partial", "_threads", "is_small", "start", "statistics", "vector")

    def __init__(self, like: Tensor, kernel: Function) -> None:
        layout = layout_of(like)
        assert layout is not None  # `prepare` has refused otherwise
        super().__init__(layout, like.dtype, layout.samples, 1)
        self._kernel, self._asked, self.is_small = kernel, 0, self.elements < SERIAL_BELOW
        self.start = kernel[1]
        self._share_out(threads_for(self.elements))
        self.statistics = memory.lasting(slot.STATISTICS_ROWS, 1, layout.channels, dtype=self.work)
        self.vector = memory.lasting(layout.channels, dtype=self.work)

    def run(self, phases: int) -> None:
        """Run phases of the kernel, on as many threads as torch now has."""
        if self.is_small:
            self.q[slot.PHASES] = phases
            self.start(self.address)
            return
        asked = threads_for(self.elements)
        if asked != self._asked:
            self._share_out(asked)
        start(self, self._kernel, phases, self._threads)

    def _share_out(self, asked: int) -> None:
        self._asked, self._threads = asked, share_out(self)
        self._partial = memory.lasting(3 * self.q[slot.PARTS] * self.layout.channels, dtype=torch.float64)
        self.q[slot.PARTIAL] = self._partial.data_ptr()


class Prepared:
    """A call that was checked and whose blocks are filled, for batches of the same shape, strides and dtype.

    γ, β and the running statistics are those of each call, of the dtypes that `prepare` asks for, and the same ones are
    absent in all calls. Calls may run at once, in several threads or one within another: each takes blocks that nobody
    else has. What a backward reads is given to it, and stands in no block.
    """

    is_bound = False

    def __init__(self, x: Tensor, added: bool, call: Call, update: Update | None) -> None:
        self.call, self._update = call, update
        self.like = torch.empty_like(x, device="meta")  # shape, strides and dtype without memory
        self._batch = _form_of(x)
        self._is_huge = x.nbytes >= memory.HUGE
        self._added, self._relu = added, call.activation is RELU
        self._phases = ALL if call.by_batch else SETTLE | APPLY
        first = self._forward_block()
        self.forwards: list[Filled] = [first]
        """The blocks of forwards that no call has now."""
        self.backwards: list[Filled] = []  # evaluation needs none, and its kernel may have to be compiled
        """The blocks of backwards that no call has now."""
        self._bits = first.words() if self._relu and added else 0
        self._statistics = _form_of(first.statistics)
        self._vector = _form_of(first.vector)
        self.fits: Callable[[Tensor, Tensor], bool] = _never
        """Whether a gradient and a batch are known to be what `fitted` returns as it is."""

    def forward(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        running: Buffers | None,
        renorm: Renorm | None,
        keep: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The output, and what `backward` needs: statistics, and the bits of a ReLU; only to be used if `keep`."""
        try:  # as `free_forward` does, without a call
            block = self.forwards.pop()
        except IndexError:
            block = self._forward_block()
        try:
            y, bits, q, moved = empty_on_cpu(*self._batch), None, block.q, []
            statistics = empty_on_cpu(*self._statistics) if keep else block.statistics
            q[slot.X], q[slot.Y], q[slot.STATISTICS] = x.data_ptr(), y.data_ptr(), statistics.data_ptr()
            q[slot.GAMMA] = 0 if weight is None else weight.data_ptr()
            q[slot.BETA] = 0 if bias is None else bias.data_ptr()
            if running is not None:
                mean, var, std, batches = running
                moved = [mean, var]
                q[slot.RUNNING_MEAN], q[slot.RUNNING_VAR] = mean.data_ptr(), var.data_ptr()
                if std is not None:
                    q[slot.RUNNING_STD] = std.data_ptr()
                    moved.append(std)
                if batches is not None:
                    q[slot.COUNTER] = batches.data_ptr()
                    moved.append(batches)
            if residual is not None:
                residual = laid_out_like("residual", residual, x)
                q[slot.RESIDUAL] = residual.data_ptr()
                if self._relu:
                    bits = torch.empty(self._bits, dtype=torch.int16, device=CPU)
                    q[slot.BITS] = bits.data_ptr()
            if renorm is not None:
                block.set_bounds(renorm)
            if self._is_huge:
                memory.ask_for_huge_pages(y)
            if block.is_small:  # as `run` does, without a call
                q[slot.PHASES] = self._phases
                block.start(block.address)
            else:
                block.run(self._phases)
        finally:
            self.forwards.append(block)
        if self._update is not None:
            increment_versions(moved)
        return y, statistics, bits

    def backward(
        self, g: Tensor, x: Tensor, statistics: Tensor, bits: Tensor | None, wants_x: bool
    ) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
        """The gradients of x, of the residual, and of γ and β; gradient and batch are as `fitted` returns them."""
        try:  # as `free_backward` does, without a call
            block = self.backwards.pop()
        except IndexError:
            block = self._backward_block()
        try:
            q, dx, dresidual = block.q, None, None
            dgamma, dbeta = empty_on_cpu(*self._vector), empty_on_cpu(*self._vector)
            q[slot.G], q[slot.X], q[slot.STATISTICS] = g.data_ptr(), x.data_ptr(), statistics.data_ptr()
            q[slot.DGAMMA], q[slot.DBETA] = dgamma.data_ptr(), dbeta.data_ptr()
            if wants_x:
                dx = empty_on_cpu(*self._batch)
                q[slot.DX] = dx.data_ptr()
                if self._is_huge:
                    memory.ask_for_huge_pages(dx)
            if bits is not None:
                q[slot.BITS], q[slot.DRESIDUAL] = bits.data_ptr(), 0
            if wants_x and self._added:
                dresidual = g
                if self._relu:
                    dresidual = empty_on_cpu(*self._batch)
                    q[slot.DRESIDUAL] = dresidual.data_ptr()
                    if self._is_huge:
                        memory.ask_for_huge_pages(dresidual)
            phases = ALL if wants_x else MEASURE | SETTLE
            if block.is_small:
                q[slot.PHASES] = phases
                block.start(block.address)
            else:
                block.run(phases)
        finally:
            self.backwards.append(block)
        return dx, dresidual, dgamma, dbeta

    def fitted(self, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient and batch with the strides and the dtype of the forward's batch, copied if need be.

        Where they need not be copied, others that are like them are taken as they are.
        """
        batch = as_before(x, self.like)
        gradient = laid_out_like("gradient", g, batch)
        if gradient is g and batch is x:
            self.fits = alike(g, x)
        return gradient, batch

    def resolved(self, statistics: Tensor) -> Resolved:
        """What normalised, of the statistics that a forward kept."""
        call = self.call
        return Packed(statistics, None, None, None, call.by_batch, call.renorm is not None).resolved

    def free_forward(self) -> Filled:
        """The block of a forward that nobody else has, until it is put back among `forwards`."""
        try:
            return self.forwards.pop()
        except IndexError:
            return self._forward_block()

    def free_backward(self) -> Filled:
        """The block of a backward that nobody else has, until it is put back among `backwards`."""
        try:
            return self.backwards.pop()
        except IndexError:
            return self._backward_block()

    def _forward_block(self) -> Filled:
        block = Filled(self.like, self._function("forward", self._added))
        block.set_decisions(self.call, None, self._update)
        block.set_forward(self.like, self.like, None, self._packed(block), self._relu)
        return block

    def _backward_block(self) -> Filled:
        block = Filled(self.like, self._function("backward", self._relu and self._added))
        packed = self._packed(block)
        block.set_backward(self.like, self.like, packed, block.vector, block.vector, self._relu)
        block.set_input_gradients(self.like, None)
        return block

    def _packed(self, block: Filled) -> Packed:
        return Packed(block.statistics, None, None, None, True, False)

    def _function(self, direction: str, added: bool) -> Function:
        layout = layout_of(self.like)
        assert layout is not None  # `prepare` has refused otherwise
        return function_of(layout.name, direction, self.like.dtype, added)


def _form_of(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], torch.dtype]:
    """Shape, strides and dtype, from which `empty_on_cpu` makes a tensor like this one."""
    return tuple(tensor.shape), tensor.stride(), tensor.dtype


def _never(g: Tensor, x: Tensor) -> bool:
    """What no gradient is like before the first one."""
    return False


def prepare(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running: Running | None,
    added: bool,
    call: Call,
    update: Update | None,
) -> Prepared | None:
    """Prepare a call for batches like `x`, with a residual if `added`; None where more than addresses would change."""
    work = computing_dtype(x)
    affine = [vector for vector in (weight, bias) if vector is not None]
    special = [part is not None for part in (call.valid, call.weights, call.groups, call.sync)]
    if any(special) or call.activation not in (None, RELU) or layout_of(x) is None:
        return None
    if call.by_batch and x.numel() < 2 * x.shape[1]:  # the running statistics normalise
        return None
    if not all(vector.dtype == work and vector.is_cpu and vector.is_contiguous() for vector in affine):
        return None
    if running is not None and not (writable(running, work) and running.mean.is_cpu and running.var.is_cpu):
        return None
    return Prepared(x, added, call, update)
