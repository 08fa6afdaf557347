"""A study: from questions, a task and seeds to answers, by trials that run or are in the store already."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from normsmith.errors import StudyError
from normsmith.studies.budget import ask_within, budget_note
from normsmith.studies.executors.reference import TaskReference
from normsmith.studies.kept import AskedStudy, Asking
from normsmith.studies.lab import Lab
from normsmith.studies.progress import Progress, Silent
from normsmith.studies.question import Question
from normsmith.studies.rescue import rescuing
from normsmith.studies.results import Answer, Budget, StudyResult, questions_by_reason
from normsmith.studies.session import Session
from normsmith.studies.settings import SEEDS, Settings
from normsmith.studies.sinks import Sink, Sinks
from normsmith.studies.store import Store
from normsmith.studies.versions import served_from, serving
from normsmith.tasks import Task, check, load
from normsmith.tasks.datasets import length
from normsmith.tasks.load import absolute
from normsmith.tasks.metrics import name_of


def run_study(
    task: Task | str,
    questions: Sequence[Question],
    store: Store,
    settings: Settings | None = None,
    *,
    command: str = "",
    progress: Progress | None = None,
    sinks: Sequence[Sink] = (),
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
        sinks: where trials are shown as they finish; one that fails costs no trial, and is named in the notes.

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
    with Sinks(sinks) as told:
        with served_from(None, task.device):
            check(task)
            reference = TaskReference.to(task, name)
            _check_other(settings.again_with, task.device)
            asking = Asking(store.studies, _asked(lab, reference, questions, settings, command, started))
            session = Session(lab, store, settings, reference, asking, progress or Silent(), told)
            with rescuing(store, session.records):
                if settings.budget is None:
                    (answers, skipped), spent = session.ask(questions), None
                else:
                    answers, skipped, spent = ask_within(session, questions, settings.budget)
        if not answers and not session.failures() and not (spent and spent.left_out):
            raise StudyError(_refusals(skipped))
        again = session.again() if settings.again_with and answers else None
    result = StudyResult(
        task=task.name,
        task_facts=_facts(task, lab),
        metric=name_of(task.metric),
        profile=settings.profile,
        seeds=lab.seeds if spent is None else _judged(answers),
        answers=tuple(answers),
        skipped=skipped,
        failures=session.failures(),
        notes=(
            *session.notes(),
            *([again.sentence] if again else []),
            *([budget_note(spent)] if spent else []),
        ),
        again=again,
        budget=spent,
        trials_new=session.new,
        trials_reused=session.reused,
        seconds=time.monotonic() - clock,
        started=started.isoformat(timespec="seconds"),
        command=command,
        settings=_as_shown(settings, lab, spent) | {"task fingerprint": session.reference.fingerprint},
        versions={**session.reference.versions, "platform": platform.platform()},
    )
    result = asking.finish(result)
    return result.model_copy(update={"notes": (*result.notes, *told.failures)})


def _as_shown(settings: Settings, lab: Lab, spent: Budget | None) -> dict[str, str]:
    """The settings as a report lists them."""
    looks = [look.seeds for look in spent.looks] if spent else [len(lab.seeds)]
    return {
        "seeds": " and ".join(map(str, looks)),
        **({"budget": f"{spent.seconds:g} s"} if spent else {}),
        "profile": settings.profile,
        "steps per trial": str(lab.steps),
        "worker processes": f"{settings.jobs}, on {settings.executor}",
        "time limit of a trial": f"{settings.timeout:g} s",
    }


def _asked(
    lab: Lab,
    reference: TaskReference,
    questions: Sequence[Question],
    settings: Settings,
    command: str,
    started: datetime,
) -> AskedStudy:
    """What a store keeps of a study from its first trial on; of its settings what is a word or a number."""
    plain = {
        name: value for name, value in vars(settings).items() if isinstance(value, str | float | int | None)
    }
    return AskedStudy(
        task=lab.task.name,
        fingerprint=reference.fingerprint,
        point=lab.task.point,
        questions=tuple(question.name for question in questions),
        settings={**plain, "seeds": len(lab.seeds), "steps": lab.steps},
        versions=reference.versions,
        command=command,
        started=started.isoformat(timespec="seconds"),
    )


def _refusals(skipped: Mapping[str, str]) -> str:
    """Why no question can be put to the task: each reason once, with all the questions that it keeps from being asked.

    >>> print(_refusals({"one": "no norms", "two": "no norms"}))
    one, two cannot be asked: no norms
    """
    lines = [f"{questions} cannot be asked: {why}" for questions, why in questions_by_reason(skipped)]
    return lines[0] if len(lines) == 1 else "\n  ".join(["no question can be asked:", *lines])


def _judged(answers: Sequence[Answer]) -> tuple[int, ...]:
    """The seeds of a study with a budget: those of the latest look that an answer comes from."""
    return tuple(range(max((answer.look.seeds for answer in answers if answer.look), default=0)))


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
