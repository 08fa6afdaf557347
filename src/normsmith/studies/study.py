"""A study: from questions, a task and seeds to answers, by trials that run or are in the store already."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

from normsmith import _text
from normsmith.errors import NormsmithError, StudyError
from normsmith.ops.dispatch import rows_from
from normsmith.studies.again import compared, sample
from normsmith.studies.arms import Arm
from normsmith.studies.lab import Lab, Profile
from normsmith.studies.question import Findings, Question
from normsmith.studies.rehearsal import Forecast, Need
from normsmith.studies.rescue import rescuing
from normsmith.studies.results import Again, Answer, Failure, StudyResult
from normsmith.studies.runner import POLL, Runner, TaskReference, seconds_per_step
from normsmith.studies.sharing import Sharing
from normsmith.studies.store import Record, Store
from normsmith.studies.trial import Outcome, Trial
from normsmith.studies.versions import served_from, serving
from normsmith.tasks import Task, build, check, load
from normsmith.tasks.datasets import length
from normsmith.tasks.load import absolute
from normsmith.tasks.metrics import name_of

SEEDS: dict[Profile, int] = {"quick": 10, "full": 20}
"""How many seeds a profile takes when the user names no number."""

KEPT = ("finished", "diverged")
"""The statuses of results that are used again. A trial that raised, was killed or ran out of time is run again."""


@dataclass(frozen=True)
class Settings:
    """How a study runs; seeds, profile and steps decide its numbers, the others do not.

    `again_with` names a backend that computes a sample of the trials once more, when the study has its answers.
    """

    seeds: int | None = None
    profile: Profile = "quick"
    jobs: int = 1
    timeout: float = 600.0
    steps: int | None = None
    again_with: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("seeds", self.seeds), ("jobs", self.jobs), ("steps", self.steps)):
            if value is not None and value < 1:
                raise StudyError(f"{name}: expected a whole number of at least 1, got {value}")
        if not self.timeout >= POLL:
            raise StudyError(
                f"timeout: expected at least {POLL:g} seconds, so often are workers looked at, got {self.timeout}"
            )
        if self.again_with is not None:
            rows_from(self.again_with)  # raises where there is no such backend


@runtime_checkable
class Progress(Protocol):
    """What a study tells of its progress; implement it to show a bar or to log."""

    def needs(self, seeds: int, needs: Sequence[Need]) -> None:
        """How many of the study's seeds decide a hypothesis of each question; said before a trial runs."""

    def planned(self, new: int, reused: int, seconds: float) -> None:
        """The whole study is now expected to run `new` trials, and to take so many more seconds.

        `reused` trials were found in the store so far. Said before the first trial runs, and again as more is known.
        """

    def finished(self, trial: Trial, outcome: Outcome) -> None:
        """A trial has ended and is stored."""

    def waiting(self, trials: int) -> None:
        """There is nothing to do but wait for so many trials, which another study on the same store runs."""


class Silent:
    """Progress that is not shown."""

    def needs(self, seeds: int, needs: Sequence[Need]) -> None:
        """Shows nothing."""

    def planned(self, new: int, reused: int, seconds: float) -> None:
        """Shows nothing."""

    def finished(self, trial: Trial, outcome: Outcome) -> None:
        """Shows nothing."""

    def waiting(self, trials: int) -> None:
        """Shows nothing."""


def run_study(
    task: Task | str,
    questions: Sequence[Question],
    store: Store,
    settings: Settings | None = None,
    *,
    command: str = "",
    progress: Progress | None = None,
) -> StudyResult:
    """Put questions to a task.

    Args:
        task: a task, or the words by which `normsmith.tasks.load` finds one. Worker processes load it again by
            these words; a task object is sent to them pickled by value.
        questions: what to ask; see `select`.
        store: where finished trials are kept and looked up. Trials are stored as they finish.
        settings: seeds, profile, number of worker processes, time limit of a trial in seconds.
        command: the command line to reproduce the study, for the report.
        progress: is told what is planned and what has finished.

    Raises:
        TaskError: the task does not do what a task must.
        StudyError: none of the questions can be put to this task, with the reasons. If trials ran and none came to
            its end, there is a result, and it says so.
    """
    settings = settings or Settings()
    started, clock = datetime.now(UTC), time.monotonic()
    name, task = (absolute(task), load(task)) if isinstance(task, str) else (None, task)
    count = settings.seeds or SEEDS[settings.profile]
    lab = Lab(task, tuple(range(count)), settings.profile, settings.steps or task.steps)
    with served_from(None, task.device):
        check(task)
        session = _Session(lab, store, settings, TaskReference.to(task, name), progress or Silent())
        _check_other(settings.again_with, task.device)
        with rescuing(store, session.records):
            answers, skipped = session.ask(questions)
    if not answers and not session.failures():
        raise StudyError(_refusals(skipped))
    again = session.again() if settings.again_with and answers else None
    return StudyResult(
        task=task.name,
        task_facts=_facts(task, lab),
        metric=name_of(task.metric),
        profile=settings.profile,
        seeds=lab.seeds,
        answers=tuple(answers),
        skipped=skipped,
        failures=session.failures(),
        notes=(*session.notes(), *([again.sentence] if again else [])),
        again=again,
        trials_new=session.new,
        trials_reused=session.reused,
        seconds=time.monotonic() - clock,
        started=started.isoformat(timespec="seconds"),
        command=command,
        settings={
            "seeds": str(count),
            "profile": settings.profile,
            "steps per trial": str(lab.steps),
            "worker processes": str(settings.jobs),
            "time limit of a trial": f"{settings.timeout:g} s",
            "task fingerprint": session.reference.fingerprint,
        },
        versions={**session.reference.versions, "platform": platform.platform()},
    )


