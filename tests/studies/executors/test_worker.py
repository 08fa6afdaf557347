"""What a worker process says of time and of failures."""

import gc

import pytest

from normsmith.errors import StudyError, TaskError
from normsmith.studies.executors import _worker
from normsmith.studies.executors._worker import TRAINING, _Clock, reason_of
from normsmith.tasks import load


def test_a_clock_stands_while_something_compiles(tmp_path):
    clock, said = _Clock(tmp_path / "clock"), []
    for change in (1, 1, -1, -1, 0):
        clock.compiling(change)
        said.append((tmp_path / "clock").read_bytes() == TRAINING)
    clock.close()
    assert said == [False, False, False, True, True]


def test_a_clock_that_cannot_be_written_is_no_trials_fault(tmp_path):
    with pytest.raises(StudyError, match="got No such file or directory; make room"):
        _Clock(tmp_path / "gone" / "clock")


def test_a_reason_says_where_it_comes_from():
    with pytest.raises(ZeroDivisionError) as caught:
        exec(compile("1 / 0", "/some/folder/odd\nname.py", "exec"))
    assert reason_of(caught.value) == "ZeroDivisionError: division by zero (odd name.py:1)"
    explained = TaskError("the metric raised")
    explained.__cause__ = caught.value
    assert reason_of(explained) == "TaskError: the metric raised (odd name.py:1)"
    assert reason_of(ValueError("never raised")) == "ValueError: never raised"


def test_numba_tells_when_it_compiles(tmp_path, monkeypatch):
    numba = pytest.importorskip("numba")
    _worker._listen_to_numba()
    clock, said = _Clock(tmp_path / "clock"), []
    monkeypatch.setattr(clock, "_say", said.append)
    monkeypatch.setattr(_worker._Worker, "clock", clock)
    assert numba.njit(lambda x: x + 1)(1) == 2
    clock.close()
    assert said[0] != TRAINING
    assert said[-1] == TRAINING


def test_what_a_worker_keeps_is_no_part_of_later_garbage_collections(tmp_path, monkeypatch):
    task, frozen = load("digits-mlp"), []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(_worker._Worker.task))
    monkeypatch.setattr(_worker._Worker, "task", None)
    monkeypatch.setattr(_worker._Worker, "resolve", staticmethod(lambda: task), raising=False)
    for _ in range(2):
        assert _worker.run(b"no trial", tmp_path / "clock").status == "raised"
    assert frozen == [task]
