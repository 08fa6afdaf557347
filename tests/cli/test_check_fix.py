"""`normsmith check --fix` and `--prove`: plans first, weights only where they are asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.cli.checked import healthy_network, poisoned

HERE = Path(__file__).parent / "checked.py"
FAULTY, HEALTHY = f"{HERE}:faulty", f"{HERE}:healthy"


def test_a_plan_is_shown_and_nothing_is_written(normsmith, tmp_path):
    ran = normsmith("check", FAULTY, "--fix")
    assert ran.code == 1
    assert "momentum" in ran.err
    assert "no weight is changed by model = normsmith.surgery.set_momentum(model, 0.01" in ran.err
    assert "dry run: no weights are written without --fixed FILE" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_what_changes_outputs_needs_to_be_allowed(normsmith, tmp_path):
    poisoned(tmp_path / "weights.pt")
    arguments = (
        "check",
        HEALTHY,
        "--checkpoint",
        "weights.pt",
        "--select",
        "NS410",
        "--fix",
        "--fixed",
        "new.pt",
    )
    ran = normsmith(*arguments)
    assert "it changes outputs; --unsafe-fixes does it" in ran.err
    assert "nothing to fix" in ran.err
    assert not Path("new.pt").exists()

    ran = normsmith(*arguments, "--unsafe-fixes")
    assert "written: new.pt" in ran.err
    mended = healthy_network()
    mended.load_state_dict(torch.load("new.pt", weights_only=True))
    assert mended[1].running_mean.isfinite().all()
    assert normsmith("check", HEALTHY, "--checkpoint", "new.pt", "--select", "NS410").code == 0


def test_plans_are_no_part_of_the_findings(normsmith):
    ran = normsmith("check", FAULTY, "--fix", "--format", "json")
    assert json.loads(ran.out)["findings"][0]["code"] == "NS201"


def test_a_proof_stands_with_its_finding(normsmith):
    ran = normsmith("check", FAULTY, "--prove", "--format", "json")
    proof = json.loads(ran.out)["findings"][0]["proof"]
    assert (proof["failed"], proof["held_back"]) == ("", True)
    assert proof["loss"][0] == proof["loss"][1]  # in evaluation, momentum has no effect
    assert "proof: loss" in normsmith("check", FAULTY, "--prove").out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--unsafe-fixes"], "go with --fix"),
        (["--fixed", "a.pt"], "go with --fix"),
        (["--fix", "--fixed", "a.txt"], "expected a file name that ends in"),
        (["--fix", "--fixed", "there.pt"], "--force overwrites it"),
        (["--prove", "--level", "fast"], "prove"),
    ],
)
def test_wrong_usage_is_refused_before_anything_runs(normsmith, arguments, says):
    Path("there.pt").write_text("mine")
    ran = normsmith("check", FAULTY, *arguments)
    assert ran.code == 2
    assert says in ran.err
    assert ran.out == ""
    assert Path("there.pt").read_text() == "mine"