def _refusals(skipped: Mapping[str, str]) -> str:
    """Why no question can be put to the task: each reason once, with all the questions that it keeps from being asked.

    >>> print(_refusals({"one": "no norms", "two": "no norms"}))
    one, two cannot be asked: no norms
    """
    reasons: dict[str, list[str]] = {}
    for question, why in skipped.items():
        reasons.setdefault(why, []).append(question)
    lines = [f"{', '.join(questions)} cannot be asked: {why}" for why, questions in reasons.items()]
    return lines[0] if len(lines) == 1 else "\n  ".join(["no question can be asked:", *lines])


def _why(error: Exception) -> str:
    """Why a question is not asked: what was refused, or the exception that came where nothing was refused.

    >>> _why(StudyError("no norms")), _why(IndexError("out of range"))
    ('no norms', 'IndexError: out of range')
    """
    return str(error) if isinstance(error, NormsmithError) else _text.error_text(error)


def _check_other(backend: str | None, device: str) -> None:
    """Raise before a trial runs if there is no such backend to run trials again with, or it is the study's own."""
    if backend is None:
        return
    own = serving(device)
    with served_from(backend, device):
        if backend == own:
            raise StudyError(
                f"--again-with: expected another backend than that of the study itself, got {own} twice"
            )


def _facts(task: Task, lab: Lab) -> dict[str, str]:
    rates = ", ".join(f"{rate:g}" for rate in task.learning_rates)
    return {
        **({"description": task.description} if task.description else {}),
        "training samples": str(length(task.train)),
        "batch size": str(task.batch_size),
        "steps": str(lab.steps),
        "learning rates": rates,
        "metric": f"{name_of(task.metric)}, {'higher' if task.higher_is_better else 'lower'} is better",
        "a point": f"{task.point:g} of the metric",
        "target": "97 % of the way that the best control of a question goes"
        if task.target is None
        else f"{task.target:g}",
    }


