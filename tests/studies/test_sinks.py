"""Sinks see every trial of a study; one that fails is named, and costs nothing."""

from __future__ import annotations

import threading

import pytest
from tests.contracts.store import a_record

from normsmith.errors import InputError
from normsmith.studies import Settings, run_study, select
from normsmith.studies.named_trials import NamedTrial
from normsmith.studies.sinks import Sink, Sinks


class Listing:
    """Keeps what it is given; fails from the trial with this number on."""

    def __init__(self, error=None, fails_from=0, fails_to_close=False):
        self.trials, self.threads, self.closed = [], set(), 0
        self._error, self._from, self._close = error, fails_from, fails_to_close

    def put(self, trial):
        self.threads.add(threading.current_thread().name)
        if self._error is not None and len(self.trials) >= self._from:
            raise self._error
        self.trials.append(trial)

    def close(self):
        self.closed += 1
        if self._close:
            raise self._error

    def __str__(self):
        return "list:here"


def trials(count):
    return [NamedTrial(a_record(str(number)), "digits", "as is") for number in range(count)]


def told(*sinks, count=5):
    with Sinks(sinks) as all_of_them:
        for trial in trials(count):
            all_of_them.put(trial)
    return all_of_them.failures


def test_all_get_all_in_order_from_a_thread_beside():
    first, second = Listing(), Listing()
    assert isinstance(first, Sink)
    assert told(first, second) == ()
    assert first.trials == second.trials == trials(5)
    assert first.closed == second.closed == 1
    assert not any("MainThread" in name for name in first.threads | second.threads)


def test_one_that_fails_is_named_with_what_it_lacks_and_the_others_go_on():
    broken, good = Listing(ConnectionError("no route\nto host"), fails_from=2), Listing()
    (said,) = told(broken, good)
    assert said == (
        "The sink list:here failed and lacks 3 trials, which are in the store: ConnectionError: no route to host. "
        "`normsmith export` adds them."
    )
    assert len(broken.trials) == 2
    assert broken.closed == 1
    assert good.trials == trials(5)


def test_one_that_fails_as_it_is_closed_is_named_too():
    (said,) = told(Listing(InputError("a full disk"), fails_from=9, fails_to_close=True))
    assert "lacks 0 trials" in said
    assert ": a full disk." in said


def test_a_study_tells_new_and_stored_trials_and_says_which_sink_failed(store, tiny):
    ask = {"task": tiny("one_rate"), "questions": select(("fewer-steps",)), "store": store}
    sink = Listing()
    first = run_study(**ask, settings=Settings(seeds=1, steps=5), sinks=[sink])
    assert {trial.record.key for trial in sink.trials} == set(store.studies.keys(1))
    assert {trial.task for trial in sink.trials} == {"one rate"}
    assert first.notes == ()
    again, broken = Listing(), Listing(OSError("full"))
    second = run_study(**ask, settings=Settings(seeds=1, steps=5), sinks=[broken, again])
    assert second.trials_new == 0
    assert len(again.trials) == len(sink.trials)
    assert second.answers == first.answers
    assert f"lacks {len(sink.trials)} trials" in second.notes[0]
    assert store.studies.result(1).notes == ()


def test_sinks_are_closed_where_a_study_is_refused(store, tiny):
    sink = Listing()
    with pytest.raises(Exception, match="placement cannot be asked"):
        run_study(tiny("flat"), select(("placement",)), store, Settings(seeds=2), sinks=[sink])
    assert sink.closed == 1
    assert store.studies.all() == []
