"""A rehearsal counts what a study asks for, and says what decides it, before anything runs."""

from dataclasses import replace

import pytest
from tests.studies import tiny

from normsmith.errors import StudyError
from normsmith.studies import Settings, every_question, run_study, select
from normsmith.studies.arms import AS_IS
from normsmith.studies.lab import Lab
from normsmith.studies.progress import Silent
from normsmith.studies.rehearsal import Forecast, Need, made_up, rehearse
from normsmith.studies.trial import Trial


def stage(seeds=10, **changes):
    task = replace(tiny.task, **changes)
    return Lab(task, tuple(range(seeds)), "quick", task.steps)


def failing(lab):
    yield [Trial(AS_IS, 0.1, 0, 20)]
    raise StudyError("cannot go on")


@pytest.mark.parametrize("name", sorted(every_question().keys() - {"own-norms", "recurrent-norms"}))
@pytest.mark.parametrize("better", [True, False])
def test_every_question_can_be_rehearsed(name, better):
    """Two ask for networks that this one is not: with norms of its own, or recurrent."""
    lab = stage(higher_is_better=better, target=None)
    rehearsal = rehearse(every_question()[name], lab)
    assert sum(map(len, rehearsal.rounds)) > 10
    assert rehearsal.effects
    assert lab.outcomes == {}


def test_the_best_rate_of_a_rehearsal_is_in_the_middle():
    rates = (2**-6, 2**-4, 2**-2)
    for better in (True, False):
        task = replace(tiny.task, learning_rates=rates, higher_is_better=better)
        ends = [made_up(Trial(AS_IS, rate, 0, 20), task).test[-1] for rate in rates]
        assert ends.index((max if better else min)(ends)) == 1


def test_what_decides_is_known_before():
    for seeds, pairs in ((10, 9), (5, None)):
        need = rehearse(every_question()["learning-rates"], stage(seeds)).need("learning-rates")
        assert need == Need("learning-rates", pairs, 7)


def test_a_question_that_fails_has_asked_for_what_it_asked_for():
    question = replace(every_question()["placement"], ask=failing)
    rehearsal = rehearse(question, stage())
    assert [len(trials) for trials in rehearsal.rounds] == [1]
    assert rehearsal.need("placement") is None


def test_a_forecast_counts_shared_trials_once_and_forgets_what_has_been_asked():
    one, two = (replace(every_question()["placement"], name=name) for name in ("one", "two"))
    lab = stage(2)
    alone, both = Forecast([one], lab), Forecast([one, two], lab)
    everything = both.beyond(["one", "two"])
    assert len(everything) == len(alone.beyond(["one"]))
    for name in ("one", "two"):
        both.asked(name, both.rehearsals[name].rounds[0])
    assert len(both.beyond(["one", "two"])) < len(everything)
    assert both.beyond([]) == []


def test_a_request_that_was_not_rehearsed_leaves_what_is_still_to_come():
    """One more octave of one arm must not be taken for the sweep, which is 400 trials."""
    question = every_question()["initialisation"]
    forecast = Forecast([question], stage(2))
    *tuning, sweep = forecast.rehearsals[question.name].rounds
    for request in tuning:
        forecast.asked(question.name, request)
    to_come = forecast.beyond([question.name])
    assert set(to_come) <= set(sweep)
    assert len(to_come) > 30
    octave = [replace(trial, learning_rate=0.7) for trial in tuning[-1] if trial.arm == tuning[-1][0].arm]
    forecast.asked(question.name, octave)
    assert forecast.beyond([question.name]) == to_come
    forecast.asked(question.name, sweep)
    assert forecast.beyond([question.name]) == []


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self):
        self.plans, self.needed, self.done = [], [], 0

    def needs(self, seeds, needs):
        self.needed.append((seeds, list(needs), self.done))

    def planned(self, new, reused, seconds):
        self.plans.append((new, reused, seconds))

    def finished(self, trial, outcome):
        self.done += 1


def test_a_study_states_its_whole_first_and_ends_with_what_it_ran(store, tiny):
    told = Told()
    result = run_study(
        tiny(), select(("fewer-steps", "placement")), store, Settings(seeds=2, steps=5), progress=told
    )
    ((seeds, needs, done),) = told.needed
    assert (seeds, done) == (2, 0)
    assert {need.question for need in needs} == {"fewer-steps", "placement"}
    first, last = told.plans[0], told.plans[-1]
    assert 0.4 * result.trials_new < first[0] < 2.5 * result.trials_new
    assert first[2] > 0
    assert last[0] == result.trials_new == told.done

    again = Told()
    run_study(tiny(), select(("fewer-steps", "placement")), store, Settings(seeds=2, steps=5), progress=again)
    assert [new for new, _, _ in again.plans] == [0] * len(again.plans)
    assert again.plans[-1][1] == result.trials_new
