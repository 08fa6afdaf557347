"""Running rules: each by itself, nothing left behind."""

from __future__ import annotations

import pytest
from tests.checks.networks import cnn, images, mlp, vectors
from tests.surgery.states import state_of
from torch import nn

from normsmith.checks import Context, Finding, Fix, NotRun, Rule
from normsmith.checks.engine import run


def rule(check, *needs, code="NS001") -> Rule:
    return Rule(code, "name", "warning", check, "Nothing.", needs=needs)


def finding(path="1") -> Finding:
    return Finding(path, "is so", "because", Fix("mend it"))


def clean(context):
    return ()


def graph(context):
    assert context.graph.events
    return ()


def moments(context):
    assert context.moments
    return ()


def both(context):
    return (*graph(context), *moments(context))


def interrupted(context):
    context.network[1].momentum = 0.9
    context.network.eval()
    raise KeyboardInterrupt


def test_a_rule_that_raises_is_not_run_and_the_others_answer():
    def raising(context):
        yield finding()
        raise ZeroDivisionError("oops")

    rules = [rule(raising), rule(lambda c: [finding()], code="NS002"), rule(clean, code="NS003")]
    findings = run(rules, Context(mlp()))
    assert findings.codes == ("NS002",)
    assert findings.clean == ("NS003",)
    assert findings.not_run == (NotRun("the rule raised ZeroDivisionError: oops", "NS001", "name"),)


def test_a_rule_says_itself_why_it_is_not_run():
    findings = run([rule(lambda c: NotRun("no ranks"))], Context(mlp()))
    assert findings.not_run[0].reason == "no ranks"
    assert findings.said_nothing


@pytest.mark.parametrize("need", ["batches", "loss", "optimizer", "validate", "domain", "ema", "checkpoint"])
def test_what_is_missing_is_asked_for(need):
    findings = run([rule(clean, need)], Context(mlp()))
    assert findings.not_run[0].reason == f"give {need}=..."


@pytest.mark.parametrize(("level", "runs"), [("fast", 1), ("standard", 2), ("deep", 3)])
def test_levels(level, runs):
    rules = [
        rule(clean, "graph"),
        rule(clean, "batches", code="NS002"),
        rule(clean, "training", code="NS003"),
    ]
    findings = run(rules, Context(mlp(), vectors(2)), level)
    assert len(findings.clean) == runs
    assert all("from level" in row.reason for row in findings.not_run)


def test_fast_draws_no_batch():
    def never():
        raise AssertionError("a batch was drawn")
        yield

    findings = run([rule(graph)], Context(mlp(), never()), "fast")
    assert findings.clean == ("NS001",)


def test_an_interrupt_goes_through_and_everything_is_as_before():
    model = mlp()
    before = state_of(model)
    with pytest.raises(KeyboardInterrupt):
        run([rule(interrupted)], Context(model))
    assert state_of(model) == before


def test_facts_are_made_once_for_all_rules():
    forwards = []

    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = cnn()

        def forward(self, x):
            forwards.append(self.training)
            return self.body(x)

    context = Context(Counted(), images(8))
    rules = [rule(both, code=f"NS00{number}") for number in range(5)]
    run(rules, context)
    assert len(forwards) == 1 + 5  # the graph, and the five measured batches


def test_what_cannot_be_had_is_asked_for_once():
    tries = []

    def forward(model, batch):
        tries.append(batch)
        raise RuntimeError("broken")

    context = Context(mlp(), vectors(8), forward=forward)
    rules = [rule(moments, code=f"NS00{number}") for number in range(3)]
    findings = run(rules, context)
    assert len(tries) == 1
    assert len({row.reason for row in findings.not_run}) == 1
    assert "batch 1: RuntimeError: broken" in findings.not_run[0].reason
