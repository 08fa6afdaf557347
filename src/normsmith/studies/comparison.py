"""Two stores compared: the trials that both have, those that other versions computed, and what their studies say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from normsmith.studies import notation
from normsmith.studies.again import Differences
from normsmith.studies.named_trials import arm_text
from normsmith.studies.results import Effect, Verdict
from normsmith.studies.store import Record, Store, key_of
from normsmith.studies.trial import Outcome
from normsmith.studies.verdicts import contradictions


@dataclass(frozen=True)
class Unequal:
    """A trial that has one key in both stores, and other results."""

    key: str
    arm: str
    what: str


@dataclass(frozen=True)
class SameKey:
    """The trials that both stores have under one key, which must have the same results.

    Attributes:
        both: how many there are.
        unfinished: how many of them raised, were killed or ran out of time in either store: they say nothing.
        unequal: those whose results differ.
    """

    both: int
    unfinished: int
    unequal: tuple[Unequal, ...]


@dataclass(frozen=True)
class OtherVersions:
    """Trials of one task that are the same but for what computed them.

    Attributes:
        task: its name.
        versions: what differs, by name: what computed them in the first store and in the second.
        pairs: how many there are.
        finished: how many finished in both stores; `otherwise`: in one of them.
        higher, lower: how many end with a higher, a lower test metric in the second store.
        median, largest: of the differences of final test metrics, in `unit`.
        largest_steps: the largest difference in steps to 90 % of the way.
    """

    task: str
    versions: Mapping[str, tuple[str, str]]
    pairs: int
    finished: int
    otherwise: int
    higher: int
    lower: int
    median: float
    largest: float
    unit: str
    largest_steps: int


@dataclass(frozen=True)
class Said:
    """What the last study of a store that put a hypothesis to the test says of it."""

    verdict: Verdict
    estimate: str
    seeds: int


@dataclass(frozen=True)
class HypothesisCompared:
    """A hypothesis that studies of both stores put to the test."""

    task: str
    question: str
    name: str
    first: Said
    second: Said
    is_contradiction: bool


@dataclass(frozen=True)
class Comparison:
    """Two stores, `first` and `second` by their URLs, compared.

    Attributes:
        trials: how many each of them has.
        same_key: trials that both have.
        other_versions: trials that are the same but for what computed them, by what that is.
        hypotheses: what the studies of both say, where they asked the same of a task of that name.
    """

    first: str
    second: str
    trials: tuple[int, int]
    same_key: SameKey
    other_versions: tuple[OtherVersions, ...]
    hypotheses: tuple[HypothesisCompared, ...]

    @property
    def contradictions(self) -> tuple[HypothesisCompared, ...]:
        """The hypotheses of which the studies say something else, and neither that it is inconclusive."""
        return tuple(each for each in self.hypotheses if each.is_contradiction)

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing to compare: no trial and no hypothesis that both stores have."""
        return not (self.same_key.both or self.other_versions or self.hypotheses)

    @property
    def agree(self) -> bool:
        """Whether no verdict contradicts another, and no trial has other results under the same key."""
        return not self.contradictions and not self.same_key.unequal


def compare_stores(first: Store, second: Store) -> Comparison:
    """Compare the trials and the studies of two stores; nothing is run, and few trials are in memory at once.

    Raises:
        StoreError: one of them cannot be read, or a record is no longer as it was put.

    >>> here = Record({"seed": 0}, "finished", "", {"steps": [0, 9], "test": [0.1, 0.9]}, 0.4, {"torch": "2.13"})
    >>> there = Record({"seed": 0}, "finished", "", {"steps": [0, 9], "test": [0.1, 0.8]}, 0.4, {"torch": "2.14"})
    >>> with Store("sqlite://") as one, Store("sqlite://") as two:
    ...     one.put(here)
    ...     two.put(there)
    ...     (group,) = compare_stores(one, two).other_versions
    >>> group.versions, round(group.largest, 3), group.unit
    ({'torch': ('2.13', '2.14')}, 0.1, 'of the metric')
    """
    by_spec: dict[str, list[str]] = {}
    for page in second.pages():
        for record, _ in page:
            by_spec.setdefault(key_of(record.spec, {}), []).append(record.key)
    matched = _Matched()
    for page in first.pages():
        records = [record for record, _ in page]
        same = second.get(record.key for record in records)
        alone = {record.key: record for record in records if record.key not in same}
        partners = {key: by_spec.get(key_of(record.spec, {}), []) for key, record in alone.items()}
        others = second.get(key for keys in partners.values() for key in keys)
        for record in records:
            if record.key in same:
                matched.add_same(record, same[record.key])
            for key in partners.get(record.key, ()):
                matched.add_other(record, others[key])
    return Comparison(
        first.url,
        second.url,
        (first.count(), second.count()),
        SameKey(matched.both, matched.unfinished, tuple(matched.unequal)),
        tuple(matched.groups(_points((first, second)))),
        tuple(_hypotheses(first, second)),
    )


