"""The gates of LSTM and GRU at all steps of a recurrence, and their gradients in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from normsmith.layers._all_steps import Gradients, Recurrence, Tensors

TOGETHER = 16
"""Steps whose gradients are prepared at once: enough to fill the vectors of a processor, and few for its cache."""


class LSTMSteps(Recurrence):
    """All steps of an LSTM; gates are in torch's order: input, forget, cell, output."""

    def forward(
        self, inputs: Tensor, weight: Tensor, states: Tensors, keep: bool
    ) -> tuple[Tensor, Tensors, Tensors]:
        """The outputs, the last c, and what `backward` needs: gates, W_h·h, tanh(BN(c)), and h and c with the first."""
        (h, c), turned, steps = states, weight.t(), len(inputs)
        size = h.shape[1]
        room, whole, part = steps if keep else 1, inputs.shape[1:], h.shape
        gates, products, shown, hs, cs = _in_one_piece(
            inputs, (room, *whole), (room, *whole), (room, *part), (room + 1, *part), (room + 1, *part)
        )
        outputs, hs[0], cs[0] = inputs.new_empty(steps, *part), h, c
        i, f, g, o = (_by_step(part, steps) for part in gates.chunk(4, 2))
        open_, every = _by_step(gates[..., : 2 * size], steps), _by_step(gates, steps)
        of_products, of_shown, of_cs = (_by_step(memory, steps) for memory in (products, shown, cs[1:]))
        for step, ((given,), output) in enumerate(
            zip(self._given(inputs, slice(None)), outputs.unbind(), strict=True)
        ):
            if self._hidden is None:
                torch.addmm(given, h, turned, out=every[step])
            else:
                torch.mm(h, turned, out=of_products[step])
                self._hidden.forward(step, every[step], of_products[step])
                every[step].add_(given)
            open_[step].sigmoid_()
            g[step].tanh_()
            o[step].sigmoid_()
            c = torch.mul(f[step], c, out=of_cs[step]).addcmul_(i[step], g[step])
            if self._cell is None:
                torch.tanh(c, out=of_shown[step])
            else:
                self._cell.forward(step, of_shown[step], c)
                of_shown[step].tanh_()
            h = torch.mul(o[step], of_shown[step], out=output)
        if keep:
            hs[1:] = outputs  # copied: a caller may write to them
        return outputs, (c.clone(),), (gates, products, shown, hs, cs)

    def backward(self, incoming: Tensors, inputs: Tensor, weight: Tensor, kept: Tensors) -> Tensors:
        """The gradients of the inputs, of W_h, of the first h and c, and of the norms' γ and β."""
        (doutputs, of_c), (gates, products, shown, hs, cs) = incoming, kept
        steps, batch, size = shown.shape
        dinputs, dc, dweight = torch.empty_like(gates), of_c.clone(), torch.zeros_like(weight)
        dh, dshown, dcell = (torch.empty_like(dc) for _ in range(3))
        dproduct, dc_of_each = torch.zeros_like(gates[0]), dc.unsqueeze(1)
        input, hidden, cell = (
            Gradients(norm, xs)
            for norm, xs in ((self._inputs, inputs), (self._hidden, products), (self._cell, cs[1:]))
        )
        of_outputs, of_inputs = doutputs.unbind(), dinputs.unbind()
        for part in _parts(steps):
            factors, by_shown = _factors_of_lstm(gates[part], cs[part], shown[part])
            dgates = dinputs[part] if self._inputs is None else torch.empty_like(dinputs[part])
            dproducts = dgates if self._hidden is None else torch.empty_like(dgates)
            of_gates, of_o, of_shown = factors.unbind(), factors[:, :, 3].unbind(), by_shown.unbind()
            f = gates[part][..., size : 2 * size].unbind()
            of_dgates, of_dproducts = dgates.unbind(), dproducts.unbind()
            apart = dgates.view(-1, batch, 4, size)
            into, into_o = apart.unbind(), apart[:, :, 3].unbind()
            for at in reversed(range(len(f))):
                step = part.start + at
                torch.addmm(of_outputs[step], dproduct, weight, out=dh)
                torch.mul(dh, of_shown[at], out=dshown)
                dc.add_(cell.backward(step, dcell, dshown))
                # a block without gaps takes half the time of three quarters of it
                torch.mul(dc_of_each, of_gates[at], out=into[at])
                torch.mul(dh, of_o[at], out=into_o[at])
                dc.mul_(f[at])
                dproduct = hidden.backward(step, of_dproducts[at], of_dgates[at])
                input.backward(step, of_inputs[step], of_dgates[at])
            dweight.addmm_(dproducts.flatten(0, 1).t(), hs[part].flatten(0, 1))
        totals = (*input.total(), *hidden.total(), *cell.total())
        return dinputs, dweight, dproduct @ weight, dc, *totals