class _Session:
    """One run of a study: advances the questions together, so that they share trials and workers."""

    def __init__(
        self, lab: Lab, store: Store, settings: Settings, reference: TaskReference, progress: Progress
    ) -> None:
        self.lab, self.store, self.settings = lab, store, settings
        self.reference, self.progress = reference, progress
        self.new = self.reused = 0
        self._ended = 0  # trials that were run, here or by another study on this store meanwhile
        self._steps, self._seconds = 0, 0.0  # of those that were run here
        self.uncovered: dict[Trial, tuple[str, ...]] = {}
        self._asked: dict[Trial, None] = {}
        self._tried: set[Arm] = set()
        self.records: dict[str, Record] = {}

    def ask(self, questions: Sequence[Question]) -> tuple[list[Answer], dict[str, str]]:
        """Advance every question until all have answered or cannot be asked (then: why)."""
        answers: dict[str, Answer] = {}
        skipped: dict[str, str] = {}
        forecast = Forecast(questions, self.lab)
        self.progress.needs(len(self.lab.seeds), forecast.needs)
        asking = {question: question.ask(self.lab) for question in questions}
        # What does not fit the network is said before anything has been run for it.
        for question in questions:
            try:
                self._try_arms(forecast.rehearsals[question.name].arms)
            except Exception as error:  # noqa: BLE001 - one question's failure is no other's
                skipped[question.name] = _why(error)
                del asking[question]
        asked: dict[Question, set[Trial]] = {question: set() for question in questions}
        with Runner(self.reference, self.settings.jobs, self.settings.timeout) as runner:
            while asking:
                wanted: list[Trial] = []
                for question, generator in list(asking.items()):
                    try:
                        request = next(generator)
                        self._try_arms(trial.arm for trial in request)
                    except StopIteration as answered:
                        answers[question.name] = _answer(question, answered.value, len(asked[question]))
                        del asking[question]
                    except Exception as error:  # noqa: BLE001 - one question's failure is no other's
                        skipped[question.name] = _why(error)
                        del asking[question]
                    else:
                        asked[question].update(request)
                        forecast.asked(question.name, request)
                        wanted += request
                self._provide(wanted, runner, forecast.beyond([question.name for question in asking]))
        return [answers[question.name] for question in questions if question.name in answers], skipped

    def _try_arms(self, arms: Iterable[Arm]) -> None:
        """Build every new arm once, so that what surgery refuses is refused before hours are spent on trials."""
        for arm in dict.fromkeys(arms):
            if arm not in self._tried:
                task = arm.task(self.lab.task)
                arm.build(build(task, 0), task)
                self._tried.add(arm)

    def _provide(self, wanted: Sequence[Trial], runner: Runner, later: Sequence[Trial] = ()) -> None:
        """Make the outcomes of these trials known: from the store, or by running them; `later` ones may follow."""
        self._asked |= dict.fromkeys(wanted)
        missing = [trial for trial in dict.fromkeys(wanted) if trial not in self.lab.outcomes]
        if not missing:
            return
        keys = {trial: trial.key(self.reference.fingerprint, self.reference.versions) for trial in missing}
        stored = self.store.get(list(keys.values()))
        todo = []
        for trial, key in keys.items():
            if key in stored and stored[key].status in KEPT:
                self.records[key] = stored[key]
                self.lab.outcomes[trial] = Outcome.of(stored[key])
            else:
                todo.append(trial)
        self.reused += len(missing) - len(todo)
        if todo:
            runner.start()
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
            self.lab.outcomes[trial] = outcome
            self.new, self._ended = self.new + 1, self._ended + 1
            self._steps, self._seconds = self._steps + trial.steps, self._seconds + outcome.seconds
            self.progress.finished(trial, outcome)

        def elsewhere(trial: Trial, record: Record) -> None:
            self.records[record.key] = record
            self.lab.outcomes[trial] = Outcome.of(record)
            self.reused, self._ended = self.reused + 1, self._ended + 1
            self.progress.finished(trial, self.lab.outcomes[trial])

        ours = {trial: keys[trial] for trial in todo}
        with Sharing(self.store, ours, elsewhere, self.progress.waiting) as sharing:
            runner.run(sharing.trials(), finished, sharing.tick)

    def _plan(self, todo: Sequence[Trial], later: Sequence[Trial]) -> None:
        """Tell what the whole study will run: what is known to be missing, and of `later` trials the same share."""
        run = self._ended + len(todo)
        found = self.reused + self.new - self._ended
        share = run / max(1, run + found)
        new = run + round(share * len(later))
        steps = sum(trial.steps for trial in todo) + share * sum(trial.steps for trial in later)
        seconds = steps * self._seconds_per_step(todo) / min(self.settings.jobs, max(1, new - self._ended))
        self.progress.planned(new, found, seconds)

    def _seconds_per_step(self, todo: Sequence[Trial]) -> float:
        """Of the trials that ran; before the first, of a few steps of a few of `todo`, run here and now."""
        if self._steps:
            return self._seconds / self._steps
        sample = [todo[len(todo) * i // 4] for i in range(min(4, len(todo)))]
        return seconds_per_step(self.lab.task, sample) if sample else 0.0

    def again(self) -> Again:
        """A sample of the trials whose values were compared, on the backend that the settings name."""
        backend = str(self.settings.again_with)
        full = (trial for trial in self._asked if trial.detail != "metric")
        trials = [*(self.lab.compared or full)]
        with served_from(backend, self.lab.task.device):
            reference = TaskReference.to(self.lab.task, self.reference.name)
            lab = replace(self.lab, outcomes={}, compared={})
            other = _Session(lab, self.store, self.settings, reference, self.progress)
            with Runner(reference, self.settings.jobs, self.settings.timeout) as runner:
                other._provide(sample(trials), runner)
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
        """Every trial of this study that did not finish its steps, in the order in which they were asked for."""
        outcomes = {trial: self.lab.outcomes[trial] for trial in self._asked}
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
        trials=trials,
    )
