"""The power of a study: how often an effect of known size is found. `python -m benchmarks.power`.

A cell is the share of simulated studies in which `judge` says that a hypothesis holds: its paired effects are
normal with standard deviation 1 and the mean of the row's head, its margin is 0, and the question's other
hypotheses have no effect, which is the hardest case for Holm's adjustment.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from normsmith.studies.results import Verdict
from normsmith.studies.statistics import Hypothesis, Pairs, judge

EFFECTS = (1.0, 1.5, 2.0, 3.0)
SEEDS = (8, 10)
HYPOTHESES = (1, 2, 3)


def power(effect: float, seeds: int, hypotheses: int, studies: int, stream: int = 0) -> float:
    """The share of `studies` in which the first of `hypotheses`, the only true one, is said to hold."""
    draw = np.random.default_rng([stream, seeds, hypotheses, round(100 * effect)])
    held = 0
    for _ in range(studies):
        # Pairs share what their seed brings; their differences have standard deviation 1.
        shared = draw.normal(size=(hypotheses, seeds))
        treatment, control = shared + draw.normal(scale=math.sqrt(0.5), size=(2, hypotheses, seeds))
        treatment[0] += effect
        held += (
            judge(
                [
                    Pairs(
                        _claim(index),
                        tuple(range(seeds)),
                        tuple(treatment[index].tolist()),
                        tuple(row.tolist()),
                    )
                    for index, row in enumerate(control)
                ]
            )[0].verdict
            is Verdict.HOLDS
        )
    return held / studies


def _claim(index: int) -> Hypothesis:
    return Hypothesis(
        f"claim {index}", "it is larger", "treatment", "control", "SD", "difference", 0.0, "higher"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies a cell (default: 1000)")
    studies = parser.parse_args().studies
    error = 100 * math.sqrt(0.25 / studies)
    print(f"{studies} studies a cell: at most ±{error:.1f} points of standard error")
    print(
        "| effect / SD of the pairs | "
        + " | ".join(f"{n} seeds, {m}" for n in SEEDS for m in HYPOTHESES)
        + " |"
    )
    print("|---|" + "---|" * len(SEEDS) * len(HYPOTHESES))
    for effect in EFFECTS:
        cells = [power(effect, seeds, hypotheses, studies) for seeds in SEEDS for hypotheses in HYPOTHESES]
        print(f"| {effect:g} | " + " | ".join(f"{100 * cell:.0f} %" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