class GRUSteps(Recurrence):
    """All steps of a GRU; gates are in torch's order: reset, update, new."""

    def forward(
        self, inputs: Tensor, weight: Tensor, states: Tensors, keep: bool
    ) -> tuple[Tensor, Tensors, Tensors]:
        """The outputs, and what `backward` needs: gates, BN(W_h·h), W_h·h, and h with the first."""
        (h,), turned, steps = states, weight.t(), len(inputs)
        size = h.shape[1]
        room, whole = steps if keep else 1, inputs.shape[1:]
        gates, normed, products, hs = _in_one_piece(inputs, *[(room, *whole)] * 3, (room + 1, *h.shape))
        outputs, hs[0] = inputs.new_empty(steps, *h.shape), h
        r, z, n = (_by_step(part, steps) for part in gates.chunk(3, 2))
        open_, of_normed, of_products = (
            _by_step(part, steps) for part in (gates[..., : 2 * size], normed, products)
        )
        normed_open, normed_n = (
            _by_step(part, steps) for part in (normed[..., : 2 * size], normed[..., 2 * size :])
        )
        given = self._given(inputs, slice(2 * size), slice(2 * size, None))
        for step, ((given_open, given_n), output) in enumerate(zip(given, outputs.unbind(), strict=True)):
            if self._hidden is None:
                torch.mm(h, turned, out=of_normed[step])
            else:
                torch.mm(h, turned, out=of_products[step])
                self._hidden.forward(step, of_normed[step], of_products[step])
            torch.add(given_open, normed_open[step], out=open_[step]).sigmoid_()
            torch.addcmul(given_n, r[step], normed_n[step], out=n[step]).tanh_()
            h = torch.lerp(n[step], h, z[step], out=output)
        if keep:
            hs[1:] = outputs  # copied: a caller may write to them
        return outputs, (), (gates, normed, products, hs)

    def backward(self, incoming: Tensors, inputs: Tensor, weight: Tensor, kept: Tensors) -> Tensors:
        """The gradients of the inputs, of W_h, of the first h, and of the norms' γ and β."""
        (doutputs,), (gates, normed, products, hs) = incoming, kept
        batch, size = hs.shape[1:]
        dinputs, dweight = torch.empty_like(gates), torch.zeros_like(weight)
        dh, through = torch.empty_like(hs[0]), torch.zeros_like(hs[0])
        dproduct, dh_of_each = torch.zeros_like(gates[0]), dh.unsqueeze(1)
        input, hidden = Gradients(self._inputs, inputs), Gradients(self._hidden, products)
        of_outputs, of_inputs = doutputs.unbind(), dinputs.unbind()
        for part in _parts(len(gates)):
            by_given, by_normed = (
                factors.unbind() for factors in _factors_of_gru(gates[part], hs[part], normed[part])
            )
            dgiven = dinputs[part] if self._inputs is None else torch.empty_like(dinputs[part])
            dnormed = torch.empty_like(dgiven)
            dproducts = dnormed if self._hidden is None else torch.empty_like(dnormed)
            of_given, of_normed, of_products = dgiven.unbind(), dnormed.unbind(), dproducts.unbind()
            z = gates[part][..., size : 2 * size].unbind()
            into = dgiven.view(-1, batch, 3, size).unbind()
            into_normed = dnormed.view(-1, batch, 3, size).unbind()
            for at in reversed(range(len(z))):
                step = part.start + at
                torch.addmm(through, dproduct, weight, out=dh).add_(of_outputs[step])
                torch.mul(dh_of_each, by_given[at], out=into[at])
                torch.mul(dh_of_each, by_normed[at], out=into_normed[at])
                torch.mul(dh, z[at], out=through)
                dproduct = hidden.backward(step, of_products[at], of_normed[at])
                input.backward(step, of_inputs[step], of_given[at])
            dweight.addmm_(dproducts.flatten(0, 1).t(), hs[part].flatten(0, 1))
        totals = (*input.total(), *hidden.total())
        return dinputs, dweight, torch.addmm(through, dproduct, weight), *totals


def _in_one_piece(like: Tensor, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Memory of these shapes, asked for at once: then the process keeps it for the next forward.

    An allocator gives pages back to the system by how much is free beside the largest piece that it has seen, and new
    pages take longer than what is computed in them.
    """
    sizes = [math.prod(shape) for shape in shapes]
    pieces = torch.split(like.new_empty(sum(sizes)), sizes)
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _by_step(memory: Tensor, steps: int) -> Tensors:
    """The memory of each step, which is the same where there is room for one alone."""
    parts = memory.unbind()
    return parts if len(parts) == steps else parts * steps


def _parts(steps: int) -> list[slice]:
    """The steps in parts, the last first."""
    return [slice(start, min(start + TOGETHER, steps)) for start in reversed(range(0, steps, TOGETHER))]


def _factors_of_lstm(gates: Tensor, c_before: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """By what the gradient of c is multiplied to be that of a gate (of o: that of h), and that of h to be BN(c)'s."""
    steps, batch, size = shown.shape
    i, _, g, o = gates.chunk(4, 2)
    factors = torch.addcmul(gates, gates, gates, value=-1).view(steps, batch, 4, size)
    of_i, of_f, of_g, of_o = factors.unbind(2)
    of_i.mul_(g)
    of_f.mul_(c_before)
    torch.mul(i, 1 - g * g, out=of_g)
    of_shown = torch.addcmul(o, o * shown, shown, value=-1)
    of_o.mul_(shown)
    return factors, of_shown


def _factors_of_gru(gates: Tensor, h_before: Tensor, normed: Tensor) -> tuple[Tensor, Tensor]:
    """By what the gradient of h is multiplied to be those of the inputs, and of BN(W_h·h), of the gates."""
    steps, batch, size = h_before.shape
    of_inputs, of_normed = (gates.new_empty(steps, batch, 3, size) for _ in range(2))
    r, z, n = gates.chunk(3, 2)
    of_n = torch.mul(1 - z, 1 - n * n, out=of_inputs[:, :, 2])
    torch.mul((r - r * r) * of_n, normed[..., 2 * size :], out=of_inputs[:, :, 0])
    torch.mul(z - z * z, h_before - n, out=of_inputs[:, :, 1])
    of_normed[:, :, :2].copy_(of_inputs[:, :, :2])
    torch.mul(of_n, r, out=of_normed[:, :, 2])
    return of_inputs, of_normed
