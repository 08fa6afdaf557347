"""What a study returns: plain data that a report can draw and JSON can hold."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from normsmith._text import encodable
from normsmith.studies._pairs import Interval


class Verdict(StrEnum):
    """The four answers a study can give, and "not judged" for hypotheses that it only shows beside those it judges."""

    HOLDS = "holds"
    NOT_HERE = "does not hold here"
    REVERSED = "reversed"
    INCONCLUSIVE = "inconclusive"
    NOT_JUDGED = "not judged"


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    @model_validator(mode="before")
    @classmethod
    def _encodable(cls, fields: Any) -> Any:
        """Names and reasons come from anywhere; lone surrogates in them would fit in no file."""
        return _encodable(fields)


def _encodable(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, StrEnum):
        return encodable(value)
    if isinstance(value, dict):
        return {_encodable(key): _encodable(inner) for key, inner in value.items()}
    if type(value) in (tuple, list):
        return type(value)(map(_encodable, value))
    return value


class Effect(_Data):
    """One hypothesis, its paired effects (one a seed) and the verdict on it.

    Effects, margin, median and interval are positive in the direction of the claim; `studies.notation` writes them
    as what happened to the quantity. With `scale="ratio"` they are natural logarithms of a ratio; with
    `scale="difference"` they are in `unit`. Each is an interval: a point where it is known, open (infinite) where
    censoring hides it.

    Attributes:
        name: the name of the hypothesis.
        hypothesis: its text. What else is said of it (`treatment`, `control`, `unit`, `scale`, `kind`, `better`,
            `margin`, `after`, `beside`) is as in `studies.statistics.Hypothesis`.
        seeds: n of them.
        effects: n paired effects, in their order.
        median: the estimate: the effect of the typical seed.
        interval: its 95 % interval at least, over all looks; with fewer than 6 seeds (8 at a first look of two) the
            range of the effects.
        beyond: how many of the n lie where the claim says.
        short: how many of the n lie where it says not.
        needed: how many of the n, on one side, decide whatever the question's other hypotheses do; None: too few seeds.
        failed: how many trials of the treatment, and of the control, diverged.
        test_error: the standard error, in `unit`, that the estimate has because the test set is a sample, if known.
        share: the part of the 5 % that this look at the seeds has; 1 where it is the only one.
        p: of the direction that the pairs speak for, doubled, since there are two.
        p_adjusted: for the question's judged hypotheses and the declared looks.
        sentence: the verdict and what it rests on, in words.
    """

    name: str
    hypothesis: str
    treatment: str
    control: str
    unit: str
    scale: Literal["difference", "ratio"]
    kind: Literal["superiority", "equivalence"]
    better: Literal["higher", "lower"] = "higher"
    margin: float
    after: str | None = None
    beside: bool = False
    seeds: tuple[int, ...]
    effects: tuple[Interval, ...]
    median: Interval
    interval: Interval
    beyond: int
    short: int
    needed: int | None
    failed: tuple[int, int] = (0, 0)
    test_error: float | None = None
    share: float = 1.0
    p: float
    p_adjusted: float
    verdict: Verdict
    sentence: str

    @property
    def censored(self) -> int:
        """How many of the paired effects are bounds rather than values."""
        return sum(low != high for low, high in self.effects)


class Line(_Data):
    """One arm in a chart: the middle value over seeds and a band around it."""

    label: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()


class Chart(_Data):
    """Lines over a common axis, with the text that stands for them where they cannot be seen."""

    name: str
    title: str
    x_title: str
    y_title: str
    log_x: bool = False
    log_y: bool = False
    lines: tuple[Line, ...]
    description: str


class Strip(_Data):
    """One arm in a strip chart: a point for each seed, and what else each seed chose (drawn as colour and shape)."""

    label: str
    x: tuple[float, ...]
    kinds: tuple[
        str, ...
    ] = ()  # one a seed, such as its initialisation; none where all seeds had the same choice


class StripChart(_Data):
    """What the seeds chose: points over a common axis, a row for each arm."""

    name: str
    title: str
    x_title: str
    log_x: bool = False
    rows: tuple[Strip, ...]
    description: str


class Table(_Data):
    """A small table of text cells."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Failure(_Data):
    """A trial that did not finish its steps: diverged, raised, was killed or ran out of time."""

    key: str
    arm: str
    setting: str
    seed: int
    status: Literal["diverged", "raised", "killed", "timeout"]
    reason: str


