"""Ranks that share statistics, one on the kernels and one on the reference, against float64 on the whole batch."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from normsmith.ops import ACTIVATIONS, Renorm, Running, Sync, batch_norm, dispatch
from normsmith.ops.call import Call, prepared
from normsmith.ops.gpu.backend import Triton
from normsmith.ops.reference import Reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"

pytestmark = [
    pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
]

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1.6e-2}


class Desk:
    """Where two threads lay down what they exchange; who waits in vain gets an error."""

    def __init__(self):
        self.meet = Barrier(2, timeout=60)
        self.sent = [[], []]


class Here(Sync):
    """A rank of two in one process: all of a sync but the process group."""

    def __init__(self, rank, desk):
        self.rank, self.ranks, self.desk = rank, 2, desk

    def sum(self, tensor):
        self.desk.sent[self.rank].append(tensor)
        self.desk.meet.wait()
        total = sum(sent[-1] for sent in self.desk.sent)
        self.desk.meet.wait()
        return total


class Batch(NamedTuple):
    """A batch, the gradient of its output, and what else has a row per sample."""

    x: Tensor
    g: Tensor
    residual: Tensor | None
    valid: Tensor | None
    weights: Tensor | None

    def rows(self, start, stop):
        return Batch(*(None if part is None else part[start:stop] for part in self))

    def double(self):
        return Batch(*(p if p is None or p.dtype == torch.bool else p.double() for p in self))


def batch_of(shape, dtype, *, channels_last, mask, residual, hidden):
    """Of a masked batch, the first `hidden` rows have no valid element."""
    generator = torch.Generator().manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def normal():
        values = torch.randn(shape, generator=generator).to(DEVICE)
        return values.to(dtype).contiguous(memory_format=layout)

    # samples differ in mean, so that neither rank's own statistics would pass for the whole batch's
    x = normal() + torch.arange(shape[0], device=DEVICE, dtype=dtype).view(-1, *[1] * (len(shape) - 1))
    valid = torch.rand(shape[0], 1, *shape[2:], generator=generator).to(DEVICE) < 0.7 if mask else None
    weights = None
    if valid is not None:
        valid[:hidden] = False
        x = torch.where(valid, x, torch.nan)
        weights = valid * (
            torch.rand(shape[0], *[1] * (len(shape) - 1), generator=generator).to(DEVICE) + 0.1
        )
    return Batch(x, normal(), normal() if residual else None, valid, weights)


def trained(row, batch, affine, running, call, wants_x):
    """Forward and backward of one rank."""
    call = call._replace(valid=batch.valid, weights=batch.weights)
    assert row.supports(batch.x, call) is None
    y, kept, moments = row.forward(batch.x, *affine, batch.residual, running, call)
    return y, moments, row.backward(batch.g, batch.x, batch.residual, kept, call, wants_x)


def compare(got, want, tolerance):
    scale = want.abs().max().clamp(min=1.0)
    torch.testing.assert_close(got.double() / scale, want / scale, rtol=tolerance, atol=tolerance)


LAYOUTS = [
    pytest.param((11, 5), False, id="rows"),
    pytest.param((9, 3, 8), False, id="planes"),
    pytest.param((5, 8, 3, 5), True, id="channels last"),
]
OPTIONS = [
    pytest.param({}, id="plain"),
    pytest.param({"mask": True, "renorm": True, "act": "relu"}, id="mask, renorm, relu"),
    pytest.param({"act": "relu", "residual": True}, id="add+relu"),
    pytest.param(
        {"mask": True, "renorm": True, "act": "relu", "residual": True}, id="mask, renorm, add+relu"
    ),
    pytest.param({"mask": True, "act": "silu", "wants_x": False}, id="frozen inputs"),
    pytest.param({"mask": True, "hidden": True, "residual": True}, id="nothing valid on the kernels' rank"),
]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("others", [0, 3], ids=["an empty batch", "another batch"])
@pytest.mark.parametrize(("shape", "channels_last"), LAYOUTS)
@pytest.mark.parametrize("options", OPTIONS)
def test_a_rank_on_the_kernels_and_one_on_the_reference_share_one_batch(
    shape, channels_last, options, others, dtype
):
    mask, residual, wants_x = (
        options.get(name, default)
        for name, default in (("mask", False), ("residual", False), ("wants_x", True))
    )
    cut = shape[0] - others
    hidden = cut if options.get("hidden") else 0
    whole = batch_of(shape, dtype, channels_last=channels_last, mask=mask, residual=residual, hidden=hidden)
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(3, shape[1], generator=generator).to(DEVICE)
    affine, running = (vectors[0].abs() + 0.5, vectors[1]), Running(vectors[2], vectors[1].square() + 0.5)
    call = Call(
        renorm=Renorm(1.5, 0.5) if options.get("renorm") else None,
        activation=ACTIVATIONS[options["act"]] if "act" in options else None,
    )
    desk = Desk()
    with ThreadPoolExecutor(2) as ranks:
        ours, theirs = [
            ranks.submit(trained, row, part, affine, running, call._replace(sync=Here(rank, desk)), wants_x)
            for rank, (row, part) in enumerate(
                [(Triton(), whole.rows(0, cut)), (Reference(), whole.rows(cut, None))]
            )
        ]
        (y, moments, (dx, dz, grads)), (_, their_moments, (*_, their_grads)) = ours.result(), theirs.result()

    exact = whole.double()
    x, z = prepared(exact.x, exact.residual, exact.valid)
    want, want_moments, (want_dx, want_dz, want_grads) = trained(
        Reference(),
        exact._replace(x=x, residual=z),
        [v.double() for v in affine],
        Running(*(v.double() for v in running[:2])),
        call,
        True,
    )
    tolerance = TOLERANCES[dtype]
    compare(y, want[:cut], tolerance)
    assert torch.equal(moments.mean, their_moments.mean)
    torch.testing.assert_close(moments.m2.double(), want_moments.m2, rtol=1e-5, atol=1e-5)
    # what γ and β get is each rank's own: gradients are averaged by others
    compare(grads.weight + their_grads.weight, want_grads.weight, 2 * tolerance)
    compare(grads.bias + their_grads.bias, want_grads.bias, 2 * tolerance)
    if wants_x:
        compare(dx, want_dx[:cut], 2 * tolerance)
        if residual:
            compare(dz, want_dz[:cut], 2 * tolerance)
    # one exchange in the forward, one in the backward if x has a gradient; the same on either row
    assert [len(sent) for sent in desk.sent] == [1 + wants_x] * 2
    for sent, received in zip(*desk.sent, strict=True):
        assert (sent.shape, sent.dtype) == (received.shape, received.dtype)


def test_running_statistics_move_to_those_of_all_ranks(monkeypatch):
    monkeypatch.delenv("NORMSMITH_BACKEND", raising=False)
    x = torch.randn(11, 5, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    x += torch.arange(11, device=DEVICE).unsqueeze(1)
    want = torch.zeros(5, device=DEVICE), torch.ones(5, device=DEVICE)
    torch.nn.functional.batch_norm(x, *want, training=True)
    served, row = [], Triton.forward
    monkeypatch.setattr(Triton, "forward", lambda *arguments: served.append(1) or row(*arguments))
    monkeypatch.setattr(dispatch, "BACKENDS", (Triton(), Reference()))  # without a GPU, another row is first
    running, desk = [(torch.zeros(5, device=DEVICE), torch.ones(5, device=DEVICE)) for _ in range(2)], Desk()

    def step(rank, part):
        batch_norm(part, *running[rank], sync=Here(rank, desk))

    with ThreadPoolExecutor(2) as ranks:
        for rank in [ranks.submit(step, rank, part) for rank, part in enumerate(x.split([10, 1]))]:
            rank.result()
    assert len(served) == 1  # a single value is the reference's business
    for buffers in running:
        torch.testing.assert_close(buffers, want)
