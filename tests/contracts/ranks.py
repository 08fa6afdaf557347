"""What ranks that share statistics must do, one on a row of the table and one on the reference: agree with float64."""

from concurrent.futures import ThreadPoolExecutor
from itertools import product
from threading import Barrier
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from normsmith.ops import ACTIVATIONS, Renorm, Running, Sync, batch_norm, dispatch
from normsmith.ops.call import Call, promoted
from normsmith.ops.dispatch import Backend
from normsmith.ops.reference import Reference

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
    pytest.param({"mask": True, "act": "silu"}, id="mask, silu"),
    pytest.param({"mask": True, "act": "silu", "wants_x": False}, id="frozen inputs"),
    pytest.param({"offset": 1e3, "renorm": True}, id="far from 0"),
    pytest.param({"renorm": True, "wide": True}, id="running statistics in float64"),
    pytest.param({"mask": True, "few": True}, id="one value, of all ranks together"),
    pytest.param({"mask": True, "hidden": True, "residual": True}, id="nothing valid on the row's rank"),
]
SHARES = ["all", "most", "one"]
CASES = [
    pytest.param(
        options.values[0],
        *layout.values,
        share,
        id=f"{options.id}-{layout.id}-{share}",
        marks=[] if sum(numbers) % 3 == 0 else pytest.mark.full,  # each pair is in a third
    )
    for numbers in product(range(len(OPTIONS)), range(len(LAYOUTS)), range(len(SHARES)))
    for options, layout, share in [(OPTIONS[numbers[0]], LAYOUTS[numbers[1]], SHARES[numbers[2]])]
]
TOLERANCES = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 1.6e-2}


class RanksContract:
    """Inherit, and name the row, where it computes, and its dtypes."""

    backend: Backend
    device = "cpu"
    dtypes = tuple(TOLERANCES)
    serves_one_value = True

    @pytest.mark.parametrize(("options", "shape", "channels_last", "share"), CASES)
    def test_ranks_on_two_rows_share_one_batch(self, shape, channels_last, options, share):
        if share == "one" and len(shape) == 2 and not self.serves_one_value:
            pytest.skip("a single value is another row's")
        for dtype in self.dtypes:
            self.check(shape, channels_last, options, share, dtype)

    def check(self, shape, channels_last, options, share, dtype):
        """Train a rank on some samples of a batch here, and another on the rest of them by the reference."""
        cut = {"all": shape[0], "most": shape[0] - 3, "one": 1}[share]
        whole = batch_of(shape, dtype, channels_last, options, cut, self.device)
        generator = torch.Generator().manual_seed(1)
        vectors = torch.randn(3, shape[1], generator=generator).to(self.device)
        vectors = vectors.double() if dtype == torch.float64 else vectors
        affine = vectors[0].abs() + 0.5, vectors[1]
        running = Running(vectors[2], vectors[1].square() + 0.5)
        if options.get("wide"):
            running = Running(running.mean.double(), running.var.double())
        call = Call(
            renorm=Renorm(1.5, 0.5) if options.get("renorm") else None,
            activation=ACTIVATIONS[options["act"]] if "act" in options else None,
        )
        wants_x = options.get("wants_x", True)
        desk = Desk()
        with ThreadPoolExecutor(2) as ranks:
            ours, theirs = [
                ranks.submit(
                    desk.of_a_rank,
                    trained,
                    row,
                    part,
                    affine,
                    running,
                    call._replace(sync=Here(rank, desk)),
                    wants_x,
                )
                for rank, (row, part) in enumerate(
                    [(self.backend, whole.rows(0, cut)), (Reference(), whole.rows(cut, None))]
                )
            ]
            y, moments, (dx, dz, grads) = ours.result()
            _, their_moments, (*_, their_grads) = theirs.result()

        exact = whole.double()
        x, residual = promoted(exact.x, exact.residual, exact.valid)
        want, want_moments, (want_dx, want_dz, want_grads) = trained(
            Reference(),
            exact._replace(x=x, residual=residual),
            [vector.double() for vector in affine],
            Running(*(vector.double() for vector in running[:2])),
            call,
            True,
        )
        tolerance = TOLERANCES[dtype]
        assert_near(y, want[:cut], tolerance)
        assert torch.equal(moments.mean, their_moments.mean)
        assert_near(moments.m2, want_moments.m2, min(1e-5, 100 * tolerance))
        # what γ and β get is each rank's own: others average gradients
        assert_near(grads.weight + their_grads.weight, want_grads.weight, 2 * tolerance)
        assert_near(grads.bias + their_grads.bias, want_grads.bias, 2 * tolerance)
        if wants_x:
            assert_near(dx, want_dx[:cut], 2 * tolerance)
        if wants_x and residual is not None:
            assert_near(dz, want_dz[:cut], 2 * tolerance)
        # one exchange in the forward, one in the backward if x has a gradient; the same on either row
        assert [len(sent) for sent in desk.sent] == [1 + wants_x] * 2
        for sent, received in zip(*desk.sent, strict=True):
            assert (sent.shape, sent.dtype) == (received.shape, received.dtype)

    def test_running_statistics_move_to_those_of_all_ranks(self, monkeypatch):
        monkeypatch.delenv("NORMSMITH_BACKEND", raising=False)
        row, served = type(self.backend), []
        forward = row.forward
        monkeypatch.setattr(row, "forward", lambda *given: served.append(len(given[1])) or forward(*given))
        monkeypatch.setattr(dispatch, "BACKENDS", (self.backend, Reference()))
        x = torch.randn(11, 5, generator=torch.Generator().manual_seed(2)).to(self.device)
        x += torch.arange(11, device=self.device).unsqueeze(1)
        running, desk = [self._initial(), self._initial()], Desk()
        with ThreadPoolExecutor(2) as ranks:
            steps = [
                ranks.submit(desk.of_a_rank, batch_norm, part, *running[rank], sync=Here(rank, desk))
                for rank, part in enumerate(x.split([10, 1]))
            ]
            for step in steps:
                step.result()
        assert 10 in served
        whole = self._initial()
        torch.nn.functional.batch_norm(x, *whole, training=True)
        for buffers in running:
            torch.testing.assert_close(buffers, whole)

    def _initial(self):
        return torch.zeros(5, device=self.device), torch.ones(5, device=self.device)


