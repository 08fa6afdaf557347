"""Running rules: each by itself, so that one that raises leaves the others their say."""

from __future__ import annotations

from collections.abc import Sequence

from normsmith._text import error_text
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, NotRun, UnavailableError
from normsmith.checks.findings import Findings, sorted_findings
from normsmith.checks.prove import proved
from normsmith.checks.restore import restored
from normsmith.checks.rule import LEVELS, Level, Need, Rule

_GIVEN: dict[Need, str] = {
    "batches": "data",
    "loss": "loss",
    "optimizer": "optimizer",
    "validate": "validate",
    "domain": "domain",
    "ema": "ema",
    "checkpoint": "checkpoint",
    "rank_checkpoints": "rank_checkpoints",
}
"""The needs that a user hands over, with the field of the context that holds each."""


def run(
    rules: Sequence[Rule], context: Context, level: Level = "standard", *, prove: bool = False
) -> Findings:
    """Ask every rule; afterwards the model, its random numbers and the loader's are as they were, whatever happened.

    A rule above the level, one whose needs were not given, and one that raises are not run, and say why.
    With `prove`, findings have the proof of their fix, which is tried on a copy.
    """
    context.looks_at_data = level != "fast"
    context.looks_at_training = level == "deep"
    found: list[Finding] = []
    clean: list[str] = []
    not_run: list[NotRun] = []
    with restored(context.network, context.ema, context.data):
        for rule in rules:
            outcome = _outcome(rule, context, level)
            if isinstance(outcome, NotRun):
                not_run.append(outcome.of(rule.code, rule.name))
            elif outcome:
                found += [finding.of(rule.code, rule.name, rule.severity) for finding in outcome]
            else:
                clean.append(rule.code)
        if prove:
            found = proved(found, context)
    return Findings(sorted_findings(found), tuple(clean), tuple(not_run))


def _outcome(rule: Rule, context: Context, level: Level) -> list[Finding] | NotRun:
    if LEVELS.index(rule.level) > LEVELS.index(level):
        return NotRun(f"from level {rule.level} on")
    for need in rule.needs:
        if need in _GIVEN and getattr(context, _GIVEN[need]) is None:
            return NotRun(f"give {need}=...")
    try:
        outcome = rule.check(context)
        return outcome if isinstance(outcome, NotRun) else list(outcome)
    except UnavailableError as reason:
        return NotRun(str(reason))
    except Exception as error:  # noqa: BLE001  a rule's own fault must not silence the others
        return NotRun(f"the rule raised {error_text(error)}")
