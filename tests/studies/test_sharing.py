"""Studies on one store divide its trials: none runs twice, and what a killed study had claimed is taken over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from normsmith import errors
from normsmith.studies import sharing
from normsmith.studies.arms import AS_IS
from normsmith.studies.sharing import Sharing
from normsmith.studies.store import Record, Store
from normsmith.studies.trial import Outcome, Trial

TRIALS = [Trial(AS_IS, 0.1, seed, steps=10) for seed in range(4)]


def record(trial, status="finished", seconds=1.0):
    return Record(trial.spec(), status, "" if status == "finished" else "why", {}, seconds, {})


KEYS = {trial: record(trial).key for trial in TRIALS}


class Study:
    """One study on a store, and what it was told."""

    def __init__(self, store, keys=KEYS):
        self.elsewhere, self.waiting = {}, []
        self.sharing = Sharing(store, keys, self.take, self.waiting.append)
        self.trials = self.sharing.trials()

    def take(self, trial, found):
        assert trial not in self.elsewhere
        self.elsewhere[trial] = Outcome.of(found).status


@pytest.fixture(autouse=True)
def _looking_always(monkeypatch):
    monkeypatch.setattr(sharing, "LOOK", 0.0)


@pytest.fixture(params=["memory", "server"])
def shared(request):
    """A store that two studies share: in memory, or on a server."""
    if request.param == "memory":
        yield request.getfixturevalue("store")
    else:
        with Store(request.getfixturevalue("postgresql")) as store:
            yield store


def test_two_studies_run_each_trial_once(shared):
    store = shared
    one, two = Study(store), Study(store)
    ran = [next(study.trials) for study in (one, two, one, two)]
    assert ran == TRIALS
    for trial in TRIALS:
        store.put(record(trial))
    for study, mine, tried in ((one, ran[::2], 1), (two, ran[1::2], 2)):
        assert next(study.trials) is None
        study.sharing.tick()
        assert list(study.trials) == []
        assert study.elsewhere == dict.fromkeys([t for t in TRIALS if t not in mine], "finished")
        assert study.waiting == [tried]


def test_what_another_has_run_meanwhile_is_not_run(store):
    study = Study(store)
    assert next(study.trials) == TRIALS[0]
    store.put(record(TRIALS[1]))
    assert next(study.trials) == TRIALS[2]
    assert study.elsewhere == {TRIALS[1]: "finished"}
    assert store.claims.held([KEYS[TRIALS[1]]]) == set()


def test_a_failure_of_another_is_a_result_and_one_from_before_is_not(store):
    store.put(record(TRIALS[0], "raised"))
    one, two = Study(store, {TRIALS[0]: KEYS[TRIALS[0]]}), Study(store, {TRIALS[0]: KEYS[TRIALS[0]]})
    assert next(one.trials) == TRIALS[0]
    assert next(two.trials) is None
    two.sharing.tick()
    assert two.elsewhere == {}
    store.put(record(TRIALS[0], "raised", seconds=2.0))
    two.sharing.tick()
    assert two.elsewhere == {TRIALS[0]: "raised"}
    assert list(two.trials) == []


def test_a_study_that_ends_gives_its_claims_back(shared):
    store = shared
    one, two = Study(store), Study(store)
    with one.sharing:
        assert next(one.trials) == TRIALS[0]
        assert [next(two.trials) for _ in range(3)] == TRIALS[1:]
        assert next(two.trials) is None
    two.sharing.tick()
    assert next(two.trials) == TRIALS[0]


def test_claims_are_renewed(store, monkeypatch):
    one, two = Study(store), Study(store)
    store.claims.seconds = -1  # over as soon as it is made
    assert next(one.trials) == TRIALS[0]
    store.claims.seconds = 60
    monkeypatch.setattr(sharing, "RENEWALS", 1e9)
    one.sharing.tick()
    assert next(two.trials) == TRIALS[1]


# Two processes.

DRIVER = Path(__file__).parents[1] / "support" / "study_driver.py"


def driver(name, url, seconds, **environment):
    """A process that runs six trials on a store, and says which it ran and which were run elsewhere."""
    return subprocess.Popen(
        [sys.executable, str(DRIVER), name, url, str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(errors.__file__).parents[1]), **environment},
    )


def said(lines, word):
    """The seeds of the trials of which a driver said this."""
    return [int(line.split()[1]) for line in lines.splitlines() if line.startswith(word)]


def test_two_processes_divide_the_trials(tiny, tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    drivers = [driver(tiny("slow"), url, 60, TINY_SLEEP="0.05") for _ in range(2)]
    lines = [one.communicate(timeout=300)[0] for one in drivers]
    assert [one.returncode for one in drivers] == [0, 0]
    ran = [said(text, "ran") for text in lines]
    assert sorted(ran[0] + ran[1]) == list(range(6))
    for mine, text in zip(ran, lines, strict=True):
        others = set(said(text, "elsewhere"))
        assert others.isdisjoint(mine)
        assert others | set(mine) <= set(range(6))


@pytest.fixture(params=["file", "server"])
def url(request, tmp_path):
    """The address of an empty store of each kind."""
    return (
        request.getfixturevalue("postgresql") if request.param == "server" else f"sqlite:///{tmp_path}/a.db"
    )


def test_the_trials_of_a_killed_process_are_taken_over(tiny, url):
    killed = driver(tiny("slow"), url, 3, TINY_SLEEP="0.3")
    assert killed.stdout is not None
    first = killed.stdout.readline()  # it is in its second trial
    killed.send_signal(signal.SIGKILL)
    started = time.monotonic()
    other = driver(tiny("slow"), url, 3, TINY_SLEEP="0")
    lines, _ = other.communicate(timeout=300)
    killed.communicate(timeout=60)
    assert other.returncode == 0
    before = said(first, "ran")
    assert before == [0]
    assert sorted(said(lines, "ran")) == list(range(1, 6))
    assert said(lines, "ran")[-1] == 1 or time.monotonic() - started > 3  # it was waited for
