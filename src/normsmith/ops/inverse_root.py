"""The symmetric inverse square root of covariance matrices, with gradients that repeated eigenvalues leave finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def inverse_root(covariance: Tensor, method: str = "zca", iterations: int = 5) -> Tensor:
    """W = Σ^(−1/2) of each matrix, shape (groups, size, size), float32 or float64; symmetric.

    Args:
        covariance: symmetric, positive semi-definite. A matrix that is not finite gives NaN.
        method: "zca" (exact) or "newton".
        iterations: of "newton".

    >>> inverse_root(torch.tensor([[[4.0, 0.0], [0.0, 4.0]]]))
    tensor([[[0.5000, 0.0000],
             [0.0000, 0.5000]]])
    """
    # an eigendecomposition of what is not finite would raise
    finite = covariance.isfinite().all(-1).all(-1)[:, None, None]
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    usable = torch.where(finite, covariance, identity)
    root = newton(usable, iterations) if method == "newton" else zca(usable)
    return torch.where(finite, root, torch.nan)


METHODS = ("zca", "newton")


def zca(covariance: Tensor) -> Tensor:
    """Σ^(−1/2) = U·Λ^(−1/2)·Uᵀ by eigendecomposition.

    The gradient solves S·X + X·S = G with S = Σ^(1/2). That divides by sums of eigenvalues, where the gradient of an
    eigendecomposition divides by their differences, so that equal ones do no harm. It can be differentiated any
    number of times.

    >>> zca(torch.tensor([[[4.0, 0.0], [0.0, 4.0]]])).diagonal(dim1=1, dim2=2)
    tensor([[0.5000, 0.5000]])
    """
    root: Tensor = _InverseRoot.apply(covariance)[0]  # type: ignore[no-untyped-call]
    return root


def newton(covariance: Tensor, iterations: int = 5) -> Tensor:
    """Σ^(−1/2), approached by Newton's iterations; the smallest eigenvalues need the most of them.

        Σ_N = Σ/tr(Σ)    P ← 1.5·P − 0.5·P³·Σ_N    W = P/√tr(Σ)

    The iterations are computed with Y = P·Σ_N beside P (P³·Σ_N = P·Y·P): as they stand above, rounding errors grow.

    >>> newton(torch.tensor([[[4.0, 0.0], [0.0, 4.0]]])).diagonal(dim1=1, dim2=2).round(decimals=3)
    tensor([[0.5000, 0.5000]])
    """
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    p, y = identity.expand_as(covariance), covariance / trace
    for _ in range(iterations):
        step = 1.5 * identity - 0.5 * (p @ y)
        p, y = step @ p, y @ step
    return p / trace.sqrt()


class _InverseRoot(torch.autograd.Function):
    """Σ → W, and the constants of the solver: √λ and U.

    From WΣW = I: S·dW + dW·S = −W·dΣ·W, and so dL/dΣ = −W·X·W with S·X + X·S = dL/dW.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(covariance)
        # rounding may leave eigenvalues at or below zero
        least = torch.finfo(values.dtype).eps * values.shape[-1] * values[..., -1:].clamp(min=0)
        roots = values.clamp(min=torch.finfo(values.dtype).tiny).maximum(least).sqrt()
        return (vectors / roots.unsqueeze(-2)) @ vectors.mT, roots, vectors

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> Tensor:
        covariance, inverse, roots, vectors = ctx.saved_tensors
        g = (incoming[0] + incoming[0].mT) / 2
        root = covariance @ inverse  # S, as a function of Σ: for gradients of gradients
        solution: Tensor = _Lyapunov.apply(root, g, roots, vectors)  # type: ignore[no-untyped-call]
        gradient: Tensor = -(inverse @ solution @ inverse)
        return gradient


class _Lyapunov(torch.autograd.Function):
    """X with S·X + X·S = Q, by the eigendecomposition of S; all symmetric."""

    generate_vmap_rule = True

    @staticmethod
    def forward(root: Tensor, q: Tensor, roots: Tensor, vectors: Tensor) -> Tensor:
        rotated = (vectors.mT @ q @ vectors) / (roots.unsqueeze(-1) + roots.unsqueeze(-2))
        return vectors @ rotated @ vectors.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        root, _, roots, vectors = inputs
        ctx.save_for_backward(root, roots, vectors, output)

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> tuple[Tensor, Tensor, None, None]:
        root, roots, vectors, solution = ctx.saved_tensors
        g = (incoming[0] + incoming[0].mT) / 2
        back: Tensor = _Lyapunov.apply(root, g, roots, vectors)  # type: ignore[no-untyped-call]
        return -(back @ solution + solution @ back), back, None, None
