"""Verdicts in words: the effect, how certain it is, and what that means for the claim."""

from __future__ import annotations

import math

from normsmith import _text
from normsmith.studies import notation
from normsmith.studies._inference import ALPHA, seeds_needed
from normsmith.studies.results import Effect, Verdict

_SPENT = ("steps", "epochs", "seconds", "updates", "samples")  # what an arm needs, rather than has


def sentence(effect: Effect, of: int, decided: str | None) -> str:
    """The sentence on one of `of` hypotheses that a question judges; `decided` is why the numbers may not speak."""
    lead = f"{effect.verdict.value.capitalize()}: "
    if decided:
        return f"{lead}{decided.rstrip('.')}."
    parts = [f"{_finding(effect)} ({_certainty(effect, of)})", *_failures(effect), *_censoring(effect)]
    return f"{lead}{'; '.join([*parts, _meaning(effect, of)])}."


def _finding(effect: Effect) -> str:
    treatment, control = effect.treatment, effect.control
    if effect.median == (0.0, 0.0):
        return f"the typical seed does not differ between {treatment} and {control}"
    if all(map(math.isinf, effect.median)):
        return f"the effect of {treatment} against {control} is not known for the typical seed"
    verb = "needs" if effect.better == "lower" and effect.unit.startswith(_SPENT) else "has"
    if effect.scale == "ratio":
        return f"{treatment} {verb} {notation.span(effect, effect.median)} the {effect.unit} of {control}"
    if not effect.unit:
        return f"{treatment} against {control}: {notation.span(effect, effect.median)}"
    return f"{treatment} against {control}: {notation.estimate(effect)}"


def _certainty(effect: Effect, of: int) -> str:
    """The interval, and the p-value where there is one to speak of."""
    interval = f"{notation.interval_name([effect])} {notation.ends(effect)}"
    if effect.test_error is not None:
        interval += f", ± {_text.number(effect.test_error, 2)} by the test set alone"
    if effect.verdict is Verdict.NOT_JUDGED:
        return interval
    return (
        f"{interval}, {'adjusted ' if of > 1 or effect.share < 1 else ''}{_text.p_value(effect.p_adjusted)}"
    )


def _failures(effect: Effect) -> list[str]:
    """A median hides what happens to the seeds that are not typical."""
    seeds, arms = len(effect.seeds), (effect.treatment, effect.control)
    return [
        f"but {arm} diverged for {failed} of {_text.count(seeds, 'seed')}"
        for arm, failed in zip(arms, effect.failed, strict=True)
        if failed
    ]


def _censoring(effect: Effect) -> list[str]:
    if not effect.censored:
        return []
    what = "an arm never got there" if effect.better == "lower" else "an arm went beyond what was measured"
    return [f"{what} for {effect.censored} of {_text.count(len(effect.seeds), 'seed')}"]


def _meaning(effect: Effect, of: int) -> str:
    """Why the numbers have this verdict."""
    seeds, where = len(effect.seeds), notation.margin(effect)
    counted = f"{effect.beyond} of {_text.count(seeds, 'seed')} {_lie(effect.beyond, seeds)} {where}"
    if effect.verdict is Verdict.NOT_JUDGED:
        judged = f"judges the question's first {_text.count(of, 'hypothesis')} only"
        why = (
            "shown beside what is judged"
            if effect.beside
            else f"a study of {_text.count(seeds, 'seed')} {judged}"
        )
        return f"{counted}; {why}"
    if effect.verdict is Verdict.HOLDS:
        return counted
    if effect.verdict is Verdict.REVERSED:
        return f"the claim was {where}, and the opposite is the case"
    if effect.verdict is Verdict.NOT_HERE:
        return f"{effect.short} of {_text.count(seeds, 'seed')} {_lie(effect.short, seeds)} {notation.missed(effect)}"
    if effect.needed is None:
        what = f"one of {of} hypotheses" if of > 1 else "a hypothesis"
        return f"{counted}; at least {seeds_needed(of, effect.share)} seeds are needed to decide {what}"
    return f"{counted}, {effect.short} {notation.missed(effect)}; {_obstacle(effect)}"


def _obstacle(effect: Effect) -> str:
    """Why what was counted is not enough."""
    decided = f"{effect.needed} of {_text.count(len(effect.seeds), 'seed')} on one side decide"
    if max(effect.beyond, effect.short) >= (effect.needed or 0) and effect.after:
        return f"it rests on “{effect.after}”, which was not shown"
    if effect.p <= ALPHA * effect.share:
        return f"enough by itself, not beside the question's other hypotheses; {decided}"
    if effect.p <= ALPHA:
        return (
            f"enough by itself, not where another look at more seeds is to follow or went before; {decided}"
        )
    return decided


def _lie(count: int, of: int) -> str:
    return "lies" if 1 in (count, of) else "lie"
