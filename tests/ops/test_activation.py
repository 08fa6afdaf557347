"""Activations by name: each gradient is that of its function."""

from __future__ import annotations

import pytest
import torch

from normsmith.errors import InputError
from normsmith.ops import ACTIVATIONS
from normsmith.ops.activation import activation_named


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_backward_is_the_gradient_of_forward(name):
    act = ACTIVATIONS[name]
    x = (torch.randn(100, dtype=torch.float64) * 3).requires_grad_()
    g = torch.randn(100, dtype=torch.float64)
    (want,) = torch.autograd.grad(act.forward(x), x, g)
    torch.testing.assert_close(act.backward(g, x.detach()), want)


def test_names_are_looked_up():
    assert activation_named("relu") is ACTIVATIONS["relu"]
    assert activation_named(None) is None
    with pytest.raises(InputError, match=r"expected one of relu, leaky_relu, .* or None; got 'rellu'"):
        activation_named("rellu")


def test_the_table_cannot_be_written_to():
    with pytest.raises(TypeError):
        ACTIVATIONS["square"] = ACTIVATIONS["relu"]
