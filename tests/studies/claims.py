"""Hypotheses and pairs for the tests of verdicts: steps to a target at a budget, and accuracies in points."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from normsmith.studies.statistics import Hypothesis, Pairs, judge

BUDGET = 400.0

# Step counts at 10 seeds.
SLOW = (100, 90, 110, 100, 95, 120, 105, 100, 95, 110)
FAST = (40, 35, 45, 40, 40, 35, 50, 45, 40, 40)
HARDLY_FASTER = (90, 85, 95, 90, 90, 85, 90, 95, 90, 95)
NEVER = (BUDGET + 1,) * 10
# Accuracies in points.
SAME = (97.0, 97.1, 96.9, 97.0, 97.2, 96.8, 97.0, 97.1, 97.0, 96.9)
SAME_TOO = (97.1, 97.0, 97.0, 97.0, 97.1, 96.9, 97.0, 97.1, 97.0, 97.0)
SCATTERED = (99.0, 95.1, 96.9, 98.0, 97.2, 99.8, 97.0, 97.1, 95.0, 99.5)


def a_hypothesis(**changes):
    given_values = {
        "name": "steps",
        "text": "BN reaches the target in fewer steps",
        "treatment": "BN",
        "control": "no norm",
        "unit": "steps",
        "scale": "ratio",
        "margin": math.log(1.5),
        "better": "lower",
    }
    return Hypothesis(**{**given_values, **changes})


POINTS = {"scale": "difference", "unit": "points", "better": "higher"}


def pairs_of(treatment, control, hypothesis=None, **more):
    """Pairs at seeds 0, 1, …; a value beyond the budget is censored."""
    return Pairs(
        hypothesis or a_hypothesis(),
        tuple(range(len(treatment))),
        tuple(min(float(value), BUDGET + 1) for value in treatment),
        tuple(min(float(value), BUDGET + 1) for value in control),
        tuple(bool(value > BUDGET) for value in treatment),
        tuple(bool(value > BUDGET) for value in control),
        **more,
    )


def effect_of(*values, **more):
    (effect,) = judge([pairs_of(*values, **more)])
    return effect


def swapped(pairs):
    return Pairs(
        pairs.hypothesis,
        pairs.seeds,
        pairs.control,
        pairs.treatment,
        pairs.control_censored,
        pairs.treatment_censored,
    )


steps_of_a_seed = st.sampled_from([5.0, 10.0, 20.0, 20.5, 40.0, 120.0, 395.0, BUDGET + 1])
# Steps at 1 to 9 seeds, ties likely, censored or not, on either scale, for either kind of claim.
claims = st.fixed_dictionaries(
    {
        "scale": st.sampled_from(["ratio", "difference"]),
        "better": st.sampled_from(["higher", "lower"]),
        "margin": st.sampled_from([0.25, 1.0]),
        "kind": st.sampled_from(["superiority", "equivalence"]),
    }
)
arms = st.lists(st.tuples(steps_of_a_seed, steps_of_a_seed), min_size=1, max_size=9)


def drawn(claim, steps):
    return pairs_of(*zip(*steps, strict=True), a_hypothesis(**claim))
