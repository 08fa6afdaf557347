"""One run of a study: its questions go on together, and what trials they need comes from the store or is run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from normsmith import _text
from normsmith.errors import NormsmithError
from normsmith.studies.again import compared, sample
from normsmith.studies.arms import Arm
from normsmith.studies.executors.executor import Workers
from normsmith.studies.executors.reference import TaskReference
from normsmith.studies.lab import Lab
from normsmith.studies.pace import seconds_per_step
from normsmith.studies.progress import Progress
from normsmith.studies.question import Findings, Question
from normsmith.studies.rehearsal import Forecast
from normsmith.studies.results import Again, Answer, Failure
from normsmith.studies.settings import Settings
from normsmith.studies.sharing import Sharing
from normsmith.studies.store import Record, Store
from normsmith.studies.trial import Outcome, Trial
from normsmith.studies.versions import served_from
from normsmith.tasks import build

KEPT = ("finished", "diverged")
"""The statuses of results that are used again. A trial that raised, was killed or ran out of time is run again."""


class Session:
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
        with self._workers(self.reference) as workers:
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
                self._provide(wanted, workers, forecast.beyond([question.name for question in asking]))
        return [answers[question.name] for question in questions if question.name in answers], skipped

    def _workers(self, reference: TaskReference) -> Workers:
        """The workers that run trials of a task, where the settings say."""
        return self.settings.executor.open(reference, self.settings.jobs, self.settings.timeout)

    def _try_arms(self, arms: Iterable[Arm]) -> None:
        """Build every new arm once, so that what surgery refuses is refused before hours are spent on trials."""
        for arm in dict.fromkeys(arms):
            if arm not in self._tried:
                task = arm.task(self.lab.task)
                arm.build(build(task, 0), task)
                self._tried.add(arm)

    def _provide(self, wanted: Sequence[Trial], workers: Workers, later: Sequence[Trial] = ()) -> None:
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
            workers.run(sharing.trials(), finished, sharing.tick)

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
            other = Session(lab, self.store, self.settings, reference, self.progress)
            with self._workers(reference) as workers:
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


def _why(error: Exception) -> str:
    """Why a question is not asked: what was refused, or the exception that came where nothing was refused.

    >>> _why(StudyError("no norms")), _why(IndexError("out of range"))
    ('no norms', 'IndexError: out of range')
    """
    return str(error) if isinstance(error, NormsmithError) else _text.error_text(error)
