"""Does batch norm make training less sensitive to the scale of the initial weights?"""

from __future__ import annotations

from normsmith._text import exact, number
from normsmith.studies.arms import Arm, edit, network, normalized, scale_weights
from normsmith.studies.figures import band, headline
from normsmith.studies.lab import Lab, Requests, Sample, Tuned
from normsmith.studies.question import Findings, Question
from normsmith.studies.results import Chart, Table
from normsmith.studies.statistics import Hypothesis, judge

GAINS = tuple(2.0**exponent for exponent in range(-6, 5))


def scaled(arm: Arm, gain: float) -> Arm:
    """The arm with its initial weights multiplied by `gain`; at 1 it is the arm itself."""
    return arm if gain == 1.0 else arm.but(f"{arm.name}, gain {exact(gain)}", edit(scale_weights, gain=gain))


def ask(lab: Lab) -> Requests[Findings]:
    """Tune the rate at gain 1, then scale the initial weights and count the gains that reach the target."""
    plain, norm = network(None), normalized(None)
    yield lab.tuning([plain, norm])
    target = yield from lab.target()
    tuned = yield from lab.tune([plain, norm], lab.shortfall)

    def at(arm: Arm, gain: float) -> Tuned:
        return Tuned(scaled(arm, gain), tuned[arm].rate, tuned[arm].tried)

    yield [
        trial
        for arm in (plain, norm)
        for gain in GAINS
        for trial in lab.grid([scaled(arm, gain)], [tuned[arm].rate])
    ]

    def gains(arm: Arm, low: float, high: float) -> dict[int, Sample]:
        """How many gains in [low, high] reach the target, of seeds all of whose trials ran."""
        reached = [lab.series(at(arm, gain), lab.steps_to(target)) for gain in GAINS if low <= gain <= high]
        complete = [seed for seed in lab.seeds if all(seed in found for found in reached)]
        return {seed: (float(sum(not found[seed][1] for found in reached)), False) for seed in complete}

    sides = {
        "all": (GAINS[0], GAINS[-1], 3.0),
        "small": (GAINS[0], 0.5, 1.0),
        "large": (2.0, GAINS[-1], 1.0),
    }
    effects = judge(
        [
            lab.pairs(
                Hypothesis(
                    name=name,
                    text=f"of the gains {exact(low)} to {exact(high)}, at least {exact(margin)} more reach "
                    f"{number(target, 4)}",
                    treatment=norm.name,
                    control=plain.name,
                    unit="gains",
                    scale="difference",
                    margin=margin,
                    better="higher",
                ),
                gains(norm, low, high),
                gains(plain, low, high),
            )
            for name, (low, high, margin) in sides.items()
        ]
    )
    lines = [
        band(
            f"{arm.name} (rate {exact(tuned[arm].rate)})",
            {gain: [value for value, _ in lab.series(at(arm, gain), lab.final).values()] for gain in GAINS},
        )
        for arm in (plain, norm)
    ]
    rows = tuple(
        (
            arm.name,
            exact(tuned[arm].rate),
            " · ".join(f"{exact(n)}" for n, _ in gains(arm, GAINS[0], GAINS[-1]).values()),
        )
        for arm in (plain, norm)
    )
    return Findings(
        headline=headline(
            "Batch norm makes training less sensitive to the scale of initial weights", effects
        ),
        effects=effects,
        charts=(
            Chart(
                name="gains",
                title="Response to the scale of the initial weights",
                x_title="gain on the initial weights",
                y_title="final test metric",
                log_x=True,
                lines=tuple(lines),
                description="Final test metric against the factor on the initial weights, median over seeds, "
                "band between quartiles.",
            ),
        ),
        tables=(
            Table(
                title=f"Gains that reach the target, of {len(GAINS)}, by seed",
                columns=("arm", "rate", "gains"),
                rows=rows,
            ),
        ),
        notes=(
            f"Target: test metric {number(target, 4)}. The learning rate is the best at gain 1 and is not tuned again: "
            "with batch norm a weight's scale divides its effective step by the square of the gain.",
        ),
    )


QUESTION = Question(
    name="initialisation",
    title="Does batch norm make the initial weights matter less?",
    claim="With batch norm the scale of the initial weights hardly matters.",
    source="Ioffe & Szegedy 2015, section 3.3: BN(aWu) = BN(Wu)",
    method="All weight matrices are multiplied by a gain from 2⁻⁶ to 2⁴ before training, at the learning rate that "
    "is best without a gain; per seed, the number of gains that reach the target.",
    ask=ask,
)
