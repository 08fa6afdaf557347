"""Does batch norm make training less sensitive to the scale of the initial weights?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from normsmith._text import exact, number
from normsmith.studies.arms import Arm
from normsmith.studies.figures import (
    chosen_settings,
    counted,
    edge_notes,
    headline,
    response,
    target_note,
    unreached,
)
from normsmith.studies.initial_weights import scaled
from normsmith.studies.lab import Lab, Sample
from normsmith.studies.question import Findings, Question
from normsmith.studies.results import Chart, Table
from normsmith.studies.statistics import Hypothesis, Pairs
from normsmith.studies.trial import Trial
from normsmith.studies.tuning import Requests, Setting, Tuned

GAINS = tuple(2.0**exponent for exponent in range(-6, 5))
SIDES = {
    "": (GAINS[0], GAINS[-1], 3.0),
    "small ": (GAINS[0], 0.5, 1.0),
    "large ": (2.0, GAINS[-1], 1.0),
}
"""The hypotheses: from which gain to which, and how many more of them must reach the target."""


def ask(lab: Lab) -> Requests[Findings]:
    """Tune at gain 1, then scale the weights of hidden layers and count the gains that reach the target."""
    plain, norm = lab.network(None), lab.normalized(None)
    target = yield from lab.target([plain])
    tuned = yield from lab.tune([plain, norm], lab.shortfall)
    lab.check_target(target, tuned[plain])
    gains = _Response(lab, target, tuned)
    yield gains.trials()
    effects = lab.judge([_more_gains(gains, name, norm, plain) for name in SIDES])
    return Findings(
        headline=headline(
            "Batch norm makes training less sensitive to the scale of initial weights", effects
        ),
        effects=effects,
        charts=(_by_gain(gains), chosen_settings(tuned.values())),
        tables=(_by_seed(gains),),
        notes=(
            target_note(lab, target, at_end=True),
            *unreached(lab, target, tuned.values()),
            "The learning rate and the initial weights are those that are best at gain 1 and are not tuned again: "
            "with batch norm a weight's scale divides its effective step by the square of the gain. The output layer "
            "keeps its weights.",
            *edge_notes(tuned.values()),
        ),
    )


@dataclass(frozen=True)
class _Response:
    """What becomes of arms, each seed at its setting, as the weights of their hidden layers are scaled."""

    lab: Lab
    target: float
    tuned: Mapping[Arm, Tuned]

    def at(self, arm: Arm, gain: float) -> Tuned:
        """The arm with its weights scaled, at the rate that is best without."""
        return self.tuned[arm].changed(arm, lambda best: Setting(scaled(best.arm, gain), best.rate))

    def trials(self) -> list[Trial]:
        """Every arm at every gain."""
        return [
            trial
            for arm in self.tuned
            for gain in GAINS
            for trial in self.lab.trials(self.at(arm, gain)).values()
        ]

    def reaching(self, arm: Arm, low: float, high: float) -> dict[int, Sample]:
        """How many gains in [low, high] reach the target, of seeds all of whose trials ran."""
        there = self.lab.ends_at(self.target)
        series = [self.lab.series(self.at(arm, gain), there) for gain in GAINS if low <= gain <= high]
        complete = [seed for seed in self.lab.seeds if all(seed in samples for samples in series)]
        return {seed: (sum(samples[seed][0] for samples in series), 0) for seed in complete}


def _more_gains(of: _Response, name: str, norm: Arm, plain: Arm) -> Pairs:
    """The pairs of one hypothesis: with the norm, more of the gains on this side reach the target."""
    low, high, margin = SIDES[name]
    hypothesis = Hypothesis(
        name=f"{name}gains that reach {number(of.target, 4)}: batch norm vs none",
        text=f"of the gains {exact(low)} to {exact(high)}, at least {exact(margin)} more reach "
        f"{number(of.target, 4)}: more than {exact(margin - 0.5)}, since gains are counted whole",
        treatment=norm.name,
        control=plain.name,
        unit="gains",
        scale="difference",
        margin=margin - 0.5,  # no count lies on it
        better="higher",
    )
    return of.lab.pairs(hypothesis, of.reaching(norm, low, high), of.reaching(plain, low, high))


def _by_gain(of: _Response) -> Chart:
    """The final test metric against the gain."""
    arms = {arm.name: {gain: of.at(arm, gain) for gain in GAINS} for arm in of.tuned}
    title, to = "Response to the scale of the initial weights", "gain on the initial weights of hidden layers"
    return response(of.lab, arms, name="gains", title=title, to=to)


def _by_seed(of: _Response) -> Table:
    """For each arm, how many gains reach the target: the seeds in numbers."""
    rows = [
        (arm.name, counted(n for n, _ in of.reaching(arm, GAINS[0], GAINS[-1]).values())) for arm in of.tuned
    ]
    return Table(
        title=f"Gains that reach the target, of {len(GAINS)}: median (quartiles); how many seeds have which",
        columns=("arm", f"how many of {len(GAINS)} gains"),
        rows=tuple(rows),
    )


QUESTION = Question(
    name="initialisation",
    title="Does batch norm make the initial weights matter less?",
    claim="With batch norm the scale of the initial weights hardly matters.",
    source="Ioffe & Szegedy 2015, section 3.3: BN(aWu) = BN(Wu)",
    method="The weights of hidden layers are multiplied by a gain from 2⁻⁶ to 2⁴ after their initialisation, at the "
    "initial weights and the learning rate that are best for the seed without a gain; per seed, the number of gains at "
    "which the target is reached at the end of the budget.",
    ask=ask,
)
