"""What every rule must do. A rule's test inherits `RuleContract`, names its rule, and says where it fires.

At least three networks that have the fault and differ in kind, and three near misses that look like it and have not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contracts.fixes import names_in, reproduced, run_fix
from tests.surgery.states import state_of
from torch import nn
from torch.nn.parameter import is_lazy

import normsmith
from normsmith.anatomy.forward import call
from normsmith.checks import Findings, Rule, every_rule
from normsmith.checks.rule import SECTIONS


@dataclass
class Case:
    """What is handed to `normsmith.check`."""

    model: nn.Module
    batches: Any = None
    given: dict[str, Any] = field(default_factory=dict)

    def check(self, code: str, **options: Any) -> Findings:
        return normsmith.check(self.model, self.batches, select=[code], **{**self.given, **options})


Cases = dict[str, Callable[[], Case]]
"""Why each is there, and how it is made."""


class RuleContract:
    """Inherit, set `code`, `faulty` and `healthy`; `healed` is False where a fix has effect only in training."""

    code: str
    faulty: Cases
    healthy: Cases
    healed: bool = True
    _made: dict[Callable[[], Case], Case] = {}  # noqa: RUF012  trained once for all tests of a rule
    _checked: dict[Callable[[], Case], tuple[Findings, bool]] = {}  # noqa: RUF012

    def cases(self, makers: Cases) -> Iterator[tuple[str, Case]]:
        """A new copy of each case."""
        for why, make in makers.items():
            if make not in self._made:
                torch.manual_seed(0)
                self._made[make] = make()
            case = self._made[make]
            lazy = any(is_lazy(tensor) for tensor in (*case.model.parameters(), *case.model.buffers()))
            yield why, make() if lazy else deepcopy(case)

    def checked(self) -> Iterator[tuple[str, Case, Findings, bool]]:
        """A new copy of each faulty case, what the rule finds in it, and whether it left it as it was; checked once."""
        for (why, case), make in zip(self.cases(self.faulty), self.faulty.values(), strict=True):
            if make not in self._checked:
                looked_at = deepcopy(case)
                before = state_of(looked_at.model)
                findings = looked_at.check(self.code)
                self._checked[make] = findings, state_of(looked_at.model) == before
            yield why, case, *self._checked[make]

    @property
    def rule(self) -> Rule:
        return every_rule()[self.code]

    def test_three_of_each(self) -> None:
        assert len(self.faulty) >= 3
        assert len(self.healthy) >= 3

    def test_it_fires_where_the_fault_is(self) -> None:
        for why, _, findings, _ in self.checked():
            assert findings.codes == (self.code,), f"{why}: {findings}"
            for finding in findings:
                assert finding.name == self.rule.name
                assert finding.severity in self.rule.severities
                assert finding.message
                assert finding.cause
                assert finding.fix.code
                if finding.fix.plan:
                    assert names_in(finding.fix.code) <= {"normsmith", "model", "batches", "ema"}

    def test_it_is_silent_where_nothing_is_wrong(self) -> None:
        for why, case in self.cases(self.healthy):
            findings = case.check(self.code)
            assert findings.clean == (self.code,), f"{why}: {findings}"

    def test_everything_is_as_before(self) -> None:
        for why, _, _, is_as_before in self.checked():
            assert is_as_before, why

    def test_what_can_be_fixed_is_fixed(self) -> None:
        for why, case, findings, _ in self.checked():
            if self.healed and all(finding.fix.plan for finding in findings):
                case.model = findings.fix(case.model)
                after = case.check(self.code)
                assert after.passed(), f"{why}: {after}"

    def test_a_model_that_was_fixed_goes_on_training(self) -> None:
        for why, case, findings, _ in self.checked():
            if not (isinstance(case.batches, list) and case.batches and all(f.fix.plan for f in findings)):
                continue
            forward = case.given.get("forward", call)
            try:
                forward(deepcopy(case.model).train(), case.batches[0])
            except Exception:  # noqa: BLE001 - what cannot train before need not afterwards
                continue
            mended = findings.fix(deepcopy(case.model))
            assert forward(mended.train(), case.batches[0]) is not None, why

    def test_its_reproduction_reproduces_and_its_fix_runs_as_printed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lines = self.rule.reproduction.splitlines()
        assert len(lines) <= 20
        assert any("assert" in line for line in lines)
        monkeypatch.chdir(tmp_path)  # a fix may save a file
        run_fix(self.rule, reproduced(self.rule))

    def test_it_explains_itself(self) -> None:
        assert tuple(self.rule.sections) == SECTIONS
        assert self.rule.title.endswith(".")
        threads = re.findall(r"[\w.-]+/[\w.-]+#\d+", self.rule.sections["Threads"])
        assert len(threads) >= 2
