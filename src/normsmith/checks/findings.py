"""All that a run of the rules came to: findings, rules that found nothing, and rules that were not run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from normsmith._text import count, some
from normsmith.anatomy.forward import unwrapped
from normsmith.checks.finding import SEVERITIES, Finding, Fix, NotRun
from normsmith.checks.notebook import html_of
from normsmith.errors import SurgeryError
from normsmith.surgery import Plan
from normsmith.surgery.plans.optimizers import check_own

_SHOWN = 3
"""Layers of one rule that the text names before it only counts them."""


@dataclass(frozen=True, eq=False)
class Findings(Sequence[Finding]):
    """What `normsmith.check` found, the most severe first. Printing it tells everything.

    - `found`: the findings.
    - `clean`: the codes of the rules that looked and found nothing.
    - `not_run`: the rules that did not look, and why.
    - `suppressed`: findings that somebody has said not to count, in their settings or by a baseline.

    >>> findings = Findings((), clean=("NS201",), not_run=())
    >>> findings.passed(), len(findings)
    (True, 0)
    >>> print(findings)
    1 rule found nothing
    """

    found: tuple[Finding, ...]
    clean: tuple[str, ...]
    not_run: tuple[NotRun, ...]
    suppressed: tuple[Finding, ...] = ()

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: Any) -> Any:
        return self.found[index]

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.found)

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of the rules that found something, once each."""
        return tuple(dict.fromkeys(finding.code for finding in self.found))

    @property
    def said_nothing(self) -> bool:
        """Whether no rule could look at all."""
        return not (self.found or self.clean or self.suppressed)

    @property
    def summary(self) -> str:
        """What all comes to, in a few words, as "1 error, 2 info"."""
        if self.said_nothing:
            return "no rule could be run"
        counts = {name: sum(f.severity == name for f in self.found) for name in SEVERITIES}
        return ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "nothing found"

    def passed(self) -> bool:
        """Whether rules looked, and none of them has an error or a warning; information does not count."""
        return not self.said_nothing and all(finding.severity == "info" for finding in self.found)

    def fix(
        self,
        model: nn.Module,
        *,
        optimizer: Optimizer | None = None,
        codes: Iterable[str] | None = None,
        keep_outputs: bool = False,
    ) -> nn.Module:
        """Mend what can be mended, in place, and return the model; if one fix fails, none is done.

        Args:
            model: the one that was checked; of DistributedDataParallel and torch.compile the one within is mended.
            optimizer: trains it; follows what is done, and is changed where that is the fix.
            codes: of the rules whose findings are mended; all by default.
            keep_outputs: only do what leaves the outputs in evaluation as they are.

        Raises:
            SurgeryError: with the model as it was: a fix is not possible.
            InputError: the optimizer is not one of torch's, or trains another network.
        """
        if optimizer is not None:
            check_own([optimizer], model)
        fixes = self.fixes(codes, keep_outputs=keep_outputs)
        inner = network = unwrapped(model)
        held = {id(parameter) for parameter in network.parameters()}
        done: list[Plan] = []
        try:
            for fix in fixes:
                if fix.plan is not None:
                    plan = fix.plan(network)
                    network = plan.apply(optimizer=() if optimizer is None else optimizer)
                    done.append(plan)
            if inner is not model and held != {id(parameter) for parameter in network.parameters()}:
                raise SurgeryError(
                    f"fix: {type(model).__name__} would not follow new parameters; mend the model before it is wrapped"
                )
        except BaseException:
            for plan in reversed(done):
                plan.revert()
            raise
        for fix in fixes:
            if fix.optimizer is not None and optimizer is not None:
                fix.optimizer(optimizer)
        return model if network is inner else network

    def fixes(self, codes: Iterable[str] | None = None, *, keep_outputs: bool = False) -> list[Fix]:
        """The fixes that can be applied, the same one once, in the order in which they are: those that measure last."""
        wanted = None if codes is None else set(codes)
        every = dict.fromkeys(f.fix for f in self.found if wanted is None or f.code in wanted)
        chosen = (fix for fix in every if fix.can_be_applied and (fix.keeps_outputs or not keep_outputs))
        return sorted(chosen, key=lambda fix: fix.measures)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "passed": self.passed(),
            "findings": [finding.to_dict() for finding in self.found],
            "clean": list(self.clean),
            "not_run": [{"code": row.code, "name": row.name, "reason": row.reason} for row in self.not_run],
            "suppressed": [finding.to_dict() for finding in self.suppressed],
        }

    def without(self, is_suppressed: Callable[[Finding], bool]) -> Findings:
        """The same, where findings that are suppressed stand aside and do not count."""
        aside = tuple(finding for finding in self.found if is_suppressed(finding))
        kept = tuple(finding for finding in self.found if finding not in aside)
        return replace(self, found=kept, suppressed=(*self.suppressed, *aside))

    def _repr_html_(self) -> str:
        """The findings as a notebook shows them."""
        return html_of(self.summary, self.found, self.not_run)

    def __str__(self) -> str:
        lines: list[str] = []
        for code in self.codes:
            lines += _paragraph([finding for finding in self.found if finding.code == code])
        if self.clean:
            lines.append(f"{count(len(self.clean), 'rule')} found nothing")
        if self.suppressed:
            lines.append(f"{count(len(self.suppressed), 'finding')} suppressed")
        reasons: dict[str, list[str]] = {}
        for row in self.not_run:
            reasons.setdefault(row.reason, []).append(row.code)
        lines += [f"not run: {some(codes, 8)}: {reason}" for reason, codes in reasons.items()]
        return "\n".join(lines)


def sorted_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The most severe first, and of these in the order of their codes."""
    return tuple(
        sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity or "info"), finding.code))
    )


def _paragraph(findings: Sequence[Finding]) -> list[str]:
    """The findings of one rule: what, where, why, and what to do."""
    first = findings[0]
    lines = [f"{first.severity} {first.code} {first.name}"]
    lines += [f"  {finding}" for finding in findings[:_SHOWN]]
    if len(findings) > _SHOWN:
        rest = [finding.path for finding in findings[_SHOWN:]]
        lines.append(f"  and {some(rest, _SHOWN)}")
    lines += [f"  cause: {cause}" for cause in dict.fromkeys(finding.cause for finding in findings[:_SHOWN])]
    fixes = list(dict.fromkeys(finding.fix.code for finding in findings))
    lines += [f"  fix:   {code}" for code in fixes[:_SHOWN]]
    proofs = dict.fromkeys(str(finding.proof) for finding in findings if finding.proof is not None)
    lines += [f"  proof: {proof}" for proof in list(proofs)[:_SHOWN]]
    return [*lines, ""]
