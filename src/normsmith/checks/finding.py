"""What a rule says: a finding with its fix, or why it could not look."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from normsmith._text import count, number, path_text
from normsmith.surgery import Plan

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""The most severe first."""

MakePlan = Callable[[nn.Module], Plan]
"""Makes the plan of a fix for the model as it is when the fix is applied."""


class UnavailableError(Exception):
    """Something that a rule asked for cannot be had, and why: the rule is then not run."""


@dataclass(frozen=True)
class Fix:
    """How to mend what was found: code to copy, and where it can be done for the user, how.

    - `code`: a call, or a change of the user's own code. Fixes are the same if their code is.
    - `plan`: makes the plan of surgery that does it.
    - `optimizer`: what to change in the optimizer of the model.
    - `keeps_outputs`: whether the model computes the same in evaluation afterwards.
    - `measures`: whether the plan is measured on data, so that it has to come after all others.

    >>> Fix("momentum=0.1").can_be_applied
    False
    """

    code: str
    plan: MakePlan | None = field(default=None, compare=False, repr=False)
    optimizer: Callable[[Optimizer], None] | None = field(default=None, compare=False, repr=False)
    keeps_outputs: bool = field(default=False, compare=False)
    measures: bool = field(default=False, compare=False)

    @property
    def can_be_applied(self) -> bool:
        """Whether it is more than code to copy."""
        return self.plan is not None or self.optimizer is not None


@dataclass(frozen=True)
class Proof:
    """What a fix does, tried on a copy: loss and metric in evaluation before and after, on held-back batches.

    - `loss`, `metric`: (before, after); None where there is no such function, or no target.
    - `batches`: how many; `held_back`: whether the fix has not seen them (it has where there are fewer than six).
    - `failed`: why it could not be tried.

    >>> print(Proof((0.9, 0.25), (0.5, 0.75), 6))
    loss 0.9 → 0.25, metric 0.5 → 0.75 on 6 batches that were held back
    """

    loss: tuple[float, float] | None = None
    metric: tuple[float, float] | None = None
    batches: int = 0
    held_back: bool = True
    failed: str = ""

    def __str__(self) -> str:
        if self.failed:
            return f"not tried: {self.failed}"
        pairs = (("loss", self.loss), ("metric", self.metric))
        said = [f"{name} {number(p[0])} → {number(p[1])}" for name, p in pairs if p is not None]
        held = " that were held back" if self.held_back else ""
        return f"{', '.join(said)} on {count(self.batches, 'batch')}{held}"

    def to_dict(self) -> dict[str, Any]:
        """The proof as plain data that JSON can hold: what is not finite is None."""
        pairs = {"loss": self.loss, "metric": self.metric}
        plain = {name: None if p is None else list(map(_finite, p)) for name, p in pairs.items()}
        return {**plain, "batches": self.batches, "held_back": self.held_back, "failed": self.failed}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, at one place of a model.

    - `path`: of the module; empty for the model itself.
    - `message`: what is so, with its numbers; `cause`: why, most likely.
    - `quantity`, `measured`, `threshold`: what was measured, as "momentum", its value, and from where on it is a fault.
    - `batches`: how many were looked at.
    - `also`: other paths of the same module.
    - `severity`: "" for that of the rule.
    - `evidence`: more of what was measured, as plain data that a report can draw.
    - `code`, `name`: those of the rule, which the engine writes; `proof`: what the fix does, where that was tried.

    >>> print(Finding("norm", "momentum is 0.99", "TensorFlow's convention", Fix("momentum=0.01")))
    norm: momentum is 0.99
    """

    path: str
    message: str
    cause: str
    fix: Fix
    quantity: str = ""
    measured: float | None = None
    threshold: float | None = None
    batches: int = 0
    also: tuple[str, ...] = ()
    severity: Severity | Literal[""] = ""
    evidence: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    code: str = ""
    name: str = ""
    proof: Proof | None = None

    def __str__(self) -> str:
        return f"{path_text(self.path)}: {self.message}"

    def of(self, code: str, name: str, severity: Severity) -> Finding:
        """The same finding, signed by its rule."""
        return replace(self, code=code, name=name, severity=self.severity or severity)

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain data that JSON can hold: a measured NaN or infinity is None, and in the message."""
        plain = asdict(replace(self, fix=Fix("")))
        plain["also"] = list(self.also)
        for name in ("measured", "threshold"):
            plain[name] = _finite(plain[name])
        plain["proof"] = None if self.proof is None else self.proof.to_dict()
        plain["fix"] = {
            "code": self.fix.code,
            "can_be_applied": self.fix.can_be_applied,
            "keeps_outputs": self.fix.keeps_outputs,
        }
        return plain


@dataclass(frozen=True)
class NotRun:
    """A rule that could not look, and why: never a pass. The engine writes `code` and `name`."""

    reason: str
    code: str = ""
    name: str = ""

    def of(self, code: str, name: str) -> NotRun:
        """The same, signed by its rule."""
        return replace(self, code=code, name=name)
