"""The inverse square root of matrices: against singular values, its two methods, and what is not finite."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from normsmith.ops.inverse_root import inverse_root, newton, zca


def covariance_of(size: int) -> Tensor:
    """A positive definite matrix in float64."""
    mix = torch.randn(size, 3 * size, dtype=torch.float64)
    return mix @ mix.T / (3 * size) + 1e-3 * torch.eye(size, dtype=torch.float64)


@pytest.mark.parametrize(("method", "iterations"), [("zca", 5), ("newton", 40)])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_is_symmetric_and_inverts_the_matrix(method: str, iterations: int, size: int) -> None:
    covariance = torch.stack([covariance_of(size) for _ in range(3)])
    root = inverse_root(covariance, method, iterations)
    torch.testing.assert_close(root, root.mT)
    identity = torch.eye(size, dtype=torch.float64).expand(3, -1, -1)
    torch.testing.assert_close(root @ covariance @ root, identity, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("method", ["zca", "newton"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_matrix_that_is_not_finite_gives_nan_and_leaves_the_others(method: str, value: float) -> None:
    covariance = torch.stack([covariance_of(3), covariance_of(3)])
    good = inverse_root(covariance[1:], method)
    covariance[0, 1, 1] = value
    root = inverse_root(covariance, method)
    assert root[0].isnan().all()
    torch.testing.assert_close(root[1:], good)


def test_eigenvalues_at_or_below_zero_are_raised_to_what_rounding_knows() -> None:
    covariance = torch.diag(torch.tensor([1.0, 0.0, -1e-9])).unsqueeze(0)
    root = zca(covariance)
    assert root.isfinite().all()
    least = torch.finfo(torch.float32).eps * 3
    torch.testing.assert_close(root[0].diagonal()[1:], torch.full((2,), least**-0.5))


@pytest.mark.parametrize("method", ["zca", "newton"])
def test_gradients_of_matrices_with_equal_eigenvalues_are_right(method: str) -> None:
    covariance = (2 * torch.eye(3, dtype=torch.float64)).unsqueeze(0).requires_grad_()

    def run(covariance: Tensor) -> Tensor:
        return inverse_root((covariance + covariance.mT) / 2, method, 12)

    assert torch.autograd.gradcheck(run, (covariance,))
    assert torch.autograd.gradgradcheck(run, (covariance,))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, within jvp
def test_forward_mode_is_newtons_alone_and_a_hessian_has_another_way() -> None:
    covariance = covariance_of(3)

    def total(covariance: Tensor, method: str) -> Tensor:
        return inverse_root(((covariance + covariance.mT) / 2).unsqueeze(0), method, 40).pow(3).sum()

    with pytest.raises(RuntimeError, match="jvp"):  # torch's own: a rule for it would keep the compiler out
        torch.func.hessian(total)(covariance, "zca")
    want = torch.func.jacrev(torch.func.grad(total))(covariance, "zca")
    torch.testing.assert_close(torch.func.hessian(total)(covariance, "newton"), want, rtol=1e-5, atol=1e-5)


def test_newton_is_its_formula_and_goes_to_zca() -> None:
    covariance = covariance_of(6).unsqueeze(0)
    trace = covariance[0].trace()
    p, scaled = torch.eye(6, dtype=torch.float64), covariance[0] / trace
    for _ in range(5):
        p = 1.5 * p - 0.5 * p @ p @ p @ scaled
    torch.testing.assert_close(newton(covariance, 5)[0], p / trace.sqrt(), rtol=1e-9, atol=1e-9)
    exact = zca(covariance)
    errors = [(newton(covariance, iterations) - exact).norm().item() for iterations in (3, 6, 12, 40)]
    assert errors[:3] == sorted(errors[:3], reverse=True)
    assert errors[3] < 1e-9 * exact.norm().item()


def test_newton_survives_float32_and_many_iterations() -> None:
    """The uncoupled iteration is driven apart by rounding: at condition 1e4 its float32 error explodes."""
    basis = torch.linalg.qr(torch.randn(8, 8)).Q
    covariance = (basis * torch.logspace(-4, 0, 8)) @ basis.T
    identity = torch.eye(8)
    product = newton(covariance.unsqueeze(0), 40)[0] @ covariance @ newton(covariance.unsqueeze(0), 40)[0]
    torch.testing.assert_close(product, identity, atol=2e-2, rtol=0)
