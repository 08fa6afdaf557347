"""What a study returns: plain data that a report can draw and JSON can hold."""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Verdict(StrEnum):
    """The four answers a study can give."""

    HOLDS = "holds"
    NOT_HERE = "does not hold here"
    REVERSED = "reversed"
    INCONCLUSIVE = "inconclusive"


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Effect(_Data):
    """One hypothesis, its paired effects (one a seed) and the verdict on it.

    `values` are positive in the direction of the claim. With `scale="ratio"` they are natural logarithms of
    a ratio; with `scale="difference"` they are in `unit`. `better` says which way the claim points: a report
    shows the ratio of treatment to control, exp(value), or exp(-value) where lower is better.
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
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    censored: int = 0
    estimate: float
    low: float
    high: float
    p: float
    p_adjusted: float
    verdict: Verdict
    sentence: str


class Line(_Data):
    """One arm in a chart: the middle value over seeds and a band around it."""

    label: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    marked: tuple[float, ...] = ()  # x values to point out, e.g. the tuned learning rate


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


class Answer(_Data):
    """What one question concluded, and the evidence for it."""

    question: str
    title: str
    claim: str
    source: str
    method: str = ""
    headline: str
    effects: tuple[Effect, ...]
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    trials: int


class StudyResult(_Data):
    """A finished study."""

    task: str
    task_facts: dict[str, str]
    profile: str
    seeds: tuple[int, ...]
    answers: tuple[Answer, ...]
    skipped: dict[str, str] = {}
    failures: tuple[Failure, ...]
    trials_new: int
    trials_reused: int
    seconds: float
    started: str
    command: str
    settings: dict[str, str]
    versions: dict[str, str]
