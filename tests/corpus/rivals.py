"""torch-audit and pytest-torch on a case of the corpus, in the codes of our rules; each where it is installed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import islice
from typing import Any

Said = list[tuple[str, str]]
AUDIT = {
    "TA100": "NS410",
    "TA102": "NS504",
    "TA103": "NS501",
    "TA105": "NS501",
    "TA301": "NS401",
    "TA304": "NS301",
    "TA400": "NS101",
    "TA402": "NS206",
    "TA501": "NS106",
}
"""What a rule of torch-audit is about, as one of ours; its others are not about normalization."""
ASSERTED = {
    "optimizer_coverage": ("NS207",),
    "frozen": ("NS305", "NS210"),
    "finite_outputs": ("NS410",),
    "batch_invariance": ("NS204", "NS409"),
}
"""The faults that an assertion of pytest-torch would show; the one that a case has counts where there are several."""


def installed() -> dict[str, tuple[Callable[[Any, Any], Said], frozenset[str]]]:
    """The tools that can be imported, each with the rules of ours that it has a counterpart of."""
    tools: dict[str, tuple[Callable[[Any, Any], Said], frozenset[str]]] = {}
    if find_spec("torch_audit") is not None:
        tools["torch-audit"] = (ask_torch_audit, frozenset(AUDIT.values()))
    if find_spec("pytest_torch") is not None:
        tools["pytest-torch"] = (ask_pytest_torch, frozenset(sum(ASSERTED.values(), ())))
    return tools


def ask_torch_audit(case: Any, given: Any) -> Said:
    """Its static rules, then three training steps under its auditor, each phase audited."""
    from torch_audit import audit, audit_dynamic

    model = copy.deepcopy(given.model)
    optimizer = None if given.optimizer is None else given.optimizer(model)
    findings = list(audit(model, phase="static", optimizer=optimizer).findings)
    if given.loss is not None and optimizer is not None and given.runs_in_training:
        model.train()
        with audit_dynamic(model, optimizer=optimizer, every_n_steps=1, reporters=[]) as auditor:
            for inputs, target, *_ in islice(given.batches, 3):
                optimizer.zero_grad()
                loss = given.loss(auditor.forward(inputs), target)
                auditor.backward(loss)
                auditor.optimizer_step()
        findings += auditor.findings
    return [
        (AUDIT[finding.rule_id], "info" if finding.severity.name == "INFO" else "warning")
        for finding in findings
        if finding.rule_id in AUDIT
    ]


def ask_pytest_torch(case: Any, given: Any) -> Said:
    """Its assertions that need no more than a model, a batch, a loss and an optimizer."""
    said = []
    for name, holds in _assertions(given):
        try:
            holds()
        except AssertionError:
            codes = ASSERTED[name]
            wanted = [code for code in codes if code in case.must] or [
                code for code in codes if case.label(code) == "may"
            ]
            said.append(((wanted or codes)[0], "warning"))
        except Exception:  # noqa: BLE001  an assertion that does not fit the model says nothing
            continue
    return said


def _assertions(given: Any) -> Iterator[tuple[str, Callable[[], object]]]:
    from pytest_torch import assert_frozen, assert_optimizer_coverage, check_inference_contract

    model = copy.deepcopy(given.model)
    inputs, target, *_ = next(iter(given.batches))
    if given.optimizer is not None:
        optimizer = given.optimizer(model)
        yield "optimizer_coverage", lambda: assert_optimizer_coverage(model, optimizer)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if frozen and given.loss is not None:
        layers = sorted({f"{name.rpartition('.')[0]}.*" for name in frozen})
        yield (
            "frozen",
            lambda: assert_frozen(model, inputs, lambda output, *_: given.loss(output, target), layers),
        )
    evaluated = copy.deepcopy(model).eval()
    for check in ("finite_outputs", "batch_invariance"):
        yield check, partial(check_inference_contract, evaluated, (inputs,), checks=[check])
