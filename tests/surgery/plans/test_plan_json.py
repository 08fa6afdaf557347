"""Plans as text: read back for a model of the same structure, refused for anything else."""

import json

import pytest
from tests.surgery.small import normed, plain
from torch import nn

from normsmith import surgery
from normsmith.errors import SurgeryError
from normsmith.surgery import Change, Plan, convert


def test_a_plan_is_read_back_and_checked():
    text = convert(normed(), "group", num_groups=2).to_json()
    arguments = {"to": "group", "num_groups": 2}
    assert json.loads(text)["operation"] == {"name": "convert", "arguments": arguments}
    model = normed()
    Plan.from_json(model, text).apply()
    assert model[1].num_groups == 2
    two = nn.Sequential(normed(), normed())
    with pytest.raises(
        SurgeryError, match=r"expected the plan's changes on Sequential too, got others: .*path='1'"
    ):
        Plan.from_json(two, text)
    wider = nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 2))
    with pytest.raises(SurgeryError, match="plan on this model itself"):
        Plan.from_json(wider, text)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 1, "operation": {"name": "convert"}}', "{}", "no plan"]
)
def test_text_that_is_no_plan(text):
    with pytest.raises(SurgeryError, match=r"expected a plan as Plan\.to_json writes it"):
        Plan.from_json(normed(), text)


def test_only_operations_are_called():
    evil = json.loads(convert(normed()).to_json())
    evil["operation"]["name"] = "os.system"
    with pytest.raises(SurgeryError, match=r"expected an operation among .*convert.*, got 'os.system'"):
        Plan.from_json(normed(), json.dumps(evil))


@pytest.mark.parametrize("arguments", [{}, {"places": [{}]}])
def test_arguments_that_an_operation_does_not_take_are_said(arguments):
    broken = json.loads(surgery.insert(plain(), "batch").to_json())
    broken["operation"]["arguments"] = broken["operation"]["arguments"] | arguments if arguments else {}
    with pytest.raises(SurgeryError, match=r"arguments of 'insert' as Plan\.to_json writes them"):
        Plan.from_json(plain(), json.dumps(broken))


def test_what_json_cannot_hold_is_said():
    with pytest.raises(SurgeryError, match=r"expected arguments that JSON holds .* got only="):
        convert(normed(), only=lambda *_: True).to_json()
    by_hand = Plan("by hand", normed(), changes=(Change("1", "a", "b", "c"),))
    with pytest.raises(SurgeryError, match="of no operation"):
        by_hand.to_json()
    with pytest.raises(SurgeryError, match="of no operation"):
        by_hand.on(normed())


def test_plans_from_before_settings_were_shown_are_read():
    model = nn.Sequential(nn.BatchNorm1d(4, momentum=0.3))
    text = convert(model, "renorm", schedule="crossq").to_json()
    assert "BatchRenorm1d(4, momentum=0.3, schedule=crossq)" in text
    first = text.replace(", schedule=crossq", "").replace(", momentum=0.3", "")
    assert Plan.from_json(model, first).changes == convert(model, "renorm", schedule="crossq").changes
    with pytest.raises(SurgeryError, match="expected the plan's changes"):
        Plan.from_json(nn.Sequential(nn.BatchNorm1d(5)), first)


def test_a_wrong_operation_meets_the_near_one():
    text = convert(normed(), "group").to_json().replace('"convert"', '"covnert"')
    with pytest.raises(SurgeryError, match=r"got 'covnert'; did you mean convert\?"):
        Plan.from_json(normed(), text)
