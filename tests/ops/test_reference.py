"""The row `reference`: four halves that others may override, and a path that can be run again."""

from __future__ import annotations

import torch

from normsmith.ops import ACTIVATIONS, Running
from normsmith.ops.call import Call
from normsmith.ops.reference import Reference


def test_the_path_run_again_keeps_the_decisions_and_follows_the_input():
    """For gradients of gradients: groups that went by running statistics still do, and r and d are constants."""
    x, running = (
        torch.randn(4, 3, dtype=torch.float64),
        Running(torch.ones(3).double(), torch.ones(3).double() * 4),
    )
    weights = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).view(4, 1)
    for call in (Call(), Call(weights=weights), Call(by_batch=False)):
        y, kept, _ = Reference().forward(x, None, None, None, running, call)
        again = Reference().repeat(x.clone().requires_grad_(), None, None, None, kept.resolved, call)
        torch.testing.assert_close(again.detach(), y)
        slope = torch.autograd.functional.jacobian(
            lambda x, call=call, kept=kept: Reference().repeat(x, None, None, None, kept.resolved, call), x
        )
        others = slope[0, 0, 1:, 0].abs().max()
        assert (others > 0) == (call == Call())  # only a batch's own statistics depend on its other samples


def test_without_a_gradient_for_the_batch_only_the_sums_are_computed():
    class Counted(Reference):
        gradient = staticmethod(lambda *arguments: (_ for _ in ()).throw(AssertionError("dx is computed")))

    x = torch.randn(6, 3, dtype=torch.float64)
    _, kept, _ = Reference().forward(x, None, None, None, None, Call())
    dx, dresidual, affine = Counted().backward(x, x, None, kept, Call(), False)
    assert dx is None
    assert dresidual is None
    torch.testing.assert_close(affine.bias, x.sum(0))


def test_an_override_of_one_half_is_used():
    class Doubled(Reference):
        apply = staticmethod(lambda operands: 2 * Reference.apply(operands))

    x = torch.randn(6, 3)
    call = Call(activation=ACTIVATIONS["relu"])
    want = Reference().forward(x, None, None, None, None, call).y
    torch.testing.assert_close(Doubled().forward(x, None, None, None, None, call).y, 2 * want)
