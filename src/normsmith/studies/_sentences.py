"""Verdicts in words: the effect, how certain it is, and what that means for the claim."""

from __future__ import annotations

import math

from normsmith import _text
from normsmith.studies import notation
from normsmith.studies._inference import ALPHA, Evidence
from normsmith.studies._pairs import Effects, Hypothesis, Pairs
from normsmith.studies.results import Verdict

_SPENT = ("steps", "epochs", "seconds", "updates", "samples")  # what an arm needs, rather than has


def sentence(
    pairs: Pairs,
    effects: Effects,
    evidence: Evidence,
    verdict: Verdict,
    p_adjusted: float,
    needed: int,
    of: int,
) -> str:
    """The sentence on one of `of` hypotheses of a question, which needs at least `needed` seeds."""
    hypothesis, count = pairs.hypothesis, len(pairs.seeds)
    lead = f"{verdict.value.capitalize()}: "
    if pairs.decided:
        return f"{lead}{pairs.decided.rstrip('.')}."
    if pairs.mostly_unknown:
        arms = f"neither {hypothesis.treatment} nor {hypothesis.control}"
        got = (
            "got there within the budget"
            if hypothesis.better == "lower"
            else "stayed within what was measured"
        )
        return f"{lead}{arms} {got} for {effects.unknown.sum()} of {_seeds(count)}."
    facts = f"{_interval(pairs, evidence)}, {'adjusted ' if of > 1 else ''}{_text.p_value(p_adjusted)}, {_seeds(count)}"
    parts = [f"{_finding(hypothesis, evidence.estimate)} ({facts})", *_censoring(pairs)]
    if count < needed:
        among = f", one of {of} hypotheses," if of > 1 else ""
        parts.append(f"at least {needed} seeds are needed to tell an effect{among} from chance")
    else:
        parts.append(_meaning(hypothesis, effects, evidence, verdict, p_adjusted, needed))
    return f"{lead}{'; '.join(part for part in parts if part)}."


def _finding(hypothesis: Hypothesis, estimate: float) -> str:
    treatment, control, unit = hypothesis.treatment, hypothesis.control, hypothesis.unit
    if hypothesis.scale == "ratio":
        verb = "needs" if hypothesis.better == "lower" and unit.startswith(_SPENT) else "has"
        return f"{treatment} {verb} {notation.amount(hypothesis, estimate)} the {unit} of {control}"
    if estimate == 0:
        return f"{treatment} and {control} do not differ"
    return f"{treatment} is {_text.number(abs(estimate))} {unit} {'better' if estimate > 0 else 'worse'} than {control}"


def _interval(pairs: Pairs, evidence: Evidence) -> str:
    """The interval as a reader sees it, with the ends that censoring leaves open named as open."""
    name = notation.interval_name_at(len(pairs.seeds))
    low, high = evidence.low, evidence.high
    low_open, high_open = math.isinf(evidence.floor), math.isinf(evidence.roof)
    if notation.position(pairs.hypothesis, 1.0) < 0:
        low, high, low_open, high_open = high, low, high_open, low_open
    return (
        f"{name} {notation.amount(pairs.hypothesis, low)}{' or less' if low_open else ''} to "
        f"{notation.amount(pairs.hypothesis, high)}{' or more' if high_open else ''}"
    )


def _censoring(pairs: Pairs) -> list[str]:
    """For how many seeds each arm is censored."""
    hypothesis = pairs.hypothesis
    what = "never got there" if hypothesis.better == "lower" else "went beyond what was measured"
    arms = (hypothesis.treatment, pairs.treatment_censored), (hypothesis.control, pairs.control_censored)
    return [f"{arm} {what} for {_seeds(sum(flags))}" for arm, flags in arms if any(flags)]


def _meaning(
    hypothesis: Hypothesis,
    effects: Effects,
    evidence: Evidence,
    verdict: Verdict,
    p_adjusted: float,
    needed: int,
) -> str:
    """Why the numbers have this verdict."""
    claim = _claim(hypothesis)
    if verdict is Verdict.REVERSED:
        return "the claim is the opposite"
    if verdict is not Verdict.INCONCLUSIVE:
        return claim if hypothesis.margin else ""
    if math.isinf(evidence.floor) or math.isinf(evidence.ceiling):
        return f"what censoring hides could decide either way; {claim}"
    differ = int((effects.values != 0).sum())
    if not effects.equivalence and differ < needed:
        return f"only {_seeds(differ)} differ, and {needed} would have to"
    if p_adjusted >= ALPHA:
        return f"this could be chance; {claim}"
    return f"the interval lies on both sides of that; {claim}" if hypothesis.margin else claim


def _claim(hypothesis: Hypothesis) -> str:
    margin, unit = hypothesis.margin, hypothesis.unit
    if hypothesis.kind == "equivalence":
        factor = hypothesis.scale == "ratio"
        within = (
            f"a factor of {_text.number(math.exp(margin))}" if factor else f"{_text.number(margin)} {unit}"
        )
        return f"the same was to mean within {within}"
    if margin == 0:
        return f"the claim is {hypothesis.better} {unit}"
    if hypothesis.scale == "ratio":
        bound = "at most" if hypothesis.better == "lower" else "at least"
        return f"the claim is {bound} {notation.amount(hypothesis, margin)}"
    return f"the claim is at least {_text.number(margin)} {unit} better"


def _seeds(count: int) -> str:
    return _text.count(count, "seed")
