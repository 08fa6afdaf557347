"""The loss and its gradient around an iterate: the same noise at each, and nothing that stays changed."""

import copy

import pytest
import torch
from torch import nn

from normsmith.errors import InputError
from normsmith.layers import BatchNorm1d
from normsmith.measure import Iterate, internal_covariate_shift, iterate_of, smoothness
from normsmith.measure.iterate import apart, size
from normsmith.tasks import digits_cnn


def squares(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch).square().mean()


def noisy() -> Iterate:
    """Dropout, statistics that move at each forward, and a parameter that nothing uses."""
    model = nn.Sequential(nn.Linear(3, 8), BatchNorm1d(8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 1))
    model.unused = nn.Parameter(torch.ones(2))
    return Iterate(model, torch.randn(16, 3), squares)


def test_the_gradient_is_that_of_the_loss():
    iterate = Iterate(nn.Linear(2, 1), torch.randn(5, 2), squares)
    loss, gradient = iterate.gradient()
    squares(iterate.model, iterate.batch).backward()
    assert loss == pytest.approx(squares(iterate.model, iterate.batch).item())
    assert torch.equal(gradient["weight"], iterate.model.weight.grad)
    assert torch.equal(gradient["bias"], iterate.model.bias.grad)


def test_every_call_has_the_same_noise_and_buffers():
    iterate = noisy()
    first, second = iterate.gradient(), iterate.gradient()
    assert first[0] == second[0]
    assert apart(first[1], second[1]) == 0
    assert iterate.gradient(seed=1)[0] != first[0]
    assert size({"": first[1]["unused"]}) == 0


def test_some_parameters_are_moved_and_some_gradients_wanted():
    iterate = noisy()
    zero = {path: torch.zeros_like(value) for path, value in iterate.parameters.items()}
    loss, gradient = iterate.gradient(zero, of=["4.bias"])
    assert loss == 0
    assert list(gradient) == ["4.bias"]
    assert iterate.gradient()[0] > 0


@pytest.mark.parametrize(
    "measure",
    [lambda i: i.gradient(), lambda i: smoothness(i, 0.1), lambda i: internal_covariate_shift(i, 0.1)],
)
def test_nothing_of_the_model_moves(measure):
    iterate = noisy()
    model = iterate.model
    model[4].eval()
    squares(model, iterate.batch).backward()
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    gradients = [(p.grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    measure(iterate)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    for parameter, (grad, values) in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is grad
        assert grad is None or torch.equal(grad, values)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_task_gives_the_same_iterate_at_each_call():
    one, other = iterate_of(digits_cnn()), iterate_of(digits_cnn())
    assert one.gradient()[0] == other.gradient()[0]
    assert one.model.training
    model = one.model.eval()
    assert iterate_of(digits_cnn(), model).model is model
    assert not model.training


def test_a_loss_that_is_no_scalar_is_refused():
    with pytest.raises(InputError, match=r"expected a scalar tensor, got one of shape \(4, 1\)"):
        Iterate(nn.Linear(2, 1), torch.ones(4, 2), lambda model, x: model(x)).gradient()


def test_a_loss_that_is_no_tensor_is_refused():
    with pytest.raises(InputError, match="expected a scalar tensor, got float"):
        Iterate(nn.Linear(2, 1), torch.ones(4, 2), lambda model, x: squares(model, x).item()).gradient()


def test_a_frozen_model_and_a_detached_loss_are_refused():
    frozen = nn.Linear(2, 1).requires_grad_(False)
    for model, loss in ((frozen, squares), (nn.Linear(2, 1), lambda *given: squares(*given).detach())):
        for x in (torch.ones(4, 2), torch.ones(4, 2, requires_grad=True)):
            with pytest.raises(InputError, match="depends on parameters that take gradients"):
                Iterate(model, x, loss).gradient()
