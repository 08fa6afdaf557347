"""The table of backends: every row keeps the contract, one of them serves every call, and `explain` says which."""

import subprocess
import sys

import pytest
import torch
from tests.contracts.backend import BackendContract

from normsmith.errors import BackendError
from normsmith.ops import BACKENDS, batch_norm, explain
from normsmith.ops.call import Call
from normsmith.ops.dispatch import rows_from


class TestNumba(BackendContract):
    backend = next(row for row in BACKENDS if row.name == "numba")


class TestAten(BackendContract):
    backend = next(row for row in BACKENDS if row.name == "aten")


class TestReference(BackendContract):
    backend = next(row for row in BACKENDS if row.name == "reference")


def test_every_row_has_its_contract():
    tested = {cls.backend.name for cls in BackendContract.__subclasses__()}
    # of "triton": in tests/ops/gpu/test_kernels, in a process of its own
    assert tested - {"triton"} == {row.name for row in BACKENDS} - {"triton"}


def test_the_last_row_serves_everything():
    x = torch.randn(4, 3)
    assert BACKENDS[-1].supports(x, Call(valid=x[:, :1] > 0, weights=x[:, :1], by_batch=False)) is None


def test_environment_forces_a_row(monkeypatch):
    x = torch.randn(4, 3)
    monkeypatch.setenv("NORMSMITH_BACKEND", "reference")
    others = [f"{name}: NORMSMITH_BACKEND asks for reference" for name in ("numba", "triton", "aten")]
    assert explain(x).splitlines() == [*others, "reference: taken"]
    batch_norm(x)
    monkeypatch.setenv("NORMSMITH_BACKEND", "aten")
    with pytest.raises(BackendError, match="cannot serve this call: knows no mask"):
        batch_norm(x, mask=torch.ones(4, dtype=torch.bool))
    monkeypatch.setenv("NORMSMITH_BACKEND", "abacus")
    with pytest.raises(
        BackendError, match=r"expected one of numba, triton, aten, reference, .* got 'abacus'"
    ):
        batch_norm(x)


def test_environment_names_several_rows_which_are_tried_in_the_order_of_the_table(monkeypatch):
    x, mask = torch.randn(4, 3), torch.ones(4, dtype=torch.bool)
    monkeypatch.setenv("NORMSMITH_BACKEND", "reference,aten")
    asked = "NORMSMITH_BACKEND asks for reference,aten"
    assert explain(x).splitlines() == [f"numba: {asked}", f"triton: {asked}", "aten: taken"]
    assert explain(x, mask=mask).endswith("reference: taken")
    batch_norm(x, mask=mask)
    monkeypatch.setenv("NORMSMITH_BACKEND", "triton,aten")
    with pytest.raises(BackendError, match=r"serves NVIDIA GPUs, .*; knows no mask, .*; unset it"):
        batch_norm(x, mask=mask)


def test_a_row_and_those_after_it():
    assert rows_from("numba") == "numba,triton,aten,reference"
    assert rows_from("reference") == "reference"
    with pytest.raises(BackendError, match="got 'refrence'; did you mean reference"):
        rows_from("refrence")


def test_explain_names_the_row_and_the_reasons():
    assert explain(torch.randn(4, 3)) == "numba: taken"
    assert explain(torch.randn(0, 3), normalize_with="running").splitlines() == [
        "numba: the batch is empty",
        "triton: serves NVIDIA GPUs, got a tensor on cpu",
        "aten: serves normalisation by the batch's statistics",
        "reference: taken",
    ]


def test_importing_needs_no_shape_checker():
    code = "import sys; sys.modules['jaxtyping'] = None; import normsmith.ops as ops; print(ops.Moments.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "Moments\n", done.stderr