class Looked(_Data):
    """A look at the results that was declared beforehand.

    Attributes:
        number: which look it is, counted from 1.
        of: how many were declared.
        seeds: with how many seeds.
        alpha: the chance of a false statement that it has, of the 5 % of all looks.
    """

    number: int
    of: int
    seeds: int
    alpha: float


class LeftOut(_Data):
    """A look that a budget was not enough for.

    Attributes:
        question: whose.
        answered: with how many seeds it was answered at the look before; 0 if it was not.
        seeds: with how many seeds this look would have been taken.
        seconds: about how long that would take yet.
        begun: whether it was begun: finished trials are in the store.
    """

    question: str
    answered: int
    seeds: int
    seconds: float
    begun: bool


class Budget(_Data):
    """The time that a study was given, in seconds, its looks, and what was left out."""

    seconds: float
    looks: tuple[Looked, ...]
    left_out: tuple[LeftOut, ...]


class Answer(_Data):
    """What one question concluded, and the evidence for it.

    Attributes:
        look: the look at which it ended, in a study with a budget.
        recommendation: what to do, in one sentence, of a question that says so.
    """

    question: str
    title: str
    claim: str
    source: str
    method: str = ""
    headline: str
    effects: tuple[Effect, ...]
    charts: tuple[Chart | StripChart, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    trials: int
    look: Looked | None = None
    recommendation: str = ""


class Again(_Data):
    """A sample of a study's trials, run once more on another backend.

    Attributes:
        backend: the row of the table of backends that served.
        of: how many trials of the study have values that hypotheses compare.
        trials: how many of them ran again.
        finished: how many finished on both backends.
        otherwise: how many finished on one backend and did not on the other.
        higher, lower: how many of those that finished have a higher, a lower final test metric.
        largest: the largest difference of final test metrics, in the task's points.
        largest_steps: the largest difference in steps to 90 % of the way.
        agree: whether all ended alike, and the differences are slight or not to one side (a sign test at 5 %).
        sentence: this in words.
    """

    backend: str
    of: int
    trials: int
    finished: int
    otherwise: int
    higher: int
    lower: int
    largest: float
    largest_steps: int
    agree: bool
    sentence: str


class StudyResult(_Data):
    """A finished study.

    Attributes:
        metric: what the task's metric is called.
        notes: what must be known of it as a whole.
        again: a sample of its trials on another backend, if that was asked for.
        budget: its time and its looks, if it was given a time.
    """

    task: str
    task_facts: dict[str, str]
    metric: str = "metric"
    profile: str
    seeds: tuple[int, ...]
    answers: tuple[Answer, ...]
    skipped: dict[str, str] = {}
    failures: tuple[Failure, ...]
    notes: tuple[str, ...] = ()
    again: Again | None = None
    budget: Budget | None = None
    trials_new: int
    trials_reused: int
    seconds: float
    started: str
    command: str
    settings: dict[str, str]
    versions: dict[str, str]

    @property
    def recommendation(self) -> str:
        """What to do, if a question says so."""
        return " ".join(filter(None, (answer.recommendation for answer in self.answers)))

    @property
    def not_asked(self) -> tuple[tuple[str, str], ...]:
        """Each reason why questions were not asked, after the names of all of these questions."""
        return questions_by_reason(self.skipped)

    @property
    def nothing_finished(self) -> bool:
        """Whether trials ran and none came to its last step: nothing can be said then."""
        return 0 < self.trials_new + self.trials_reused <= len(self.failures)


def questions_by_reason(skipped: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Each reason once, after the names of the questions that it holds for.

    >>> questions_by_reason({"one": "no norms", "two": "no data", "three": "no norms"})
    (('one, three', 'no norms'), ('two', 'no data'))
    """
    reasons: dict[str, list[str]] = {}
    for question, why in skipped.items():
        reasons.setdefault(why, []).append(question)
    return tuple((", ".join(questions), why) for why, questions in reasons.items())
