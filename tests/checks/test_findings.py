"""All findings together: what passes, what is printed, and what a fix does."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.distributed as dist
from tests.checks.networks import mlp, vectors
from tests.surgery.states import state_of
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import normsmith
from normsmith import surgery
from normsmith.checks import Finding, Findings, Fix, NotRun
from normsmith.checks.findings import sorted_findings
from normsmith.errors import InputError, SurgeryError


def row(severity="warning", code="NS1", path="0", fix=None, **changes) -> Finding:
    return Finding(
        path,
        "is so",
        "because",
        fix or Fix(f"mend {code}"),
        severity=severity,
        code=code,
        name="name",
        **changes,
    )


def findings(*rows: Finding, clean=("NS9",), not_run=()) -> Findings:
    return Findings(rows, clean, not_run)


def momentum(path: str, value: float) -> Fix:
    return Fix(
        f"{path} {value}", plan=partial(surgery.set_momentum, momentum=value, only=path), keeps_outputs=True
    )


@pytest.mark.parametrize(
    ("rows", "passed"), [((), True), (("info",), True), (("info", "warning"), False), (("error",), False)]
)
def test_information_passes(rows, passed):
    assert findings(*map(row, rows)).passed() is passed


def test_where_nothing_could_be_said_nothing_passes():
    nothing = findings(clean=(), not_run=(NotRun("why", "NS1", "name"),))
    assert nothing.said_nothing
    assert not nothing.passed()


def test_the_most_severe_come_first():
    rows = sorted_findings(
        [row("info", "NS1"), row("error", "NS3"), row("warning", "NS2"), row("error", "NS2")]
    )
    assert [(f.severity, f.code) for f in rows] == [
        ("error", "NS2"),
        ("error", "NS3"),
        ("warning", "NS2"),
        ("info", "NS1"),
    ]


def test_the_text_names_some_layers_and_counts_the_others():
    text = str(findings(*(row(path=f"layer{n}") for n in range(9)), not_run=(NotRun("give x", "NS8", "x"),)))
    assert "layer0: is so" in text
    assert "and layer3, layer4, layer5 and 3 more" in text
    assert text.count("mend NS1") == 1
    assert "not run: NS8: give x" in text


def test_fixes_are_done_once_each_and_those_that_measure_come_last():
    done = []

    def plan(name, model):
        done.append(name)
        return surgery.set_momentum(model, 0.1)

    measures = Fix("measure", plan=partial(plan, "measure"), measures=True)
    other = Fix("other", plan=partial(plan, "other"))
    findings(row(fix=measures), row(fix=measures), row(fix=other), row(fix=Fix("by hand"))).fix(mlp())
    assert done == ["other", "measure"]


def test_a_fix_that_fails_takes_back_what_was_done():
    model = mlp()
    before = state_of(model)

    def fails(_):
        raise SurgeryError("no")

    with pytest.raises(SurgeryError, match="no"):
        findings(row(fix=momentum("1", 0.5)), row(fix=Fix("fails", plan=fails))).fix(model)
    assert state_of(model) == before


def test_only_some_rules_are_mended():
    model = mlp()
    rows = row(code="NS1", fix=momentum("1", 0.5)), row(code="NS2", fix=momentum("4", 0.5))
    findings(*rows).fix(model, codes=["NS2"])
    assert [model[1].momentum, model[4].momentum] == [0.1, 0.5]


def test_outputs_can_be_kept():
    model, batches = mlp(momentum=0.9), vectors()
    model(1 + torch.randn(8, 8))
    found = normsmith.check(model, batches, select=["NS2", "NS404"])
    assert set(found.codes) == {"NS201", "NS404"}
    before = model.eval()(batches[0][0])
    found.fix(model, keep_outputs=True)
    assert model[1].momentum == 0.1
    assert torch.equal(model(batches[0][0]), before)


def test_the_optimizer_follows_and_is_changed():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1.0)

    def no_decay(given: torch.optim.Optimizer) -> None:
        given.param_groups[0]["weight_decay"] = 0.0

    convert = Fix("convert", plan=partial(surgery.convert, to="group"))
    changed = findings(row(fix=convert), row(fix=Fix("decay", optimizer=no_decay))).fix(
        model, optimizer=optimizer
    )
    assert isinstance(changed[1], nn.GroupNorm)
    assert optimizer.param_groups[0]["weight_decay"] == 0.0
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in changed.parameters()} == held


def test_an_optimizer_of_another_network_changes_nothing(unchecked):
    model, other = mlp(), mlp()
    foreign = torch.optim.SGD(other.parameters(), lr=0.1)
    left_out = torch.optim.SGD([p for p in model.parameters() if p.ndim > 1], lr=0.1)
    found = normsmith.check(model, optimizer=left_out, select=["NS207"])
    assert found[0].fix.can_be_applied
    held = [id(p) for p in foreign.param_groups[0]["params"]]
    with pytest.raises(InputError, match=r"got SGD with .* none of them the model's"):
        found.fix(model, optimizer=foreign)
    with pytest.raises(InputError, match="expected Optimizers of torch, got StepLR"):
        found.fix(model, optimizer=torch.optim.lr_scheduler.StepLR(left_out, 1))
    assert [id(p) for p in foreign.param_groups[0]["params"]] == held


@pytest.fixture
def wrapped():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield DistributedDataParallel(mlp())
    dist.destroy_process_group()


def test_the_model_within_a_wrapper_is_mended(wrapped):
    assert findings(row(fix=momentum("1", 0.5))).fix(wrapped) is wrapped
    assert wrapped.module[1].momentum == 0.5


def test_parameters_that_a_wrapper_would_not_follow_are_refused(wrapped):
    before = state_of(wrapped)
    strip = Fix("strip", plan=surgery.strip)
    with pytest.raises(SurgeryError, match="DistributedDataParallel would not follow"):
        findings(row(fix=strip)).fix(wrapped)
    assert state_of(wrapped) == before


def test_it_is_a_sequence_of_findings():
    some = findings(row(), row(code="NS2"))
    assert (len(some), some[1].code, some.codes, [f.code for f in some]) == (
        2,
        "NS2",
        ("NS1", "NS2"),
        ["NS1", "NS2"],
    )
    assert some.to_dict()["passed"] is False


def test_suppressed_findings_do_not_count_and_are_not_lost():
    error = Finding("1", "is so", "because", Fix("mend"), severity="error", code="NS1")
    findings = Findings((error,), (), ())
    suppressed = findings.without(lambda finding: finding.path == "1")
    assert not findings.passed()
    assert suppressed.passed()
    assert not suppressed.said_nothing
    assert (suppressed.summary, findings.summary) == ("nothing found", "1 error")
    assert suppressed.suppressed == (error,)
    assert suppressed.to_dict()["suppressed"] == [error.to_dict()]
    assert "1 finding suppressed" in str(suppressed)
