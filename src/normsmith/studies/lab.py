"""The means of a question: to ask for trials, to tune arms, and to pair outcomes by seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import median
from typing import Literal, TypeAlias

from normsmith._text import number
from normsmith.errors import StudyError, SurgeryError
from normsmith.studies.arms import Arm, Value, network, normalized
from normsmith.studies.initial_weights import activations_of, are_drawn, initialised
from normsmith.studies.looks import Look, only
from normsmith.studies.results import Effect
from normsmith.studies.statistics import Hypothesis, Pairs, judge, resampled_error
from normsmith.studies.trial import RESAMPLED, Detail, Outcome, Trial, untrained
from normsmith.studies.tuning import Requests, Search, Setting, Tuned, limits, together
from normsmith.tasks import Task, build

Profile = Literal["quick", "full"]
Split = Literal["validation", "test"]

Sample: TypeAlias = tuple[float, int]
"""A value, and 0 if it is known, `MORE` or `LESS` if it is a bound (steps to a target never reached: more)."""

LESS, MORE = -1, 1
"""How a value may be a bound: the true one is this or less, this or more."""

Measure: TypeAlias = Callable[[Outcome], Sample]

RUNG = 3
"""The quick profile ranks coarse settings after this part of the steps: a third."""

CEILING = 0.97
"""The part of the way, from the untrained network to the best control, at which a task without a target is solved."""


def _met_already(target: float) -> StudyError:
    return StudyError(
        f"the target {number(target, 4)} is reached before the first step; give the task a harder one, "
        "Task(..., target=...)"
    )


@dataclass
class Lab:
    """The task, the seeds and the outcomes so far of one study."""

    task: Task
    seeds: tuple[int, ...]
    profile: Profile
    steps: int
    outcomes: dict[Trial, Outcome] = field(default_factory=dict)
    compared: dict[Trial, None] = field(default_factory=dict)  # those whose values hypotheses compare
    stream: int = 0
    """Repetitions that must be independent of others with the same seeds take another."""
    look: Look | None = None
    """Which of several looks at the seeds this is; None where there is one only."""

    # Asking for trials.

    def activations(self, *considered: str) -> tuple[str | None, ...]:
        """Those of the `considered` activations that the task wants tried; its own (None) if it names none."""
        return tuple(name for name in considered if name in self.task.activations) or (None,)

    @cached_property
    def own_activation(self) -> str | None:
        """The one kind of activation that the task's network has in its hidden layers; None if it is not one kind."""
        kinds = activations_of(build(self.task, 0), self.task)
        return next(iter(kinds)) if len(kinds) == 1 else None

    def network(self, activation: str | None) -> Arm:
        """The task's network without norms, with its own activation (None) or another one."""
        return network(activation, is_own=activation == self.own_activation)

    @cached_property
    def side(self) -> str:
        """On which side of its activations the task's network can have norms: "before" them, if it can.

        The activations of recurrent layers are inside them, so that norms can only stand after these layers.
        """
        for where in ("before", "after"):
            with suppress(SurgeryError):
                normalized(None, where=where).build(build(self.task, 0), self.task)
                return where
        return "before"

    def normalized(
        self, activation: str | None, norm: str = "batch", where: str | None = None, **options: Value
    ) -> Arm:
        """The task's network with `norm` before or after every activation (None: at its `side`), and none elsewhere."""
        where = where or self.side
        return normalized(activation, norm, where, is_own=activation == self.own_activation, **options)

    def trial(self, setting: Setting, seed: int, detail: Detail = "curve") -> Trial:
        """The trial of a seed at a setting."""
        return Trial(setting.arm, setting.rate, seed, self.steps, detail, self.stream)

    def trials(self, tuned: Tuned) -> dict[int, Trial]:
        """The trial of each seed at its setting."""
        return {
            seed: self.trial(setting, seed, tuned.detail_of(seed)) for seed, setting in tuned.chosen.items()
        }

    def initial(self, arm: Arm) -> tuple[Arm, ...]:
        """The arm with each of the initial weights that tuning offers: the network's own, and good ones.

        A pretrained network has its own alone.
        """
        if not are_drawn(self.task):
            return (arm,)
        methods = ("by activation",) if self.profile == "quick" else ("by activation", "by data")
        return (arm, *(initialised(arm, method) for method in methods))

    def tune(
        self,
        arms: Iterable[Arm],
        *criteria: Measure,
        own_weights: bool = False,
        detail: Detail = "curve",
    ) -> Requests[dict[Arm, Tuned]]:
        """Each arm at the initial weights and the learning rate that are best for each seed on validation.

        Best has the smallest first criterion, then the next. With `own_weights` the network's own initial weights are
        the only ones: "as initialised". The quick profile ranks the coarse settings after a third of the steps. A
        question that looks at the end of training alone needs no more `detail` than "end", in a third less time.
        """
        offered = {arm: (arm,) if own_weights else self.initial(arm) for arm in arms}
        best = yield from together(
            {
                (arm, seed): self._search(weights, seed, criteria, detail).run(self.outcomes)
                for arm, weights in offered.items()
                for seed in self.seeds
            }
        )
        named = {arm: arm.called(f"{arm.name}, as initialised") if own_weights else arm for arm in offered}
        return {
            arm: Tuned(
                named[arm],
                {seed: best[arm, seed][0] for seed in self.seeds},
                {seed: best[arm, seed][1] for seed in self.seeds},
                limits(self.task.learning_rates),
                detail,
            )
            for arm in offered
        }

    def _search(
        self, weights: tuple[Arm, ...], seed: int, criteria: Sequence[Measure], detail: Detail
    ) -> Search:
        def score(outcome: Outcome) -> tuple[float, ...]:
            return tuple(criterion(outcome)[0] if outcome.measured else math.inf for criterion in criteria)

        def early(outcome: Outcome) -> float:
            return self.shortfall(outcome)[0] if outcome.status == "finished" else math.inf

        rung = self.steps // RUNG if self.profile == "quick" else 0
        rates = tuple(sorted(self.task.learning_rates))
        return Search(weights, rates, seed, self.steps, rung or None, score, early, detail, self.stream)

    def target(self, controls: Iterable[Arm], detail: Detail = "curve") -> Requests[float]:
        """The metric to reach: the task's, or `CEILING` of the way from the untrained network to the best control.

        The controls are tuned, in trials of this `detail`, and read on validation.

        Raises:
            StudyError: the task has no target, and every trial of its controls crashed; or it has one that the
                first control is at for every seed before it is trained.
        """
        controls = tuple(controls)
        if self.task.target is not None:
            untaught = (untrained(self.task, controls[0], seed, self.stream) for seed in self.seeds)
            if all(self.reaches(value, self.task.target) for value in untaught):
                raise _met_already(self.task.target)
            return self.task.target
        tuned = yield from self.tune(controls, self.shortfall, detail=detail)
        spans = [span for control in tuned.values() if (span := self._span(control)) is not None]
        if not spans:
            raise StudyError(
                "no target: the network ran to its end for no seed; the failures say why, or give the task a target"
            )
        before, reached = (max if self.task.higher_is_better else min)(spans, key=lambda span: span[1])
        return before + CEILING * (reached - before)

    def check_target(self, target: float, control: Tuned) -> None:
        """Raise where the control is at the target before it is trained: nothing would be counted.

        Raises:
            StudyError: so it is.
        """
        curves = [outcome.test for outcome in self.measured(control).values() if outcome.test]
        if curves and self.reaches(median(curve[0] for curve in curves), target):
            raise _met_already(target)

    def _span(self, tuned: Tuned) -> tuple[float, float] | None:
        """The median validation metric of an arm before and after training."""
        curves = [outcome.validation for outcome in self.measured(tuned).values() if outcome.validation]
        ends = [self.final(outcome, "validation")[0] for outcome in self.measured(tuned).values()]
        return (median(curve[0] for curve in curves), median(ends)) if curves else None

    def learns(self, tuned: Tuned, other: Tuned) -> bool:
        """Whether an arm gets at least half of the way, on validation, that the better of the two gets."""
        spans = [self._span(tuned), self._span(other)]
        sign = 1 if self.task.higher_is_better else -1
        ways = [sign * (span[1] - span[0]) if span else 0.0 for span in spans]
        return ways[0] >= max(ways) / 2 > 0

    def where_both_learn(self, pairs: Pairs, one: Tuned, other: Tuned, otherwise: str) -> Pairs:
        """The pairs, undecided where an arm does not learn: it is named, and what that means `otherwise`."""
        idle = [arm.arm.name for arm, than in ((one, other), (other, one)) if not self.learns(arm, than)]
        return (
            replace(pairs, decided=f"{' and '.join(idle)} did not learn, and {otherwise}") if idle else pairs
        )

    # Measures: from one outcome to one value.

    def final(self, outcome: Outcome, split: Split = "test") -> Sample:
        """The metric at the end of the budget; a diverged trial counts as the untrained network.

        Where not even that had a finite metric, it is as bad as can be: infinite.
        """
        curve: tuple[float, ...] = getattr(outcome, split)
        if not curve:
            return (-math.inf if self.task.higher_is_better else math.inf), 0
        return (curve[-1] if outcome.status == "finished" else curve[0]), 0

    def points(self, outcome: Outcome) -> Sample:
        """The final test metric in the task's points."""
        return self.final(outcome)[0] / self.task.point, 0

    def shortfall(self, outcome: Outcome) -> Sample:
        """The final validation metric, negated where higher is better: rates are tuned to make it small."""
        value = self.final(outcome, "validation")[0]
        return (-value if self.task.higher_is_better else value), 0

    def steps_to(self, target: float, split: Split = "test") -> Measure:
        """Steps after which `target` is reached, and held at the next evaluation too.

        Never (also: diverged after reaching it) counts as budget + 1, censored.
        """

        def measure(outcome: Outcome) -> Sample:
            if outcome.status == "finished":
                there = [self.reaches(value, target) for value in getattr(outcome, split)]
                for step, now, next_ in zip(outcome.steps, there, there[1:], strict=False):
                    if now and next_:
                        return float(max(step, 1)), 0
            return float(self.steps + 1), MORE

        return measure

    def ends_at(self, target: float) -> Measure:
        """1 where the target is reached at the end of the budget, 0 where not, or the trial diverged."""

        def measure(outcome: Outcome) -> Sample:
            reached = outcome.status == "finished" and self.reaches(self.final(outcome)[0], target)
            return float(reached), 0

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
        outcomes = {seed: self.outcomes.get(trial) for seed, trial in self.trials(tuned).items()}
        return {
            seed: outcome for seed, outcome in outcomes.items() if outcome is not None and outcome.measured
        }

    def series(self, tuned: Tuned, measure: Measure) -> dict[int, Sample]:
        """The value of `measure` for each measured trial of an arm at its rate, by seed; none where it is NaN."""
        samples = {seed: measure(outcome) for seed, outcome in self.measured(tuned).items()}
        return {seed: sample for seed, sample in samples.items() if not math.isnan(sample[0])}

    def pairs(
        self,
        hypothesis: Hypothesis,
        treatment: dict[int, Sample],
        control: dict[int, Sample],
        failed: tuple[int, int] = (0, 0),
    ) -> Pairs:
        """Pair two arms by seed; a seed that either arm has no value of is left out. `failed` is as in `Pairs`.

        Raises:
            StudyError: no seed is left.
        """
        seeds = [seed for seed in self.seeds if seed in treatment and seed in control]
        if not seeds:
            raise StudyError(
                f"nothing to compare: no trial of {hypothesis.treatment} and {hypothesis.control} ran to its "
                "end for the same seed with something to measure; the failures say why"
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
            self.compared |= dict.fromkeys(self.trials(tuned).values())
        series = self.series(treatment, measure), self.series(control, measure)
        pairs = self.pairs(hypothesis, *series, self.diverged(treatment, control))
        if measure != self.points:
            return pairs
        return replace(pairs, test_error=self._test_error(treatment, control, pairs.seeds))

    def fewer_steps(
        self,
        name: str,
        treatment: Tuned,
        control: Tuned,
        target: float,
        share: float,
        *,
        beside: bool = False,
    ) -> Pairs:
        """The pairs of a hypothesis: one arm reaches the target in at most this share of the steps of another.

        Raises:
            StudyError: as `pairs` and `check_target`.
        """
        self.check_target(target, control)
        reach = number(target, 4)
        hypothesis = Hypothesis(
            name=f"steps to {reach}, {name}",
            text=f"{treatment.arm.name} reaches {reach} in at most {share:g} of the steps of {control.arm.name}",
            treatment=treatment.arm.name,
            control=control.arm.name,
            unit="steps to target",
            scale="ratio",
            margin=-math.log(share),
            better="lower",
            beside=beside,
        )
        return self.compare(hypothesis, treatment, control, self.steps_to(target))

    def ends_better(
        self, name: str, text: str, treatment: Tuned, control: Tuned, margin: float, *, beside: bool = False
    ) -> Pairs:
        """The pairs of a hypothesis: one arm's final test metric is more than so many points better than another's.

        Raises:
            StudyError: as `pairs`.
        """
        hypothesis = Hypothesis(
            name=name,
            text=text,
            treatment=treatment.arm.name,
            control=control.arm.name,
            unit="points",
            scale="difference",
            margin=margin,
            better=self.better,
            beside=beside,
        )
        return self.compare(hypothesis, treatment, control, self.points)

    def _test_error(self, treatment: Tuned, control: Tuned, seeds: Sequence[int]) -> float | None:
        """By how many points the median difference of two arms varies between bootstrap samples of the test set."""
        arms = self.measured(treatment), self.measured(control)
        treated, plain = ([arm[seed].resampled for seed in seeds] for arm in arms)
        error = resampled_error(treated, plain, RESAMPLED)
        return None if error is None else error / self.task.point

    def judge(self, pairs: Sequence[Pairs]) -> tuple[Effect, ...]:
        """Verdicts on the hypotheses of one question: as many as the study's seeds can decide, in their order."""
        look = self.look or only(len(self.seeds))
        return judge(pairs, look.most, look.share)

    def diverged(self, treatment: Tuned, control: Tuned) -> tuple[int, int]:
        """How many trials of two arms diverged, of those that were measured."""
        treated, plain = (
            sum(outcome.status == "diverged" for outcome in self.measured(tuned).values())
            for tuned in (treatment, control)
        )
        return treated, plain
