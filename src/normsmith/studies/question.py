"""A question: a claim of the literature and how to put it to the test on a task."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from normsmith._choices import did_you_mean
from normsmith.errors import StudyError
from normsmith.studies import questions
from normsmith.studies.lab import Lab, Profile
from normsmith.studies.results import Chart, Effect, StripChart, Table
from normsmith.studies.tuning import Requests


@dataclass(frozen=True)
class Findings:
    """What a question concluded from its trials; one that says what to do has a `recommendation`, too."""

    headline: str
    effects: tuple[Effect, ...]
    charts: tuple[Chart | StripChart, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    recommendation: str = ""


@dataclass(frozen=True)
class Question:
    """One file of `questions/`: its name is the file's, with dashes.

    `ask` is a generator: it yields the trials it needs, goes on when they are done, and returns its findings.
    `profiles` are those that ask it unless the user names questions; without any it is asked by name alone.
    """

    name: str
    title: str
    claim: str
    source: str
    ask: Callable[[Lab], Requests[Findings]]
    method: str
    profiles: tuple[Profile, ...] = ("quick", "full")


def every_question() -> dict[str, Question]:
    """All questions by name, found by walking `questions/`; each module binds `QUESTION`."""
    modules = [_module(info.name) for info in pkgutil.iter_modules(questions.__path__)]
    all_questions: list[Question] = [module.QUESTION for module in modules]
    return {question.name: question for question in sorted(all_questions, key=lambda question: question.name)}


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{questions.__name__}.{name}")


def select(names: tuple[str, ...], profile: Profile = "full") -> tuple[Question, ...]:
    """The questions of these names, in this order and once each; for none those that the profile asks.

    Raises:
        StudyError: a name is not a question's, with the names there are.
    """
    known = every_question()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise StudyError(
            f"no question is called {unknown[0]!r}: expected one of {', '.join(known)} (`normsmith questions` says "
            f"what they ask){did_you_mean(unknown[0], known)}"
        )
    if names:
        return tuple(known[name] for name in dict.fromkeys(names))
    return tuple(question for question in known.values() if profile in question.profiles)