Versions = tuple[tuple[str, str, str], ...]
"""What differs: its name, in the first store, in the second."""


class _Matched:
    """Counts the trials of two stores that belong together."""

    def __init__(self) -> None:
        self.both = self.unfinished = 0
        self.unequal: list[Unequal] = []
        self._groups: dict[tuple[str, Versions], Differences] = {}

    def add_same(self, record: Record, other: Record) -> None:
        self.both += 1
        here, there = Outcome.of(record), Outcome.of(other)
        if not (here.measured and there.measured):
            self.unfinished += 1
        elif what := _difference(record, other):
            seed = record.spec.get("seed")
            self.unequal.append(Unequal(record.key, f"{arm_text(record.spec)}, seed {seed}", what))

    def add_other(self, record: Record, other: Record) -> None:
        here, there = Outcome.of(record), Outcome.of(other)
        if here.measured and there.measured:
            names = sorted({*record.versions, *other.versions})
            versions = [
                (name, record.versions.get(name, "-"), other.versions.get(name, "-")) for name in names
            ]
            group = str(record.spec.get("task", "")), tuple(each for each in versions if each[1] != each[2])
            self._groups.setdefault(group, Differences()).add(here, there)

    def groups(self, points: Mapping[str, tuple[str, float]]) -> Iterable[OtherVersions]:
        """The differences by task and versions; `points` has the name and the point of the tasks that are known."""
        for (fingerprint, versions), differences in self._groups.items():
            task, point = points.get(fingerprint, (f"task {fingerprint[:12]}", 1.0))
            yield OtherVersions(
                task=task,
                versions={name: (here, there) for name, here, there in versions},
                pairs=differences.pairs,
                finished=len(differences.changes),
                otherwise=differences.otherwise,
                higher=differences.higher,
                lower=differences.lower,
                median=differences.median / point,
                largest=differences.largest / point,
                unit="points" if fingerprint in points else "of the metric",
                largest_steps=differences.largest_steps,
            )


def _difference(record: Record, other: Record) -> str:
    """In what two results differ; nothing if in nothing. The time that they took does not count."""
    if record.status != other.status:
        return f"{record.status}, {other.status}"
    names = [
        name
        for name in sorted({*record.measurements, *other.measurements})
        # repr: NaN is NaN, and every bit of a float counts
        if repr(record.measurements.get(name)) != repr(other.measurements.get(name))
    ]
    return ", ".join(names)


def _points(stores: Iterable[Store]) -> dict[str, tuple[str, float]]:
    """The name and the point of each task that a study of the stores names, by its fingerprint."""
    kept = (study.asked for store in stores for study in store.studies.all())
    return {asked.fingerprint: (asked.task, asked.point) for asked in kept}


def _hypotheses(first: Store, second: Store) -> Iterable[HypothesisCompared]:
    here, there = _said(first), _said(second)
    both = {key: {"first": here[key].verdict, "second": there[key].verdict} for key in here if key in there}
    against = set(contradictions(both))
    for key in both:
        yield HypothesisCompared(*key, here[key], there[key], key in against)


def _said(store: Store) -> dict[tuple[str, str, str], Said]:
    """What a store's studies say, by task, question and hypothesis; of several, the one that was asked last."""
    ended = [kept for kept in store.studies.all() if kept.ended]
    said: dict[tuple[str, str, str], Said] = {}
    for kept in sorted(ended, key=lambda kept: kept.asked.started):
        result = store.studies.result(kept.number)
        for answer in result.answers:
            for effect in answer.effects:
                said[result.task, answer.question, effect.name] = _of(effect)
    return said


def _of(effect: Effect) -> Said:
    return Said(effect.verdict, notation.estimate_and_interval(effect), len(effect.seeds))
