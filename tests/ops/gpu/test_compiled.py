"""What a compiled kernel is given when it starts: addresses and numbers in its order, and what profilers listen to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", minversion="3.6")  # older ones the row refuses
from normsmith.ops.gpu import compiled
from normsmith.ops.gpu.launch import Launch


class Kernel:
    """A kernel with four parameters and a constant, which is compiled by taking note of it."""

    arg_names = ("x", "rows", "y", "gamma", "ACT")

    def __init__(self, launcher: Any) -> None:
        self.started: list[tuple[Any, ...]] = []
        self.compiled_for: tuple[Any, ...] = ()
        self.launcher = launcher

    def warmup(self, *arguments: Any, grid: tuple[int, ...], num_warps: int, **constants: Any) -> Any:
        """What Triton gives back."""
        self.compiled_for = arguments
        seen = lambda *given: ("seen", *given)  # noqa: E731
        return SimpleNamespace(
            run=self.launcher, function="f", packed_metadata=(num_warps, 1, 0), launch_metadata=seen
        )


def ready(launcher: Any) -> tuple[compiled.Compiled, Kernel, torch.Tensor]:
    """A launch on a batch that differs, with a vector that stays."""
    kernel, gamma = Kernel(launcher), torch.ones(3)
    kinds = {"x": compiled.Pointer(torch.float32), "y": compiled.Pointer(torch.float32, 4), "gamma": gamma}
    launch = Launch(kernel, 7, ("x", 60, "y", "gamma"), 4, {"ACT": "relu"})
    return compiled.Compiled(launch, kinds, ("y", "x")), kernel, gamma


@pytest.fixture
def started():
    return []


def test_addresses_stand_where_tensors_do(started):
    prepared, kernel, gamma = ready(lambda *given: started.append(given))
    prepared.start(5, (111, 222))
    assert started == [(7, 1, 1, 5, "f", (4, 1, 0), None, None, None, 222, 60, 111, gamma.data_ptr(), "relu")]
    x, rows, y, vector = kernel.compiled_for
    assert (x.dtype, x.data_ptr(), rows, y.data_ptr(), vector is gamma) == (torch.float32, 0, 60, 4, True)


@pytest.mark.parametrize(("version", "together"), [("3.6.0", False), ("3.7.1", True)])
def test_the_launcher_of_each_version_is_started_without_its_wrapper(version, together, started, monkeypatch):
    monkeypatch.setattr(compiled.triton, "__version__", version)
    launcher = SimpleNamespace(
        launch=lambda *given: started.append(given), global_scratch_size=0, profile_scratch_size=0,
        launch_cooperative_grid=False, launch_pdl=True, arg_annotations="a", kernel_signature="s",
    )  # fmt: skip
    prepared, _, gamma = ready(launcher)
    prepared.start(5, (111, 222))
    arguments, head = (222, 60, 111, gamma.data_ptr(), "relu"), (7, 1, 1, 5, "f", False, True)
    nothing = (None, None, None)
    assert started == (
        [(*head, (4, 1, 0), *nothing, None, None, "a", "s", arguments)]
        if together
        else [(*head, None, None, (4, 1, 0), *nothing, *arguments)]
    )


def test_profilers_hear_of_launches(started, monkeypatch):
    prepared, *_ = ready(lambda *given: started.append(given))
    hook = SimpleNamespace(calls=[print])
    monkeypatch.setattr(compiled.knobs.runtime, "launch_enter_hook", hook)
    prepared.start(5, (111, 222))
    assert started[0][6][0] == "seen"
    assert started[0][7] is hook


@pytest.mark.parametrize(
    ("version", "kept"), [("3.6.0", True), ("3.7.1", True), ("3.5.0", False), ("4.0.0", False)]
)
def test_only_versions_that_were_tried_are_trusted(version, kept, monkeypatch):
    monkeypatch.setattr(compiled.triton, "__version__", version)
    assert compiled.can_be_kept() == kept
