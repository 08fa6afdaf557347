"""The gates of LSTM and GRU at all steps of a recurrence, and their gradients in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from normsmith.layers._all_steps import Affine, Recurrence, Tensors

TOGETHER = 16
"""Steps whose gradients are prepared at once: enough to fill the vectors of a processor, and few for its cache."""


class LSTMSteps(Recurrence):
    """All steps of an LSTM; gates are in torch's order: input, forget, cell, output."""

    def forward(
        self, inputs: Tensor, weight: Tensor, states: Tensors, keep: bool
    ) -> tuple[Tensor, Tensors, Tensors]:
        """The outputs, the last c, and what `backward` needs: gates, W_h·h, c, and tanh(BN(c)) of each step."""
        (h, c), turned, steps = states, weight.t(), len(inputs)
        size = h.shape[1]
        gates = inputs.new_empty(steps if keep else 1, *inputs.shape[1:])
        products = gates if self._hidden is None else torch.empty_like(gates)
        cells, shown = (gates.new_empty(*gates.shape[:2], size) for _ in range(2))
        outputs = inputs.new_empty(steps, *h.shape)
        i, f, g, o = (_by_step(part, steps) for part in gates.chunk(4, 2))
        open_, every = _by_step(gates[..., : 2 * size], steps), _by_step(gates, steps)
        of_cells, of_shown = _by_step(cells, steps), _by_step(shown, steps)
        of_products = _by_step(products, steps)
        for step, (given, output) in enumerate(zip(inputs.unbind(), outputs.unbind(), strict=True)):
            self._gates(step, every[step], of_products[step], given, h, turned)
            open_[step].sigmoid_()
            g[step].tanh_()
            o[step].sigmoid_()
            c = torch.mul(f[step], c, out=of_cells[step]).addcmul_(i[step], g[step])
            if self._cell is None:
                torch.tanh(c, out=of_shown[step])
            else:
                self._cell.forward(step, of_shown[step], c)
                of_shown[step].tanh_()
            h = torch.mul(o[step], of_shown[step], out=output)
        return outputs, (c.clone(),), (gates, products, cells, shown)

    def backward(
        self, incoming: Tensors, weight: Tensor, states: Tensors, outputs: Tensor, kept: Tensors
    ) -> Tensors:
        """The gradients of the inputs, of W_h, of the first h and c, and of the norms' γ and β."""
        (gates, products, cells, shown), (of_outputs, of_c) = kept, incoming
        size, batch = outputs.shape[2], outputs.shape[1]
        dgates, dc, dweight = torch.empty_like(gates), of_c.clone(), torch.zeros_like(weight)
        dh, dshown, dcell = (torch.empty_like(dc) for _ in range(3))
        dproduct = torch.zeros_like(gates[0])
        hidden, cell = Affine(self._hidden), Affine(self._cell)
        for part in _parts(len(gates)):
            h_before, c_before = _before(outputs, states[0], part), _before(cells, states[1], part)
            factors, of_shown = _factors_of_lstm(gates[part], c_before, shown[part])
            dproducts = dgates[part] if self._hidden is None else torch.empty_like(dgates[part])
            of_gates, of_o = factors[:, :, :3].unbind(), factors[:, :, 3].unbind()
            f = gates[part][..., size : 2 * size].unbind()
            dpart = dgates[part].view(-1, batch, 4, size)
            into, into_o = dpart[:, :, :3].unbind(), dpart[:, :, 3].unbind()
            for at in reversed(range(len(f))):
                step = part.start + at
                torch.addmm(of_outputs[step], dproduct, weight, out=dh)
                torch.mul(dh, of_o[at], out=into_o[at])
                torch.mul(dh, of_shown[at], out=dshown)
                dc.add_(cell.backward(step, dcell, dshown, cells))
                torch.mul(dc.unsqueeze(1), of_gates[at], out=into[at])
                dc.mul_(f[at])
                dproduct = hidden.backward(step, dproducts[at], dgates[step], products)
            dweight.addmm_(dproducts.flatten(0, 1).t(), h_before.flatten(0, 1))
        return dgates, dweight, dproduct @ weight, dc, *hidden.total(), *cell.total()


