"""Checks: what is wrong with a network's normalization, and what to do about it."""

from normsmith.checks.check import check, check_task
from normsmith.checks.context import Context
from normsmith.checks.finding import Finding, Fix, NotRun, Proof, UnavailableError
from normsmith.checks.findings import Findings
from normsmith.checks.healthy import assert_healthy
from normsmith.checks.registry import chosen_rules, every_rule, named_rule
from normsmith.checks.rule import Rule

__all__ = [
    "Context",
    "Finding",
    "Findings",
    "Fix",
    "NotRun",
    "Proof",
    "Rule",
    "UnavailableError",
    "assert_healthy",
    "check",
    "check_task",
    "chosen_rules",
    "every_rule",
    "named_rule",
]
