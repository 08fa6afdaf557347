"""Workers on a Ray cluster: a real one for what becomes of nodes, and a pretended library for what Ray may say."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest
import ray_cluster
from tests.contracts.executor import (
    GOOD,
    HOSTILE,
    LOSES_ITS_NODE,
    LOSES_ITS_WORKER,
    ExecutorContract,
    Reports,
)

from normsmith.errors import StudyError
from normsmith.studies import Store
from normsmith.studies.executors import _worker, remote
from normsmith.studies.executors.cluster import RayExecutor, connect
from normsmith.studies.executors.reference import TaskReference
from normsmith.studies.executors.remote import RayWorkers
from normsmith.studies.trial import Outcome
from normsmith.tasks import load

DRIVER = Path(__file__).parents[2] / "support" / "study_driver.py"
REFERENCE = TaskReference("", None, "", {}, frozenset())

# Ray leaves sockets and files to the end of the process.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]


class TestRay(ExecutorContract):
    jobs = 2

    @pytest.fixture
    def executor(self, cluster):
        return RayExecutor(cluster.address)


def test_a_trial_whose_worker_is_lost_is_begun_again_and_without_nodes_the_study_ends(
    cluster, tmp_path, monkeypatch
):
    """Killed are Ray's process of the worker, once, and then that of the node."""
    monkeypatch.setattr(remote, "LOST_SECONDS", 1.0)
    ray, reports = connect(cluster.address), Reports()
    ray_cluster.add_node(cluster, lost=1)
    options = {"num_cpus": 1, "resources": {"lost": 1}}

    def no_room() -> str:
        there = any(node["Alive"] and "lost" in node["Resources"] for node in ray.nodes())
        return "" if there else "nothing fits"

    arguments = ray, options, TaskReference.to(load(HOSTILE), HOSTILE), 1, 60.0, 1, no_room
    workers = RayWorkers(*arguments)
    workers._arguments[2]["HOSTILE_ONCE"] = str(tmp_path / "once")
    with workers, pytest.raises(StudyError, match="no worker is left: nothing fits"):
        workers.run([LOSES_ITS_WORKER, LOSES_ITS_NODE, GOOD[0]], reports)
    assert (tmp_path / "once").exists()
    assert {trial: outcome.status for trial, outcome in reports.items()} == {LOSES_ITS_WORKER: "finished"}


def test_a_driver_that_is_killed_leaves_its_results_and_the_cluster_to_others(cluster, tiny, postgresql):
    """The trials of its claims are taken over as those of any killed study are."""
    ray = connect(cluster.address)
    driver = subprocess.Popen(
        [sys.executable, str(DRIVER), tiny(), postgresql, "60", cluster.address],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ray_cluster.ROOT / "src")},
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "ran 0 finished\n"
    driver.kill()
    driver.communicate(timeout=60)
    with Store(postgresql) as store:
        assert store.count() >= 1
    until = time.monotonic() + 120
    while ray.available_resources().get("CPU") != 2:
        assert time.monotonic() < until, "its worker still takes a CPU"
        time.sleep(0.2)


# What Ray may say.


class Fake:
    """A library like Ray, of which every call is answered by the next of the answers: values, or exceptions."""

    class exceptions:  # noqa: N801 - as Ray names it
        class RayError(Exception):
            actor_init_failed: ClassVar[bool] = False

        class RayTaskError(RayError):
            cause: Exception

    def __init__(self, *answers):
        self.answers, self.killed, self.made = list(answers), 0, 0

    def remote(self, kind):
        return self

    def options(self, **options):
        class Made:
            def remote(made, *arguments):  # noqa: N805
                self.made += 1
                return Actor()

        return Made()

    def wait(self, waiting, num_returns, timeout):
        return waiting[:num_returns], []

    def get(self, ref):
        answer = self.answers.pop(0) if ref.of_trial else None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, actor, no_restart):
        self.killed += 1


class Ref:
    def __init__(self, of_trial):
        self.of_trial = of_trial


class Method:
    def __init__(self, of_trial):
        self.of_trial = of_trial

    def remote(self, *arguments):
        return Ref(self.of_trial)


class Actor:
    begin, run, close = Method(False), Method(True), Method(False)


def run(fake, trials, retries=1, check_head=lambda: None):
    reports = Reports()
    with RayWorkers(fake, {}, REFERENCE, 1, 60.0, retries, lambda: "", check_head) as workers:
        workers.run(trials, reports)
    return [(outcome.status, outcome.reason) for outcome in reports.values()]


def test_a_trial_that_is_lost_too_often_is_killed_and_each_loss_costs_an_actor():
    gone, done = Fake.exceptions.RayError("the node died\nits id"), Outcome("finished")
    fake = Fake(gone, done, gone, gone, done)
    assert run(fake, GOOD) == [
        ("finished", ""),
        ("killed", "its node, or Ray's process on it, was lost, 2 times: RayError: the node died its id"),
        ("finished", ""),
    ]
    assert fake.made == 4
    assert fake.killed == 4


def test_an_error_in_a_worker_is_the_studys():
    errors = Fake.exceptions.RayTaskError("in a worker"), Fake.exceptions.RayTaskError("in a worker")
    errors[0].cause, errors[1].cause = StudyError("the task is another"), KeyError("name")
    for error, words in zip(
        errors, ("^the task is another$", "a worker of the Ray cluster failed: KeyErr"), strict=True
    ):
        with pytest.raises(StudyError, match=words):
            run(Fake(error), GOOD)


def test_a_worker_that_cannot_start_says_what_to_install(monkeypatch):
    error = Fake.exceptions.RayError("No module named 'normsmith'")
    monkeypatch.setattr(Fake.exceptions.RayError, "actor_init_failed", True)
    monkeypatch.setattr(Fake, "get", lambda self, ref: (_ for _ in ()).throw(error))
    with pytest.raises(
        StudyError, match="No module named 'normsmith'; install the same versions of normsmith"
    ):
        run(Fake(), GOOD)


def test_what_a_node_lacks_is_said_as_it_is(monkeypatch):
    error = Fake.exceptions.RayTaskError("in a worker")
    error.cause = _worker.no_workers("No space left on device")
    monkeypatch.setattr(Fake, "get", lambda self, ref: (_ for _ in ()).throw(error))
    with pytest.raises(StudyError, match=r"^expected memory for worker processes .*No space left on device"):
        run(Fake(), GOOD)


def test_a_lost_head_ends_the_study_and_is_asked_for_nothing_more():
    ended = []

    def check_head():
        if len(fake.answers) < 2:
            ended.append(fake.made)
            raise StudyError("the head is lost")

    fake = Fake(Outcome("finished"), Outcome("finished"))
    with pytest.raises(StudyError, match="the head is lost"):
        run(fake, GOOD, check_head=check_head)
    assert (ended, fake.killed) == ([1], 0)


def test_a_cluster_whose_room_others_take_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(remote, "START_UP", 0.0)
    monkeypatch.setattr(remote, "POLL", 0.0)
    monkeypatch.setattr(Fake, "wait", lambda self, waiting, num_returns, timeout: ([], waiting))
    with pytest.raises(StudyError, match="no worker could start for 0 s: others take all"):
        run(Fake(), GOOD)
