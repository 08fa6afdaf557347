"""Which worker has which GPU: what each is told, on a machine that only pretends to have any."""

from __future__ import annotations

import os
from contextlib import contextmanager

import pytest
import torch
from tests.contracts.executor import HOSTILE, SAYS

from normsmith.errors import StudyError
from normsmith.studies import Settings
from normsmith.studies.executors import devices
from normsmith.studies.executors.devices import VISIBLE, Assigned, devices_for, visible
from normsmith.studies.executors.local import LocalExecutor, LocalWorkers
from normsmith.studies.executors.reference import TaskReference
from normsmith.tasks import load


@pytest.fixture
def two(monkeypatch):
    """Two GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_all_that_are_there_are_used_or_those_that_are_named(two):
    assert devices_for("cuda") == ("cuda:0", "cuda:1")
    assert devices_for("cuda", ("cuda:1",)) == ("cuda:1",)
    assert devices_for("cpu") == devices_for("cuda:1") == ()
    assert LocalExecutor().width("cuda") == 2
    assert LocalExecutor(("cuda:1",)).width("cuda") == 1
    assert "cuda:1" in str(LocalExecutor(("cuda:1",)))
    assert Settings(executor=LocalExecutor(("cuda:1",))).executor.width("cuda") == 1


@pytest.mark.parametrize(
    ("device", "wanted", "words"),
    [
        ("cuda", ("cuda:2",), "expected some of cuda:0, cuda:1, got 'cuda:2'"),
        ("cuda", ("cuda:0", "gpu"), "expected some of cuda:0, cuda:1, got 'gpu'"),
        ("cuda", ("cuda:0", "cuda:0"), "expected each once"),
        ("cpu", ("cuda:0",), r"got one on 'cpu'; write Task\(device='cuda'\)"),
        ("cuda:1", ("cuda:0",), "got one on 'cuda:1'"),
    ],
)
def test_devices_that_are_not_there_are_refused(two, device, wanted, words):
    with pytest.raises(StudyError, match=words):
        devices_for(device, wanted)


def test_without_a_gpu_none_can_be_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert devices_for("cuda") == ()
    with pytest.raises(StudyError, match="none, since there is no GPU here"):
        devices_for("cuda", ("cuda:0",))


@contextmanager
def worker(assigned):
    """A process that takes a device, yields what it was told, and then lives until the end of the block."""
    told, stay = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(stay[1])
        try:
            assigned._take()
            os.write(told[1], os.environ[VISIBLE].encode())
            os.read(stay[0], 1)
        except BaseException as error:  # noqa: BLE001 - the parent tells of it
            os.write(told[1], str(error).encode())
        os._exit(0)
    os.close(told[1])
    os.close(stay[0])
    try:
        yield os.read(told[0], 1000).decode()
    finally:
        os.close(stay[1])
        os.close(told[0])
        os.waitpid(pid, 0)


def test_each_worker_has_a_device_of_its_own_until_it_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "FREE_SECONDS", 0.3)
    assigned = Assigned(TaskReference("", None, "", {}, frozenset()), ("4", "7"), tmp_path)
    with worker(assigned) as one:
        with worker(assigned) as two:
            assert {one, two} == {"4", "7"}
            with worker(assigned) as three:
                assert "expected a free device among 4, 7" in three
        with worker(assigned) as again:
            assert again == two


def test_more_workers_than_devices_share_them_evenly(monkeypatch):
    monkeypatch.setenv(VISIBLE, "4, 7")
    assert [visible(name) for name in ("cuda:0", "cuda:1")] == ["4", "7"]
    with LocalWorkers(TaskReference("", None, "", {}, frozenset()), 4, 60.0, ("cuda:0", "cuda:1")) as workers:
        assert sorted(workers._places) == ["4", "4", "7", "7"]


def test_a_process_that_used_cuda_before_is_no_worker(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(StudyError, match="used CUDA before it was told"):
        Assigned(TaskReference("", None, "", {}, frozenset()), ("4",), tmp_path)._take()


def test_a_worker_process_sees_its_device_alone():
    outcomes = {}
    with LocalWorkers(TaskReference.to(load(HOSTILE), HOSTILE), 1, 60.0, ("cuda:1",)) as workers:
        workers.run([SAYS], lambda trial, outcome: outcomes.update({trial: outcome}))
    assert "told 1" in outcomes[SAYS].reason
