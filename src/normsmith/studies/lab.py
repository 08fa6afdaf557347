"""The means of a question: to ask for trials, to tune arms, and to pair outcomes by seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Literal, TypeAlias, TypeVar

from normsmith.errors import StudyError
from normsmith.studies.arms import AS_IS, Arm
from normsmith.studies.results import Effect
from normsmith.studies.statistics import Hypothesis, Pairs, judge, most_judged
from normsmith.studies.trial import Outcome, Trial
from normsmith.tasks import Task

Profile = Literal["quick", "full"]
Split = Literal["validation", "test"]

Sample: TypeAlias = tuple[float, bool]
"""A value and whether it is censored (the event was not seen within the budget)."""

Measure: TypeAlias = Callable[[Outcome], Sample]
T = TypeVar("T")
Requests: TypeAlias = Generator[Sequence[Trial], None, T]
"""A question, or a part of one: yields trials, goes on when they are done, returns T."""

EXTENSIONS = 2
"""How many times a grid of learning rates grows past an edge on which the best rate lies."""


@dataclass(frozen=True)
class Tuned:
    """An arm at the learning rate that was best for it on the validation split."""

    arm: Arm
    rate: float
    tried: tuple[float, ...]

    @property
    def on_edge(self) -> bool:
        """Whether the best rate is the smallest or largest that was tried: a better one may lie beyond."""
        return self.rate in (self.tried[0], self.tried[-1])


@dataclass
class Lab:
    """The task, the seeds and the outcomes so far of one study."""

    task: Task
    seeds: tuple[int, ...]
    profile: Profile
    steps: int
    outcomes: dict[Trial, Outcome] = field(default_factory=dict)
    compared: dict[Trial, None] = field(default_factory=dict)  # those whose values hypotheses compare

    # Asking for trials.

    def activations(self, *considered: str) -> tuple[str | None, ...]:
        """Those of the `considered` activations that the task wants tried; its own (None) if it names none."""
        return tuple(name for name in considered if name in self.task.activations) or (None,)

    @property
    def tuning_seeds(self) -> tuple[int, ...]:
        """The seeds that learning rates are tuned on: all; in the quick profile half of them, at least four."""
        return self.seeds if self.profile == "full" else self.seeds[: max(4, len(self.seeds) // 2)]

    def grid(self, arms: Iterable[Arm], rates: Iterable[float]) -> list[Trial]:
        """Every arm at every learning rate from every seed."""
        rates = tuple(rates)
        return [Trial(arm, rate, seed, self.steps) for arm in arms for rate in rates for seed in self.seeds]

    def tuning(self, arms: Iterable[Arm]) -> list[Trial]:
        """What `target` and `tune` will ask for first, so that a question can ask for it all at once."""
        arms = [*arms] if self.task.target is not None else [*arms, AS_IS]
        return self._tuning(arms, self.task.learning_rates)

    def _tuning(self, arms: Iterable[Arm], rates: Iterable[float]) -> list[Trial]:
        return [trial for trial in self.grid(arms, rates) if trial.seed in self.tuning_seeds]

    def target(self) -> Requests[float]:
        """The metric to reach: the task's, or what its network as it is reaches at its tuned rate.

        Raises:
            StudyError: the task has no target, and every trial of its network crashed.
        """
        if self.task.target is not None:
            return self.task.target
        tuned = yield from self.tune([AS_IS], self.shortfall)
        reached = [value for value, _ in self.series(tuned[AS_IS], self.final).values()]
        if not reached:
            raise StudyError(
                "no target: the network as it is ran to its end for no seed; the failures say why, or give the "
                "task a target"
            )
        return median(reached)

    def tune(self, arms: Sequence[Arm], *criteria: Measure) -> Requests[dict[Arm, Tuned]]:
        """Each arm at its best learning rate: the lowest mean over seeds of the first criterion, then the next.

        Compared on `tuning_seeds`; the best rate then runs from all seeds. The grid starts as the task's
        `learning_rates`; where the best rate lies on an edge it grows beyond,
        `EXTENSIONS` times at most, so that no arm is judged at a rate that the grid happened to end with.
        """
        rates = {arm: tuple(sorted(self.task.learning_rates)) for arm in arms}
        for extension in range(EXTENSIONS + 1):
            yield [trial for arm in arms for trial in self._tuning([arm], rates[arm])]
            best = {arm: Tuned(arm, self._best(arm, rates[arm], criteria), rates[arm]) for arm in arms}
            grown = {arm: _grown(tuned) for arm, tuned in best.items() if tuned.on_edge}
            if not grown or extension == EXTENSIONS:
                break
            rates |= grown
        yield [trial for arm, tuned in best.items() for trial in self.grid([arm], [tuned.rate])]
        return best

    def _best(self, arm: Arm, rates: Iterable[float], criteria: Sequence[Measure]) -> float:
        def score(rate: float) -> tuple[float, ...]:
            tuned = Tuned(arm, rate, ())
            read = [self.tuning_values(tuned, measure) for measure in criteria]
            return tuple(fmean(values) if values else math.inf for values in read)

        return min(rates, key=score)

    # Measures: from one outcome to one value.

    def final(self, outcome: Outcome, split: Split = "test") -> Sample:
        """The metric at the end of the budget; a diverged trial counts as the untrained network.

        Where not even that had a finite metric, it is as bad as can be: infinite.
        """
        curve: tuple[float, ...] = getattr(outcome, split)
        if not curve:
            return (-math.inf if self.task.higher_is_better else math.inf), False
        return (curve[-1] if outcome.status == "finished" else curve[0]), False

    def points(self, outcome: Outcome) -> Sample:
        """The final test metric in the task's points."""
        return self.final(outcome)[0] / self.task.point, False

    def shortfall(self, outcome: Outcome) -> Sample:
        """The final validation metric, negated where higher is better: rates are tuned to make it small."""
        value = self.final(outcome, "validation")[0]
        return (-value if self.task.higher_is_better else value), False

    def steps_to(self, target: float, split: Split = "test") -> Measure:
        """Steps to reach `target`; never (also: diverged after reaching it) counts as budget + 1, censored."""

        def measure(outcome: Outcome) -> Sample:
            if outcome.status == "finished":
                for step, value in zip(outcome.steps, getattr(outcome, split), strict=True):
                    if self.reaches(value, target):
                        return float(max(step, 1)), False
            return float(self.steps + 1), True

        return measure

    @property
    def better(self) -> Literal["higher", "lower"]:
        """The metric's better side."""
        return "higher" if self.task.higher_is_better else "lower"

    def reaches(self, value: float, target: float) -> bool:
        """Whether a metric is at the target or on its better side."""
        return value >= target if self.task.higher_is_better else value <= target

    # Reading outcomes, one value a seed.

    def measured(self, tuned: Tuned) -> dict[int, Outcome]:
        """Outcomes by seed of the trials that finished or diverged; others say nothing about the arm."""
        outcomes = {trial.seed: self.outcomes.get(trial) for trial in self.grid([tuned.arm], [tuned.rate])}
        return {
            seed: outcome for seed, outcome in outcomes.items() if outcome is not None and outcome.measured
        }

    def series(self, tuned: Tuned, measure: Measure) -> dict[int, Sample]:
        """The value of `measure` for each measured trial of an arm at its rate, by seed."""
        return {seed: measure(outcome) for seed, outcome in self.measured(tuned).items()}

    def tuning_values(self, tuned: Tuned, measure: Measure) -> list[float]:
        """The values of `measure` for the trials that rates are tuned on."""
        series = self.series(tuned, measure)
        return [value for seed, (value, _) in series.items() if seed in self.tuning_seeds]

    def pairs(
        self,
        hypothesis: Hypothesis,
        treatment: dict[int, Sample],
        control: dict[int, Sample],
        failed: tuple[int, int] = (0, 0),
    ) -> Pairs:
        """Pair two arms by seed; a seed of which either trial crashed is left out. `failed` is as in `Pairs`.

        Raises:
            StudyError: no seed is left.
        """
        seeds = [seed for seed in self.seeds if seed in treatment and seed in control]
        if not seeds:
            raise StudyError(
                f"nothing to compare: no trial of {hypothesis.treatment} and {hypothesis.control} ran to its "
                "end for the same seed; the failures say why"
            )
        return Pairs(
            hypothesis,
            tuple(seeds),
            tuple(treatment[seed][0] for seed in seeds),
            tuple(control[seed][0] for seed in seeds),
            tuple(treatment[seed][1] for seed in seeds),
            tuple(control[seed][1] for seed in seeds),
            failed,
        )

    def compare(self, hypothesis: Hypothesis, treatment: Tuned, control: Tuned, measure: Measure) -> Pairs:
        """Pair two arms by the values of a measure, with how many trials of each diverged.

        Raises:
            StudyError: as `pairs`.
        """
        for tuned in (treatment, control):
            self.compared |= dict.fromkeys(self.grid([tuned.arm], [tuned.rate]))
        series = self.series(treatment, measure), self.series(control, measure)
        return self.pairs(hypothesis, *series, self.diverged(treatment, control))

    def judge(self, pairs: Sequence[Pairs]) -> tuple[Effect, ...]:
        """Verdicts on the hypotheses of one question: as many as the study's seeds can decide, in their order."""
        return judge(pairs, most_judged(len(self.seeds)))

    def diverged(self, treatment: Tuned, control: Tuned) -> tuple[int, int]:
        """How many trials of two arms diverged, of those that were measured."""
        treated, plain = (
            sum(outcome.status == "diverged" for outcome in self.measured(tuned).values())
            for tuned in (treatment, control)
        )
        return treated, plain


def _grown(tuned: Tuned) -> tuple[float, ...]:
    """The rates that were tried and one more, beyond the edge the best one lies on, as far apart as before."""
    tried = tuned.tried
    if len(tried) == 1:
        return (tried[0] / 4, tried[0], tried[0] * 4)
    if tuned.rate == tried[0]:
        return (tried[0] * tried[0] / tried[1], *tried)
    return (*tried, tried[-1] * tried[-1] / tried[-2])
