"""One run of a study: its questions go on together, and what trials they need comes from the store or is run."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from normsmith import _text
from normsmith.errors import NormsmithError
from normsmith.studies.again import compared, sample
from normsmith.studies.arms import Arm
from normsmith.studies.costs import Costs
from normsmith.studies.executors.executor import Workers
from normsmith.studies.executors.reference import TaskReference
from normsmith.studies.kept import Asking
from normsmith.studies.lab import Lab
from normsmith.studies.named_trials import NamedTrial
from normsmith.studies.progress import Progress
from normsmith.studies.question import Findings, Question
from normsmith.studies.rehearsal import Forecast, Rehearsal
from normsmith.studies.results import Again, Answer, Failure
from normsmith.studies.settings import Settings
from normsmith.studies.sharing import Sharing
from normsmith.studies.sinks import Sinks
from normsmith.studies.store import Record, Store
from normsmith.studies.trial import Outcome, Trial
from normsmith.studies.versions import served_from
from normsmith.tasks import build

KEPT = ("finished", "diverged")
"""The statuses of results that are used again. A trial that raised, was killed or ran out of time is run again."""

KINDS = 6
"""Of how many kinds of trials the time is measured beforehand."""

MEASURING = 10.0
"""Seconds after which no other kind is measured."""


class OutOfTimeError(Exception):
    """The time that a study was given is over; what has ended by then is stored."""


class Session:
    """One run of a study: advances the questions together, so that they share trials and workers."""

    def __init__(
        self,
        lab: Lab,
        store: Store,
        settings: Settings,
        reference: TaskReference,
        asking: Asking,
        progress: Progress,
        sinks: Sinks,
    ) -> None:
        self.lab, self.store, self.settings, self.asking = lab, store, settings, asking
        self.reference, self.progress, self.sinks = reference, progress, sinks
        self.new = self.reused = 0
        self._ended = 0  # trials that were run, here or by another study on this store meanwhile
        self.costs = Costs(lab.task)
        self.deadline = math.inf  # on the clock of time.monotonic
        self.uncovered: dict[Trial, tuple[str, ...]] = {}
        self._asked: dict[Trial, None] = {}
        self._tried: set[Arm] = set()
        self.records: dict[str, Record] = {}

    def ask(self, questions: Sequence[Question]) -> tuple[list[Answer], dict[str, str]]:
        """Advance every question until all have answered or cannot be asked (then: why)."""
        forecast = Forecast(questions, self.lab)
        self.progress.needs(len(self.lab.seeds), forecast.needs)
        skipped = self.unfit(forecast.rehearsals)
        with self.workers() as workers:
            fitting = [question for question in questions if question.name not in skipped]
            answers, failed = self.advance(fitting, forecast, workers)
        return answers, {**skipped, **failed}

    def workers(self) -> Workers:
        """The workers that run trials, where the settings say: a context at whose end they stop."""
        return self.settings.executor.open(self.reference, self.settings.jobs, self.settings.timeout)

    def unfit(self, rehearsals: Mapping[str, Rehearsal]) -> dict[str, str]:
        """The questions that do not fit the network, and why: said before anything has been run for them."""
        reasons = {}
        for name, rehearsal in rehearsals.items():
            try:
                if rehearsal.refused is not None:
                    raise rehearsal.refused
                self._try_arms(chain(*rehearsal.rounds))
            except Exception as error:  # noqa: BLE001 - one question's failure is no other's
                reasons[name] = _why(error)
        return reasons

    def advance(
        self, questions: Sequence[Question], forecast: Forecast, workers: Workers
    ) -> tuple[list[Answer], dict[str, str]]:
        """Advance these questions until all have answered or failed (then: why).

        Raises:
            OutOfTimeError: the session's deadline has come; what has ended is stored.
        """
        answers: dict[str, Answer] = {}
        failed: dict[str, str] = {}
        asking = {question: question.ask(self.lab) for question in questions}
        asked: dict[Question, set[Trial]] = {question: set() for question in questions}
        while asking:
            wanted: list[Trial] = []
            for question, generator in list(asking.items()):
                try:
                    request = next(generator)
                    self._try_arms(request)
                except StopIteration as answered:
                    answers[question.name] = _answer(question, answered.value, len(asked[question]))
                    del asking[question]
                except Exception as error:  # noqa: BLE001 - one question's failure is no other's
                    failed[question.name] = _why(error)
                    del asking[question]
                else:
                    asked[question].update(request)
                    forecast.asked(question.name, request)
                    wanted += request
            self._provide(wanted, workers, forecast.beyond([question.name for question in asking]))
        return [answers[question.name] for question in questions if question.name in answers], failed

    def _try_arms(self, trials: Iterable[Trial]) -> None:
        """Build every new arm once, so that what surgery refuses is refused before hours are spent on its trials.

        One of which the store has a result was built for that.
        """
        new = {trial.arm: trial for trial in trials if trial.arm not in self._tried}
        missing = {trial.arm for trial in self.missing([*new.values()])}
        for arm in new:
            if arm in missing:
                task = arm.task(self.lab.task)
                arm.build(build(task, 0), task)
            self._tried.add(arm)

    def missing(self, trials: Sequence[Trial]) -> list[Trial]:
        """Those of the trials that have to be run: neither known here nor kept in the store."""
        new = [trial for trial in trials if trial not in self.lab.outcomes]
        keys = self._keys(new)
        stored = self.store.get(list(keys.values()))
        return [t for t, key in keys.items() if key not in stored or stored[key].status not in KEPT]

    def _keys(self, trials: Iterable[Trial]) -> dict[Trial, str]:
        return {trial: trial.key(self.reference.fingerprint, self.reference.versions) for trial in trials}

    def _provide(self, wanted: Sequence[Trial], workers: Workers, later: Sequence[Trial] = ()) -> None:
        """Make the outcomes of these trials known: from the store, or by running them; `later` ones may follow."""
        self._asked |= dict.fromkeys(wanted)
        missing = [trial for trial in dict.fromkeys(wanted) if trial not in self.lab.outcomes]
        if not missing:
            return
        keys = self._keys(missing)
        self.asking.ask({key: trial.arm.name for trial, key in keys.items()})
        stored = self.store.get(list(keys.values()))
        todo = []
        for trial, key in keys.items():
            if key in stored and stored[key].status in KEPT:
                self.records[key] = stored[key]
                self._tell_sinks(stored[key], trial)
                self.lab.outcomes[trial] = Outcome.of(stored[key])
            else:
                todo.append(trial)
        self.reused += len(missing) - len(todo)
        if todo:
            workers.start()
        self._plan(todo, later)

        def finished(trial: Trial, outcome: Outcome) -> None:
            record = Record(
                spec=trial.content(self.reference.fingerprint),
                status=outcome.status,
                reason=outcome.reason,
                measurements=outcome.measurements(),
                seconds=outcome.seconds,
                versions=self.reference.versions,
            )
            if outcome.uncovered:
                self.uncovered[trial] = outcome.uncovered
                sharing.give_up(trial)
            else:
                self.records[keys[trial]] = record
                self.store.put(record)
                self._tell_sinks(record, trial)
            self.lab.outcomes[trial] = outcome
            self.new, self._ended = self.new + 1, self._ended + 1
            self.costs.ended(trial, outcome.seconds)
            self.progress.finished(trial, outcome)

        def elsewhere(trial: Trial, record: Record) -> None:
            self.records[record.key] = record
            self._tell_sinks(record, trial)
            self.lab.outcomes[trial] = Outcome.of(record)
            self.reused, self._ended = self.reused + 1, self._ended + 1
            self.progress.finished(trial, self.lab.outcomes[trial])

        ours = {trial: keys[trial] for trial in todo}
        with Sharing(self.store, ours, elsewhere, self.progress.waiting) as sharing:

            def tick() -> None:
                sharing.tick()
                if time.monotonic() >= self.deadline:
                    raise OutOfTimeError

            workers.run(sharing.trials(), finished, tick)

    def _tell_sinks(self, record: Record, trial: Trial) -> None:
        self.sinks.put(NamedTrial(record, self.lab.task.name, trial.arm.name))

    def _plan(self, todo: Sequence[Trial], later: Sequence[Trial]) -> None:
        """Tell what the whole study will run: what is known to be missing, and of `later` trials the same share."""
        run = self._ended + len(todo)
        found = self.reused + self.new - self._ended
        share = run / max(1, run + found)
        new = run + round(share * len(later))
        if todo and not self.costs.are_known:
            self.costs.measure([*todo, *later], KINDS, time.monotonic() + MEASURING)
        seconds = self.costs.seconds(todo) + share * self.costs.seconds(later)
        self.progress.planned(new, found, seconds / min(self.settings.jobs, max(1, new - self._ended)))

    def again(self) -> Again:
        """A sample of the trials whose values were compared, on the backend that the settings name."""
        backend = str(self.settings.again_with)
        full = (trial for trial in self._asked if trial.detail != "metric")
        trials = [*(self.lab.compared or full)]
        with served_from(backend, self.lab.task.device):
            reference = TaskReference.to(self.lab.task, self.reference.name)
            lab = replace(self.lab, outcomes={}, compared={})
            other = Session(lab, self.store, self.settings, reference, self.asking, self.progress, self.sinks)
            with other.workers() as workers:
                other._provide(sample(trials), workers)
        pairs = [(self.lab.outcomes[trial], outcome) for trial, outcome in other.lab.outcomes.items()]
        return compared(backend, len(trials), pairs, self.lab.task.point)

    def notes(self) -> tuple[str, ...]:
        """What must be said of the study as a whole: which trials were not stored, and why."""
        if not self.uncovered:
            return ()
        files = sorted({file for files in self.uncovered.values() for file in files})
        return (
            f"{_text.count(len(self.uncovered), 'trial')} ran code of yours that no key covers, and nothing of them is "
            f"stored, as a change in that code would go unnoticed: {', '.join(files)}. What the task's file imports by "
            "an import statement, directly or through other files, is covered.",
        )

    def failures(self) -> tuple[Failure, ...]:
        """Every trial that ran here and did not finish its steps, in the order in which they were asked for."""
        known = self.lab.outcomes
        outcomes = {trial: known[trial] for trial in self._asked if trial in known}
        return tuple(
            Failure(
                key=trial.key(self.reference.fingerprint, self.reference.versions),
                arm=trial.arm.name,
                setting=f"learning rate {trial.learning_rate:g}",
                seed=trial.seed,
                status=outcome.status,
                reason=outcome.reason,
            )
            for trial, outcome in outcomes.items()
            if outcome.status != "finished"
        )


def _answer(question: Question, findings: Findings, trials: int) -> Answer:
    return Answer(
        question=question.name,
        title=question.title,
        claim=question.claim,
        source=question.source,
        method=question.method,
        headline=findings.headline,
        effects=findings.effects,
        charts=findings.charts,
        tables=findings.tables,
        notes=findings.notes,
        recommendation=findings.recommendation,
        trials=trials,
    )


def _why(error: Exception) -> str:
    """Why a question is not asked: what was refused, or the exception that came where nothing was refused.

    >>> from normsmith.errors import StudyError
    >>> _why(StudyError("no norms")), _why(IndexError("out of range"))
    ('no norms', 'IndexError: out of range')
    """
    return str(error) if isinstance(error, NormsmithError) else _text.error_text(error)
