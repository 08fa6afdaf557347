"""Standard output holds results alone, and a task's threads do not keep the command from ending."""

import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from normsmith import errors
from normsmith.cli.prints import leave_behind, prints_aside
from normsmith.studies import StudyResult

ROOT = Path(__file__).parents[2]
HOSTILE = """
import atexit, ctypes, os, threading, time
import torch
from tests.studies.tiny import make

def speak(where):
    print("print", where)
    os.write(1, f"C {where}".encode())
    ctypes.CDLL(None).printf(b"buffered by C\\n")

speak("at import")
atexit.register(speak, "at exit")
os.makedirs(os.path.dirname(os.path.abspath(__file__)) + "/data", exist_ok=True)
os.chdir(os.path.dirname(os.path.abspath(__file__)) + "/data")
threading.Thread(target=time.sleep, args=(600,), name="the sleeper").start()

def forward(model, batch):
    speak("in forward")
    assert os.path.basename(os.getcwd()) == "data"
    return model(batch[0]), batch[1]

task = make("loud", forward=forward)
"""


@pytest.mark.parametrize("leaves", [False, True])
def test_results_are_alone_on_standard_output(tmp_path, leaves):
    """The task prints in every way, changes the working directory and, once, leaves a thread behind."""
    thread = next(line for line in HOSTILE.splitlines() if line.startswith("threading"))
    (tmp_path / "loud.py").write_text(HOSTILE if leaves else HOSTILE.replace(thread, ""))
    ran = subprocess.run(
        [sys.executable, "-m", "normsmith", "study", "loud.py", "-q", "fewer-steps", "--seeds", "1", "--jobs", "1",
         "--steps", "2", "--format", "json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{Path(errors.__file__).parents[1]}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert StudyResult.model_validate_json(ran.stdout).task == "loud"
    for words in ("print at import", "C at import", "print in forward", "C in forward"):
        assert words in ran.stderr
    assert ("threads running, which are not waited for: the sleeper" in ran.stderr) == leaves
    assert ("print at exit" in ran.stderr) != leaves
    assert {path.name for path in tmp_path.iterdir()} >= {"study.db", "report.html"}
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("error", [None, KeyError()])
def test_standard_output_is_as_before_after_the_block(capfd, error):
    with suppress(KeyError), prints_aside():
        os.write(1, b"by C\n")
        sys.stdout.write("by Python\n")
        if error is not None:
            raise error
    sys.stdout.write("later\n")
    os.write(1, b"by C, later\n")
    said = capfd.readouterr()
    assert sorted(said.out.splitlines()) == ["by C, later", "later"]
    assert sorted(said.err.splitlines()) == ["by C", "by Python"]


def test_threads_that_were_there_or_end_with_the_process_are_nobodys_fault(capfd):
    gate = threading.Event()
    threads = [threading.Thread(target=gate.wait, daemon=daemon) for daemon in (True, False)]
    before = set(threading.enumerate())
    for thread in threads:
        thread.start()
    try:
        assert leave_behind(before)
        assert not leave_behind({*before, threads[1]})
    finally:
        gate.set()
    assert threads[1].name in capfd.readouterr().err
