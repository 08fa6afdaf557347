"""Parameters that a forward did not use, made part of it with gradient zero."""

import torch

from normsmith.layers.take_part import take_part


def test_unused_parameters_have_gradient_zero_and_the_input_its_own():
    x = torch.randn(3, requires_grad=True)
    unused = [torch.full((2,), float("nan"), requires_grad=True), torch.ones(1, requires_grad=True)]
    y = take_part(x, *unused)
    assert torch.equal(y, x)
    y.square().sum().backward()
    assert torch.equal(x.grad, 2 * x)
    assert [parameter.grad.tolist() for parameter in unused] == [[0, 0], [0]]


def test_without_parameters_it_is_the_input_itself():
    x = torch.randn(3)
    assert take_part(x) is x


def test_gradients_of_gradients():
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    unused = torch.ones(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, p: take_part(x, p).pow(3), (x, unused))
