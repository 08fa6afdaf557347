"""What computes a trial is in its key, and is the same in worker processes; every backend of a CPU runs a study."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from normsmith.errors import BackendError, StudyError
from normsmith.studies import Settings, run_study, select
from normsmith.studies.arms import AS_IS
from normsmith.studies.executors.local import LocalWorkers
from normsmith.studies.executors.reference import TaskReference
from normsmith.studies.trial import Trial
from normsmith.studies.versions import served_from, serving, versions
from normsmith.tasks import load


def printed(code, **environment):
    """What a process with these environment variables prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )  # fmt: skip
    return done.stdout.strip()


def test_backend_and_instruction_set_are_among_the_versions():
    here = versions("cpu")
    assert {"normsmith", "torch", "numpy", "python", "backend", "instruction set"} == set(here)
    assert here["backend"].startswith("numba 0.")
    assert torch.backends.cpu.get_cpu_capability() in here["instruction set"]


def test_instruction_sets_that_were_chosen_are_named():
    code = "from normsmith.studies.versions import versions; print(versions()['instruction set'])"
    chosen = printed(code, ATEN_CPU_CAPABILITY="default", NUMBA_CPU_NAME="x86-64-v2", MKL_CBWR="COMPATIBLE")
    kind = versions()["instruction set"].split()[0]
    assert chosen == f"{kind} DEFAULT, MKL_CBWR=COMPATIBLE, numba for x86-64-v2"


def test_the_key_of_a_trial_holds_them():
    trial, here = Trial(AS_IS, 0.1, 0, 20), versions()
    other = {**here, "backend": "reference"}
    assert trial.key("task", here) != trial.key("task", other)


class TestServedFrom:
    def test_a_row_and_those_after_it(self, monkeypatch):
        monkeypatch.delenv("NORMSMITH_BACKEND", raising=False)
        with served_from("aten", "cpu"):
            assert os.environ["NORMSMITH_BACKEND"] == "aten,reference"
            assert versions()["backend"] == serving("cpu") == "aten"
        assert "NORMSMITH_BACKEND" not in os.environ
        with served_from(None, "cpu"):
            assert serving("cpu") == "numba"

    @pytest.mark.parametrize(("asked", "inside"), [("aten", "aten,reference"), ("aten,reference",) * 2])
    def test_what_the_environment_asks_for(self, monkeypatch, asked, inside):
        monkeypatch.setenv("NORMSMITH_BACKEND", asked)
        with served_from(None, "cpu"):
            assert os.environ["NORMSMITH_BACKEND"] == inside
        assert os.environ["NORMSMITH_BACKEND"] == asked

    def test_what_cannot_serve_is_refused_and_nothing_is_left_behind(self, monkeypatch):
        monkeypatch.setenv("NORMSMITH_BACKEND", "reference")
        refusal = "triton cannot compute this study: serves NVIDIA GPUs"
        with pytest.raises(StudyError, match=refusal), served_from("triton", "cpu"):
            pass
        with pytest.raises(BackendError, match="did you mean numba"), served_from("nubma", "cpu"):
            pass
        assert os.environ["NORMSMITH_BACKEND"] == "reference"


@pytest.mark.parametrize("row", ["numba", "aten", "reference"])
def test_every_row_of_a_cpu_runs_a_study(store, tiny, monkeypatch, row):
    """Small batches use ghost batches, and every question evaluates, which the row `aten` does not serve."""
    monkeypatch.setenv("NORMSMITH_BACKEND", row)
    result = run_study(tiny(), select(("small-batches",)), store, Settings(seeds=1, steps=3))
    assert result.trials_new
    assert not [failure for failure in result.failures if failure.status != "diverged"]
    assert result.versions["backend"].split()[0] == row
    assert result.versions["instruction set"]


def test_workers_that_would_compute_otherwise_are_refused(tiny):
    reference = TaskReference.to(load(tiny()), tiny())
    reference = replace(reference, versions={**reference.versions, "instruction set": "abacus"})
    with (
        LocalWorkers(reference, 1, 60.0) as runner,
        pytest.raises(StudyError, match="compute with instruction set abacus, got instruction set"),
    ):
        runner.run([Trial(AS_IS, 0.1, 0, 2)], lambda trial, outcome: None)
