"""Find, then build: what is found is plain data, from which the same plan is built again, here or elsewhere."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from normsmith import surgery
from normsmith.anatomy.forward import call
from normsmith.errors import NormsmithError, SurgeryError
from normsmith.surgery import Plan
from normsmith.surgery.plans.operation import VERBS, Operation
from normsmith.surgery.plans.saved import FORMAT

SAVED = sorted((Path(__file__).parents[2] / "data").glob("plan-*.json"))
OURS = {name: verb for name, verb in VERBS.items() if verb.build.__module__.startswith("normsmith.")}


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)
    )


MAKERS = {
    "convert": lambda model: surgery.convert(model, "renorm", total_steps=100),
    "fold": surgery.fold,
    "freeze": lambda model: surgery.freeze(model, "statistics"),
    "insert": lambda model: surgery.insert(model, "batch", only="4"),
    "merge_statistics": lambda model: surgery.merge_statistics(model, [network()], counts=[10, 30]),
    "place": lambda model: surgery.place(model, "after"),
    "prune": lambda model: surgery.prune(model, torch.randn(3, 4), share=0.25),
    "set_momentum": lambda model: surgery.set_momentum(model, 0.01),
    "set_statistics": lambda model: surgery.set_statistics(model, {"1": {"running_mean": [0.5] * 8}}),
    "strip": surgery.strip,
    "swap_activation": lambda model: surgery.swap_activation(model, "tanh"),
    "warm_start": lambda model: surgery.warm_start(renormed(model), remaining=10, updates=1000),
}
"""How each verb is asked for on `network()`."""

STAY = {"average"}
"""Verbs whose decisions are weights: for copies in their process, and too much for text."""


def renormed(model: nn.Module) -> nn.Module:
    return (
        model
        if "Renorm" in type(model[1]).__name__
        else surgery.convert(model, "renorm", total_steps=9).apply()
    )


def fresh(verb: str) -> nn.Module:
    return renormed(network()) if verb == "warm_start" else network()


def test_the_name_that_is_saved_is_the_public_verb():
    assert OURS
    assert all(callable(getattr(surgery, name)) and name in surgery.__all__ for name in OURS)
    assert OURS.keys() == MAKERS.keys() | STAY


def test_verbs_that_look_at_data_have_a_find():
    takes_data = {name for name in OURS if "batch" in inspect.signature(getattr(surgery, name)).parameters}
    assert {name for name, verb in OURS.items() if verb.find is not None} == takes_data


@pytest.mark.parametrize("verb", sorted(MAKERS))
def test_a_plan_is_built_again_from_its_decisions_alone(verb):
    model = fresh(verb)
    plan = MAKERS[verb](model)
    assert plan.changes
    assert plan.operation.name == verb
    decisions = json.loads(json.dumps(plan.operation.to_dict()["arguments"]))
    again = VERBS[verb].build(model, **decisions)
    assert (again.title, again.changes) == (plan.title, plan.changes)
    assert (again.refusals, again.kept, again.renamed) == (plan.refusals, plan.kept, plan.renamed)


@pytest.mark.parametrize("verb", sorted(name for name in MAKERS if OURS[name].find is not None))
def test_what_is_found_is_what_the_build_takes(verb):
    taken = set(inspect.signature(VERBS[verb].build).parameters) - {"model"}
    assert set(MAKERS[verb](fresh(verb)).operation.arguments) == taken


def test_saved_plans_say_their_format():
    assert json.loads(surgery.strip(network()).to_json())["format"] == FORMAT


@pytest.mark.parametrize("written", [0, 2, "1", True, None])
def test_a_plan_of_another_format_is_refused_in_one_line(written):
    saved = json.loads(surgery.strip(network()).to_json()) | {"format": written}
    if written is None:
        del saved["format"]
    with pytest.raises(SurgeryError, match="make the plan again") as caught:
        Plan.from_json(network(), json.dumps(saved))
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(f"expected a saved plan of format {FORMAT}, got ")


@pytest.mark.parametrize("file", SAVED, ids=lambda file: file.stem)
def test_plans_that_were_saved_before_are_read_for_good(file):
    saved = json.loads(file.read_text(encoding="utf-8"))
    verb = saved["operation"]["name"]
    torch.manual_seed(0)
    plan = Plan.from_json(fresh(verb), file.read_text(encoding="utf-8"))
    assert [change.path for change in plan.changes] == [change["path"] for change in saved["changes"]]
    call(plan.apply().eval(), torch.randn(3, 4))


def test_there_is_a_saved_plan_of_every_verb():
    saved = {json.loads(file.read_text(encoding="utf-8"))["operation"]["name"] for file in SAVED}
    assert saved == OURS.keys() - STAY


def test_plans_whose_decisions_are_weights_stay_in_their_process():
    other = network()
    other[0].weight.data += 1
    with pytest.raises(
        SurgeryError, match="got parameters=<dict>; such a plan stays in its process"
    ) as caught:
        surgery.average(network(), [other]).to_json()
    assert len(str(caught.value)) < 300


def changed(verb: str, *path: object, to: object) -> str:
    """The saved plan of a verb, with one value changed."""
    (file,) = (file for file in SAVED if file.stem == f"plan-1-{verb}")
    saved = json.loads(file.read_text(encoding="utf-8"))
    inner = saved
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = to
    return json.dumps(saved)


@pytest.mark.parametrize(
    ("verb", "text"),
    [
        ("set_statistics", changed("set_statistics", "operation", "arguments", "statistics", to=None)),
        ("set_statistics", changed("set_statistics", "operation", "arguments", "statistics", to={"1": None})),
        ("warm_start", changed("warm_start", "operation", "arguments", "updates", to=10**30)),
        ("convert", changed("convert", "operation", "arguments", to={"to": "group", "num_groups": 0})),
        ("insert", changed("insert", "operation", "arguments", "places", 0, "host", to="")),
        ("insert", changed("insert", "operation", "arguments", "places", 0, "signal", "features", to=-1)),
        ("insert", changed("insert", "operation", "arguments", "places", 0, "side", to="behind")),
        ("place", changed("place", "operation", "arguments", "moves", 0, "norm", to="")),
        ("place", changed("place", "operation", "arguments", "moves", 0, "needs_bias", to="2")),
        ("strip", changed("strip", "changes", 0, "path", to=["1"])),
        ("strip", changed("strip", "operation", "arguments", "kept", to=[{"path": 3, "reason": "x"}])),
        ("strip", "[" * 100_000),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_plan_with_wrong_values_is_one_line_and_leaves_the_model_alone(verb, text):
    model = fresh(verb)
    before = repr(model), {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(NormsmithError) as caught:
        Plan.from_json(model, text)
    assert len(str(caught.value).splitlines()) == 1
    assert repr(model) == before[0]
    assert all(torch.equal(value, before[1][name]) for name, value in model.state_dict().items())


def test_a_plan_for_a_sequence_is_not_for_other_models():
    class Branches(nn.Sequential):
        """Has the children of `network()`, and calls them in its own way."""

        def forward(self, x):
            return self[5](self[4](self[3](self[2](self[1](self[0](x))))))

    shared = network()
    shared[2] = shared[4]
    text = surgery.insert(network(), "batch", only="4").to_json()
    for model, words in (
        (Branches(*network()), "child of an nn.Sequential"),
        (shared, "that one other holds"),
    ):
        with pytest.raises(SurgeryError, match=words):
            Plan.from_json(model, text)


@pytest.mark.parametrize("verb", ["strip", "swap_activation"])
def test_a_path_that_stands_twice_is_done_once(verb):
    plan = MAKERS[verb](fresh(verb))
    (name,) = {"norms", "paths"} & plan.operation.arguments.keys()
    decisions = {**plan.operation.arguments, name: [*plan.operation.arguments[name]] * 2}
    again = VERBS[verb].build(plan.model, **decisions)
    again.apply()
    again.revert()
    assert again.changes == plan.changes


def test_an_unknown_verb_is_refused():
    with pytest.raises(SurgeryError, match=r"among .*convert, .*got 'no such'"):
        Operation("no such", {}).plan(network())
