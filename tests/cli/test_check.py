"""`normsmith check`: what it prints and the code it exits with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.cli.checked import healthy_network, poisoned

from normsmith.checks.rule import LEVELS
from normsmith.cli.check_options import Format, Level
from normsmith.report.findings import FINDINGS_FORMATS

HERE = Path(__file__).parent / "checked.py"


def task(name: str) -> str:
    return f"{HERE}:{name}"


def test_a_fault_is_exit_code_1(normsmith):
    ran = normsmith("check", task("faulty"))
    assert ran.code == 1
    assert "warning NS201 inverted-momentum" in ran.out
    assert "surgery.set_momentum(model, 0.01, only='1').apply()" in ran.out
    assert ran.out.splitlines()[-1] == "1 warning"


@pytest.mark.parametrize("arguments", [["digits-mlp"], ["digits-cnn", "--level", "fast"], [task("healthy")]])
def test_nothing_is_exit_code_0(normsmith, arguments):
    ran = normsmith("check", *arguments)
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == "nothing found"


def test_exit_zero(normsmith):
    assert normsmith("check", task("faulty"), "--exit-zero").code == 0


def test_rules_are_chosen(normsmith):
    assert normsmith("check", task("faulty"), "--ignore", "NS201, NS404").code == 0
    ran = normsmith("check", task("faulty"), "--select", "NS4,inverted-momentum", "--format", "json")
    said = json.loads(ran.out)
    assert {row["code"] for row in said["findings"]} == {"NS201"}
    assert all(code.startswith("NS4") for code in said["clean"])


def test_json_is_all_that_is_printed(normsmith):
    ran = normsmith("check", task("prints"), "--format", "json")
    assert json.loads(ran.out)["passed"] is True
    assert "a network that talks" in ran.err


def test_a_file_can_be_written(normsmith):
    ran = normsmith("check", task("faulty"), "--format", "json", "--output", "found.json")
    assert (ran.code, ran.out) == (1, "")
    assert json.loads(Path("found.json").read_text(encoding="utf-8"))["passed"] is False
    assert normsmith("check", task("faulty"), "--output", "no/such/folder.txt").code == 2


def test_a_checkpoint_is_what_is_looked_at(normsmith, tmp_path):
    poisoned(tmp_path / "weights.pt")
    ran = normsmith("check", task("healthy"), "--checkpoint", "weights.pt")
    assert ran.code == 1
    assert "error NS410 poisoned-statistics" in ran.out
    assert "new" not in ran.err
    assert "the network is new" in normsmith("check", task("healthy")).err


def test_a_checkpoint_without_running_statistics_is_looked_at_and_mended(normsmith):
    torch.save(dict(healthy_network().named_parameters()), "weights.pt")
    chosen = ("check", task("healthy"), "--select", "NS413", "--checkpoint")
    ran = normsmith(*chosen, "weights.pt", "--fix", "--unsafe-fixes", "--fixed", "mended.pt")
    assert ran.code == 1
    assert "error NS413 checkpoint-without-statistics" in ran.out
    assert "no running statistics, 2 tensors" in ran.err
    assert normsmith(*chosen, "mended.pt").code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no-such-task"], "no task 'no-such-task'"),
        (["digits-mlp", "--select", "NS999"], "no rule is called 'NS999'"),
        (["digits-mlp", "--level", "deepest"], "deepest"),
        (["digits-mlp", "--checkpoint", "none.pt"], "none.pt"),
        ([], "Missing argument"),
    ],
)
def test_wrong_usage_is_exit_code_2(normsmith, arguments, says):
    ran = normsmith("check", *arguments)
    assert ran.code == 2
    assert says in ran.err


def test_where_no_rule_could_be_run_it_is_exit_code_2(normsmith):
    ran = normsmith("check", "digits-mlp", "--level", "fast", "--select", "NS301")
    assert ran.code == 2
    assert ran.out.splitlines()[-1] == "no rule could be run"


def test_options_name_all_levels_and_formats():
    assert [level.value for level in Level] == list(LEVELS)
    assert [one.value for one in Format] == list(FINDINGS_FORMATS)


def test_settings_are_those_of_pyproject_and_options_replace_them(normsmith):
    Path("pyproject.toml").write_text('[tool.normsmith]\nignore = ["NS201"]\nlevel = "fast"\n')
    assert normsmith("check", task("faulty")).code == 0
    assert normsmith("check", task("faulty"), "--ignore", "NS410").code == 1
    said = json.loads(normsmith("check", task("healthy"), "--format", "json").out)
    assert any(row["reason"] == "from level standard on" for row in said["not_run"])
    Path("pyproject.toml").write_text("[tool.normsmith]\nignor = []\n")
    ran = normsmith("check", task("healthy"))
    assert ran.code == 2
    assert "did you mean ignore?" in ran.err


def test_modules_are_left_out_by_globs(normsmith):
    Path("pyproject.toml").write_text(
        '[tool.normsmith.per-module-ignores]\n"1" = ["NS201"]\n"encoder.*" = ["NS4"]\n'
    )
    ran = normsmith("check", task("faulty"))
    assert ran.code == 0
    assert "1 finding suppressed" in ran.out
    assert "no module fits encoder.*" in ran.err


def test_a_baseline_lets_only_what_is_new_fail(normsmith):
    missing = normsmith("check", task("faulty"), "--baseline", "known.json")
    assert missing.code == 2
    assert "--write-baseline known.json" in missing.err
    assert normsmith("check", task("faulty"), "--write-baseline", "known.json").code == 0
    ran = normsmith("check", task("faulty"), "--baseline", "known.json")
    assert ran.code == 0
    assert "1 finding suppressed" in ran.out
    mended = normsmith("check", task("healthy"), "--baseline", "known.json")
    assert mended.code == 0
    assert "the baseline has NS201 at 1, which is no longer found" in mended.err


@pytest.mark.parametrize("form", [one.value for one in Format])
def test_the_format_never_changes_the_exit_code(normsmith, form):
    assert normsmith("check", task("faulty"), "--level", "fast", "--format", form).code == 1
    assert normsmith("check", task("healthy"), "--level", "fast", "--format", form).code == 0


def test_formats_that_name_files_name_that_of_the_task(normsmith):
    said = normsmith("check", task("faulty"), "--level", "fast", "--format", "github").out
    assert said.startswith(f"::warning file={HERE.as_uri().replace(':', '%3A')},line=1,")


def test_functions_of_the_users_are_taken_from_their_files(normsmith):
    leak = normsmith("check", task("healthy"), "--validate", task("leaking"), "--select", "NS306")
    assert (leak.code, "error NS306 eval-leak" in leak.out) == (1, True)
    step = ("--training-step", task("step_in_evaluation"), "--level", "deep", "--select", "NS309")
    assert "error NS309 training-in-eval" in normsmith("check", task("healthy"), *step).out
    domain = normsmith("check", task("healthy"), "--domain", task("source"), "--select", "NS412")
    assert "not run: NS412" not in domain.out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("leaking", "expected file.py:name or package.module:name"),
        (task("leakin"), "did you mean leaking?"),
        (task("nn"), "nn is not a function, but module"),
        ("nowhere.py:leaking", "no such file"),
    ],
)
def test_a_function_that_is_not_there_is_a_line_that_says_so(normsmith, name, said):
    ran = normsmith("check", task("healthy"), "--validate", name)
    assert ran.code == 2
    assert said in " ".join(ran.err.split())


def test_averaged_copies_and_ranks_are_looked_at(normsmith):
    torch.manual_seed(0)
    trained = healthy_network()
    trained[1].running_mean.fill_(5.0)
    torch.save(trained.state_dict(), "one.pt")
    trained[1].running_mean.fill_(0.5)
    torch.save(trained.state_dict(), "other.pt")
    ranks = ("--rank-checkpoint", "one.pt", "--rank-checkpoint", "other.pt")
    assert "NS307 rank-divergence" in normsmith("check", task("healthy"), *ranks, "--select", "NS307").out
    ran = normsmith("check", task("healthy"), "--ema", "one.pt", "--select", "NS308", "--format", "json")
    assert [row["code"] for row in json.loads(ran.out)["not_run"]] == []