class Desk:
    """Where two threads lay down what they exchange."""

    def __init__(self):
        self.meet = Barrier(2, timeout=60)
        self.sent = [[], []]

    def of_a_rank(self, step, *arguments, **options):
        """A rank's step; who fails keeps nobody waiting."""
        try:
            return step(*arguments, **options)
        except BaseException:
            self.meet.abort()
            raise


class Here(Sync):
    """A rank of two in one process: all of a sync but the process group."""

    def __init__(self, rank, desk):
        self.rank, self.ranks, self.desk = rank, 2, desk

    def sum(self, tensor):
        """Lay down, wait, and take the sum of what lies there."""
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
        """Some of the samples."""
        return Batch(*(None if part is None else part[start:stop] for part in self))

    def double(self):
        """The same in float64."""
        return Batch(*(p if p is None or p.dtype == torch.bool else p.double() for p in self))


def batch_of(shape, dtype, channels_last, options, cut, device):
    """Samples that differ in mean, so that no rank's own statistics would pass for the whole batch's."""
    generator = torch.Generator().manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def normal():
        values = torch.randn(shape, generator=generator).to(device)
        return values.to(dtype).contiguous(memory_format=layout)

    per_sample = shape[0], *[1] * (len(shape) - 1)
    x = normal() + torch.arange(shape[0], device=device, dtype=dtype).view(per_sample)
    x = x + options.get("offset", 0.0)
    valid, weights = None, None
    if options.get("mask"):
        valid = (torch.rand(shape[0], 1, *shape[2:], generator=generator) < 0.7).to(device)
        valid[: cut if options.get("hidden") else 0] = False
        if options.get("few"):
            valid = torch.zeros_like(valid)
            valid[(0,) * valid.ndim] = True
        x = torch.where(valid, x, torch.nan)
        work = torch.float64 if dtype == torch.float64 else torch.float32
        weights = valid * (torch.rand(per_sample, generator=generator, dtype=work).to(device) + 0.1)
    return Batch(x, normal(), normal() if options.get("residual") else None, valid, weights)


def trained(row, batch, affine, running, call, wants_x):
    """Forward and backward of one rank."""
    call = call._replace(valid=batch.valid, weights=batch.weights)
    assert row.supports(batch.x, call) is None
    y, kept, moments = row.forward(batch.x, *affine, batch.residual, running, call)
    return y, moments, row.backward(batch.g, batch.x, batch.residual, kept, call, wants_x)


def assert_near(found, expected, tolerance):
    """Equal, in units of the largest that is expected."""
    scale = expected.abs().max().clamp(min=1.0)
    torch.testing.assert_close(found.double() / scale, expected / scale, rtol=tolerance, atol=tolerance)