class GRUSteps(Recurrence):
    """All steps of a GRU; gates are in torch's order: reset, update, new."""

    def forward(
        self, inputs: Tensor, weight: Tensor, states: Tensors, keep: bool
    ) -> tuple[Tensor, Tensors, Tensors]:
        """The outputs, and what `backward` needs: gates, W_h·h, and BN(W_h·h) of each step."""
        (h,), turned, steps = states, weight.t(), len(inputs)
        size = h.shape[1]
        gates = inputs.new_empty(steps if keep else 1, *inputs.shape[1:])
        normed = torch.empty_like(gates)
        products = normed if self._hidden is None else torch.empty_like(gates)
        outputs = inputs.new_empty(steps, *h.shape)
        r, z, n = (_by_step(part, steps) for part in gates.chunk(3, 2))
        open_, of_normed, of_products = (
            _by_step(part, steps) for part in (gates[..., : 2 * size], normed, products)
        )
        normed_open, normed_n = (
            _by_step(part, steps) for part in (normed[..., : 2 * size], normed[..., 2 * size :])
        )
        given_open, given_n = (part.unbind() for part in (inputs[..., : 2 * size], inputs[..., 2 * size :]))
        for step, output in enumerate(outputs.unbind()):
            torch.mm(h, turned, out=of_products[step])
            if self._hidden is not None:
                self._hidden.forward(step, of_normed[step], of_products[step])
            torch.add(given_open[step], normed_open[step], out=open_[step]).sigmoid_()
            torch.addcmul(given_n[step], r[step], normed_n[step], out=n[step]).tanh_()
            h = torch.lerp(n[step], h, z[step], out=output)
        return outputs, (), (gates, products, normed)

    def backward(
        self, incoming: Tensors, weight: Tensor, states: Tensors, outputs: Tensor, kept: Tensors
    ) -> Tensors:
        """The gradients of the inputs, of W_h, of the first h, and of the norm's γ (and β)."""
        (gates, products, normed), (of_outputs,) = kept, incoming
        size, batch = outputs.shape[2], outputs.shape[1]
        dinputs, dweight = torch.empty_like(gates), torch.zeros_like(weight)
        dh, through = torch.empty_like(outputs[0]), torch.zeros_like(outputs[0])
        dproduct, hidden = torch.zeros_like(gates[0]), Affine(self._hidden)
        for part in _parts(len(gates)):
            h_before = _before(outputs, states[0], part)
            of_inputs, of_normed = _factors_of_gru(gates[part], h_before, normed[part])
            dnormed = torch.empty_like(dinputs[part])
            dproducts = dnormed if self._hidden is None else torch.empty_like(dnormed)
            z = gates[part][..., size : 2 * size].unbind()
            into = dinputs[part].view(-1, batch, 3, size).unbind()
            into_normed = dnormed.view(-1, batch, 3, size).unbind()
            for at in reversed(range(len(z))):
                step = part.start + at
                torch.addmm(through, dproduct, weight, out=dh).add_(of_outputs[step])
                torch.mul(dh.unsqueeze(1), of_inputs[at], out=into[at])
                torch.mul(dh.unsqueeze(1), of_normed[at], out=into_normed[at])
                torch.mul(dh, z[at], out=through)
                dproduct = hidden.backward(step, dproducts[at], dnormed[at], products)
            dweight.addmm_(dproducts.flatten(0, 1).t(), h_before.flatten(0, 1))
        return dinputs, dweight, torch.addmm(through, dproduct, weight), *hidden.total()


def _by_step(memory: Tensor, steps: int) -> Tensors:
    """The memory of each step, which is the same where there is room for one alone."""
    parts = memory.unbind()
    return parts if len(parts) == steps else parts * steps


def _parts(steps: int) -> list[slice]:
    """The steps in parts, the last first."""
    return [slice(start, min(start + TOGETHER, steps)) for start in reversed(range(0, steps, TOGETHER))]


def _before(states: Tensor, first: Tensor, part: slice) -> Tensor:
    """The states before each step of a part."""
    earlier = states[part.start - 1 : part.start] if part.start else first.unsqueeze(0)
    return torch.cat([earlier, states[part.start : part.stop - 1]])


def _factors_of_lstm(gates: Tensor, c_before: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """By what the gradient of c is multiplied to be that of a gate (of o: that of h), and that of h to be BN(c)'s."""
    steps, batch, size = shown.shape
    factors = gates.new_empty(steps, batch, 4, size)
    i, f, g, o = gates.chunk(4, 2)
    for number, (other, gate) in enumerate(((g, i), (c_before, f), (None, g), (shown, o))):
        into = factors[:, :, number]
        if other is None:
            torch.mul(i, 1 - gate * gate, out=into)
        else:
            torch.mul(gate - gate * gate, other, out=into)
    return factors, o - o * shown * shown


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
