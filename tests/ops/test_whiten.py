"""The whitening op against an oracle in NumPy, and its gradients where those of eigenvectors break down."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from normsmith.errors import InputError
from normsmith.ops.inverse_root import inverse_root
from normsmith.ops.whiten import comoments, merge_comoments, whiten


def oracle(x: Tensor, groups: int, eps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Output, mean and matrices by definition: float64, the inverse root through singular values."""
    channels = x.shape[1]
    rows = x.detach().double().transpose(0, 1).reshape(channels, -1).numpy()
    mean = rows.mean(1)
    ys, matrices = [], []
    for part in np.split(rows - mean[:, None], groups):
        left, singular, _ = np.linalg.svd(part @ part.T / part.shape[1] + eps * np.eye(len(part)))
        matrices.append(left @ np.diag(singular**-0.5) @ left.T)
        ys.append(matrices[-1] @ part)
    y = np.concatenate(ys).reshape(channels, x.shape[0], *x.shape[2:]).swapaxes(0, 1)
    return y, mean, np.stack(matrices)


def correlated(rows: int = 60, channels: int = 6, space: tuple[int, ...] = (), **like: object) -> Tensor:
    mix = torch.randn(channels, channels, **like)
    x = torch.einsum("cd,nd...->nc...", mix, torch.randn(rows, channels, *space, **like))
    return x + torch.randn(channels, *[1] * len(space), **like)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.float64, 1e-10)], ids=["float32", "float64"]
)
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("space", [(), (5,), (3, 2)], ids=str)
def test_against_the_oracle(
    dtype: torch.dtype, tolerance: float, groups: int, space: tuple[int, ...]
) -> None:
    x = correlated(space=space, dtype=dtype)
    mean, matrix = torch.zeros(6, dtype=dtype), torch.eye(6 // groups, dtype=dtype).repeat(groups, 1, 1)
    y = whiten(x, mean, matrix, groups=groups, momentum=0.25, eps=1e-3)
    wanted, its_mean, its_matrix = oracle(x, groups, 1e-3)
    np.testing.assert_allclose(y, wanted, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(mean, 0.25 * its_mean, rtol=tolerance, atol=tolerance)
    blended = 0.75 * np.eye(6 // groups) + 0.25 * its_matrix
    np.testing.assert_allclose(matrix, blended, rtol=tolerance, atol=tolerance)
    # and what was learned is what inference uses
    got = whiten(x, mean, matrix, groups=groups, normalize_with="running")
    rows = x.transpose(0, 1).reshape(groups, 6 // groups, -1) - mean.view(groups, -1, 1)
    torch.testing.assert_close(
        got.transpose(0, 1).reshape(groups, 6 // groups, -1), matrix @ rows, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("method", "iterations"), [("zca", 5), ("newton", 40)])
def test_covariance_becomes_the_identity(method: str, iterations: int) -> None:
    x = correlated(dtype=torch.float64)
    y = whiten(x, groups=2, method=method, iterations=iterations, eps=0.0)
    torch.testing.assert_close(y.mean(0), torch.zeros_like(y[0]), atol=1e-12, rtol=0)
    for part in y.split(3, 1):
        identity = torch.eye(3, dtype=torch.float64)
        torch.testing.assert_close(part.T @ part / len(x), identity, atol=1e-8, rtol=0)


@pytest.mark.parametrize("method", ["zca", "newton"])
def test_groups_of_one_are_batch_norm(method: str) -> None:
    x = correlated(space=(4,))
    wanted = torch.nn.functional.batch_norm(x, None, None, training=True)
    got = whiten(x, groups=6, method=method, iterations=5)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


# Gradients.


@pytest.mark.parametrize("method", ["zca", "newton"])
@pytest.mark.parametrize("masked", [False, True])
def test_gradcheck(method: str, masked: bool) -> None:
    x = correlated(7, 4, (2,), dtype=torch.float64).requires_grad_()
    weight = torch.randn(4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(7, 2) < 0.7 if masked else None

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return whiten(x, None, None, weight, bias, groups=2, method=method, mask=mask)

    assert torch.autograd.gradcheck(run, (x, weight, bias))
    assert torch.autograd.gradgradcheck(run, (x, weight, bias))


@pytest.mark.parametrize("method", ["zca", "newton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_at_repeated_eigenvalues(method: str, dtype: torch.dtype) -> None:
    """Σ = I exactly: torch's gradient of eigenvectors divides by zero."""
    x = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=dtype)
    values, vectors = torch.linalg.eigh((leaf := x.clone().requires_grad_()).T @ leaf / 4)
    naive = torch.autograd.grad(((vectors * values.rsqrt()) @ vectors.T).pow(3).sum() + vectors[0, 0], leaf)[
        0
    ]
    assert not naive.isfinite().all()

    x = x.requires_grad_()
    g = torch.randn_like(x)
    (found,) = torch.autograd.grad(whiten(x, method=method, eps=0.0, iterations=8), x, g)
    assert found.isfinite().all()
    # the limit of what distinct eigenvalues give
    near = (x + torch.tensor([1e-4, 0.0], dtype=dtype) * x).detach().requires_grad_()
    (close,) = torch.autograd.grad(whiten(near, method=method, eps=0.0, iterations=8), near, g)
    torch.testing.assert_close(found, close, rtol=1e-2, atol=1e-3)


def test_gradients_are_right_at_repeated_eigenvalues() -> None:
    x = torch.cat([torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)]).requires_grad_()
    assert torch.autograd.gradcheck(whiten, (x,))
    assert torch.autograd.gradgradcheck(whiten, (x,))


def test_no_gradient_goes_through_saved_running_buffers() -> None:
    """Under DDP the next broadcast would change it."""
    x, mean, matrix = correlated(4, 3).requires_grad_(), torch.zeros(3), torch.eye(3)[None] * 2
    y = whiten(x, mean, matrix, normalize_with="running")
    mean.fill_(9), matrix.fill_(9)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 2.0))


# Masks and small counts.


@pytest.mark.parametrize("method", ["zca", "newton"])
def test_a_mask_is_as_if_the_rest_were_not_there(method: str) -> None:
    x = correlated(6, 4, (5,), dtype=torch.float64)
    mask = torch.rand(6, 5) < 0.6
    mean, matrix = torch.zeros(4, dtype=torch.float64), torch.eye(2, dtype=torch.float64).repeat(2, 1, 1)
    twin_mean, twin_matrix = mean.clone(), matrix.clone()
    padded = torch.where(mask.unsqueeze(1), x, torch.nan).requires_grad_()
    y = whiten(padded, mean, matrix, groups=2, method=method, mask=mask.long())
    alone = x.transpose(1, 2)[mask].requires_grad_()
    wanted = whiten(alone, twin_mean, twin_matrix, groups=2, method=method)
    torch.testing.assert_close(y.transpose(1, 2)[mask], wanted)
    assert (y.transpose(1, 2)[~mask] == 0).all()
    torch.testing.assert_close(mean, twin_mean)
    torch.testing.assert_close(matrix, twin_matrix)
    y.pow(3).sum().backward()
    wanted.pow(3).sum().backward()
    torch.testing.assert_close(padded.grad.transpose(1, 2)[mask], alone.grad)
    assert (padded.grad.transpose(1, 2)[~mask] == 0).all()


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_no_more_values_than_channels(rows: int) -> None:
    x = torch.randn(rows, 6)
    mean, matrix = torch.randn(6), torch.randn(2, 3, 3)
    before = mean.clone(), matrix.clone()
    with pytest.raises(InputError, match=f"than the 3 channels.*got {rows} from"):
        whiten(x, mean, matrix, groups=2)
    y = whiten(x, mean, matrix, groups=2, on_small_batch="running")
    torch.testing.assert_close(y, whiten(x, mean, matrix, groups=2, normalize_with="running"))
    assert torch.equal(mean, before[0])
    assert torch.equal(matrix, before[1])
    whiten(torch.randn(4, 6), mean, matrix, groups=2)
    assert not torch.equal(matrix, before[1])


@pytest.mark.parametrize("valid", [0, 1, 3])
def test_masks_that_leave_too_little_go_by_running_statistics(valid: int) -> None:
    x, mean, matrix = torch.randn(8, 3).requires_grad_(), torch.randn(3), torch.eye(3)[None] * 2
    counter = torch.tensor(0)
    mask = torch.arange(8) < valid
    y = whiten(x, mean, matrix, mask=mask, num_batches_tracked=counter, momentum=None)
    torch.testing.assert_close(y[:valid], 2 * (x - mean)[:valid])
    assert (y[valid:] == 0).all()
    assert torch.equal(matrix, torch.eye(3)[None] * 2)
    assert counter == 0
    y.sum().backward()
    torch.testing.assert_close(x.grad[:valid], torch.full((valid, 3), 2.0))
    # nothing tracked: the initial values of running statistics
    torch.testing.assert_close(whiten(x, mask=mask, eps=0.0)[:valid], x[:valid])


def test_nobody_there() -> None:
    mean, matrix = torch.zeros(3), torch.eye(3)[None]
    assert whiten(torch.randn(0, 3), mean, matrix).shape == (0, 3)
    assert torch.equal(mean, torch.zeros(3))


@pytest.mark.parametrize("method", ["zca", "newton"])
def test_values_that_are_not_finite_show_and_stay_out(method: str) -> None:
    x = torch.randn(20, 4)
    x[3, 1] = float("inf")
    mean, matrix = torch.zeros(4), torch.eye(2).repeat(2, 1, 1)
    y = whiten(x, mean, matrix, groups=2, method=method)
    assert y[:, :2].isnan().any()
    assert y[:, 2:].isfinite().all()
    assert torch.equal(matrix[0], torch.eye(2))
    assert torch.equal(mean[:2], torch.zeros(2))
    assert not torch.equal(matrix[1], torch.eye(2))
    huge = whiten(torch.randn(20, 4) * 1e30, mean, matrix, groups=2, method=method)
    assert not huge.isfinite().any()
    assert matrix.isfinite().all()
    whiten(x, mean, matrix, groups=2, method=method, on_nonfinite="propagate")
    assert not matrix[0].isfinite().any()


def test_large_means_and_scales_in_float32() -> None:
    """Where eps is below rounding, eigenvalues come out at or below zero."""
    x = correlated(200, 3) + 1e4
    wanted, *_ = oracle(x, 1, 1e-5)
    np.testing.assert_allclose(whiten(x), wanted, atol=2e-3)
    flat = torch.randn(50, 1).expand(50, 3) * 1e3
    assert whiten(flat.clone().requires_grad_()).isfinite().all()


# Bookkeeping.


def test_momentum_none_averages_the_matrices() -> None:
    parts = [correlated(20, 3) for _ in range(3)]
    mean, matrix, counter = torch.zeros(3), torch.eye(3)[None].clone(), torch.tensor(0)
    for part in parts:
        whiten(part, mean, matrix, momentum=None, num_batches_tracked=counter)
    assert counter == 3
    torch.testing.assert_close(mean, torch.stack([part.mean(0) for part in parts]).mean(0))
    roots = [inverse_root(comoments(part.T[None]).covariance(1e-5)) for part in parts]
    torch.testing.assert_close(matrix, torch.stack(roots).mean(0))


def test_merged_comoments_are_those_of_all() -> None:
    x = correlated(20, 4, dtype=torch.float64) + 100
    rows = x.T.reshape(2, 2, 20)
    mask = torch.arange(20).view(1, 1, 20) < 15
    parts = [comoments(rows[..., :4]), comoments(torch.where(mask, rows, 0.0)[..., 4:], mask[..., 4:])]
    merged, whole = merge_comoments(parts), comoments(rows[..., :15])
    assert merged.count == 15
    torch.testing.assert_close(merged.mean + merged.low, whole.mean + whole.low)
    torch.testing.assert_close(merged.product, whole.product)
    assert merge_comoments([comoments(rows[..., :0])]).product.abs().sum() == 0


def test_collected_moments_take_the_place_of_an_update() -> None:
    mean, matrix, collected = torch.zeros(3), torch.eye(3)[None], []
    whiten(correlated(20, 3).requires_grad_(), mean, matrix, collected=collected)
    assert torch.equal(mean, torch.zeros(3))
    assert not collected[0].product.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ["zca", "newton"])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, method: str) -> None:
    x = correlated().to(dtype).requires_grad_()
    mean, matrix = torch.zeros(6), torch.eye(6)[None].clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = whiten(x, mean, matrix, torch.ones(6, dtype=dtype), method=method, eps=1e-3)
    assert y.dtype == dtype
    torch.testing.assert_close(y, whiten(x.float(), method=method, eps=1e-3).to(dtype))
    y.sum().backward()
    assert x.grad.dtype == dtype


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_layout_is_kept(layout: torch.memory_format) -> None:
    x = correlated(8, 6, (3, 4)).contiguous(memory_format=layout)
    assert whiten(x, groups=2).is_contiguous(memory_format=layout)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"groups": 3}, "groups: expected a divisor of the 4 channels"),
        ({"normalize_with": "running"}, "running_mean and running_whitening"),
        ({"running_mean": torch.zeros(4), "running_whitening": torch.eye(4)}, r"running_whitening of shape"),
        ({"mask": torch.ones(7, dtype=torch.bool)}, "mask: expected shape"),
        ({"mask": torch.ones(8)}, "0/1 integers"),
    ],
)
def test_bad_calls(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        whiten(**{"x": torch.randn(8, 4), **arguments})
