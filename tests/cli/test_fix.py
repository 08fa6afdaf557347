"""`normsmith fix`: what it shows, what it writes, and how it takes a mistake."""

import argparse
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from normsmith.surgery import Plan
from normsmith.tasks import build, load

OPERATIONS = {
    "convert": ("normed", "--convert", "renorm", "--set", "total_steps=100"),
    "insert": ("task", "--insert", "before"),
    "insert by function": ("unsequential", "--insert", "after", "--norm", "layer"),
    "place": ("partly", "--place", "after"),
    "strip": ("normed", "--strip", "--only", "2"),
    "fold": ("normed", "--fold"),
    "recalibrate": ("normed", "--recalibrate"),
    "recalibrate exactly": ("normed", "--recalibrate", "--exact"),
}
OTHER_TENSORS = {"insert", "insert by function", "strip", "fold", "recalibrate", "recalibrate exactly"}
"""Operations after which the names or the values of the state dict are others."""


@pytest.fixture(params=OPERATIONS)
def operation(request, tiny):
    name, *words = OPERATIONS[request.param]
    return request.param, tiny(name), words


def refused(ran, *words):
    """Exit code 2, one line on standard error with these words, no traceback, nothing on standard output."""
    assert ran.code == 2
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    for word in words:
        assert word in ran.err


def trained(task):
    """The task's network, with statistics that are not those of a new one."""
    model = build(load(task), 7)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(32, 6) + 1)
    return model.eval()


def test_a_dry_run_shows_the_plan_and_writes_nothing(normsmith, operation, tmp_path):
    _, task, words = operation
    ran = normsmith("fix", task, *words)
    assert ran.code == 0
    assert "evaluation: the outputs" in ran.out
    assert "dry run" in ran.err
    assert not list(tmp_path.iterdir())


def test_the_output_is_the_changed_network(normsmith, operation, tmp_path):
    """What the plan says, done to the checkpoint: the same in another process, by the saved plan."""
    name, task, words = operation
    model = trained(task)
    torch.save(model.state_dict(), tmp_path / "in.pt")
    files = ("--checkpoint", "in.pt", "--output", "out.safetensors", "--save-plan", "plan.json")
    ran = normsmith("fix", task, *words, *files)
    assert ran.code == 0, ran.err
    assert "written: out.safetensors" in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.pt", "out.safetensors", "plan.json"]
    expected = Plan.from_json(model, (tmp_path / "plan.json").read_text()).apply(copy=True)
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == expected.state_dict().keys()
    assert all(torch.equal(value, found[key]) for key, value in expected.state_dict().items())
    before = model.state_dict()
    is_as_before = before.keys() == found.keys() and all(
        torch.equal(before[key], found[key]) for key in found
    )
    assert is_as_before == (name not in OTHER_TENSORS)


def test_a_saved_plan_is_repeated_on_a_checkpoint(normsmith, tiny, tmp_path):
    saved = normsmith("fix", tiny("normed"), "--recalibrate", "--save-plan", "plan.json")
    assert saved.code == 0
    save_file(dict(trained(tiny("normed")).state_dict()), tmp_path / "in.safetensors")
    files = ("--checkpoint", "in.safetensors", "--output", "out.pt")
    assert normsmith("fix", tiny("normed"), "--plan", "plan.json", *files).code == 0
    written = torch.load(tmp_path / "out.pt", weights_only=True)
    means = json.loads((tmp_path / "plan.json").read_text())["operation"]["arguments"]["statistics"]
    assert torch.allclose(written["2.running_mean"], torch.tensor(means["2"]["running_mean"]))


def test_json_is_the_plan_alone(normsmith, tiny):
    ran = normsmith("fix", tiny("normed"), "--convert", "group", "--set", "num_groups=4", "--json")
    plan = Plan.from_json(load(tiny("normed")).model(), ran.out)
    assert [change.path for change in plan.changes] == ["2", "5"]
    assert plan.apply()[2].num_groups == 4


def test_what_a_network_prints_is_not_among_the_json(normsmith, tiny, tmp_path):
    file, _, name = tiny("normed").rpartition(":")
    (tmp_path / "loud.py").write_text(
        "from dataclasses import replace\n"
        "from normsmith.tasks import load\n"
        f"inner = load({f'{file}:{name}'!r})\n"
        "def network():\n"
        "    model = inner.model()\n"
        "    model.register_forward_hook(lambda *_: print('called'))\n"
        "    return model\n"
        "task = replace(inner, model=network)\n"
        "print('read')\n"
    )
    ran = normsmith("fix", "loud.py:task", "--convert", "renorm", "--set", "total_steps=9", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["title"] == "convert to renorm"
    assert "called" in ran.err
    assert "read" in ran.err


def test_the_diff_is_that_of_the_tree(normsmith, tiny):
    lines = normsmith("fix", tiny("normed"), "--strip", "--only", "5", "--diff").out.splitlines()
    changed = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert [line.split("(")[1:2] + line.split()[2:3] for line in changed] == [
        ["5): BatchNorm1d", "BatchNorm1d(16,"],
        ["5): Identity", "Identity()"],
    ]


def test_recalibration_says_what_becomes_of_the_loss(normsmith, tiny):
    said = normsmith("fix", tiny("normed"), "--recalibrate").out
    assert "largest gap, over all batches" in said
    assert "loss" in said
    assert "→" in said


def test_refusals_are_exit_code_1_and_write_nothing(normsmith, tmp_path):
    (tmp_path / "shared.py").write_text(SHARED)
    words = ("fix", "shared.py:task", "--fold", "--output", "out.pt")
    ran = normsmith(*words)
    assert ran.code == 1
    assert "refused" in ran.out
    assert "--partial" in ran.err
    assert not (tmp_path / "out.pt").exists()
    assert normsmith(*words, "--partial").code == 0
    assert set(torch.load(tmp_path / "out.pt")) > {"once.weight", "once.bias", "norm2.running_mean"}


SHARED = """
import torch
from torch import nn
from normsmith import Task, accuracy

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.once, self.norm1 = nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.twice, self.norm2, self.last = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.norm1(self.once(x))
        return self.last(self.norm2(self.twice(self.twice(x))).relu())

x, y = torch.randn(100, 6), torch.arange(100) % 3
task = Task(model=Network, train=(x, y), test=(x, y), loss=nn.functional.cross_entropy, metric=accuracy)
"""


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "model", "state_dict"])
def test_checkpoints_of_training_scripts_are_written_as_they_were_read(normsmith, tiny, tmp_path, wrapper):
    state = trained(tiny("normed")).state_dict()
    if wrapper.endswith("."):
        kept = {f"{wrapper}{name}": value for name, value in state.items()}
    else:
        kept = {wrapper: state, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}}
    torch.save(kept, tmp_path / "in.pt")
    files = ("--checkpoint", "in.pt", "--output", "out.pt")
    ran = normsmith("fix", tiny("normed"), "--convert", "torch", "--partial", *files)
    assert ran.code == 0, ran.err
    assert wrapper in ran.err
    written = torch.load(tmp_path / "out.pt")
    assert written.keys() == kept.keys()
    values = written if wrapper.endswith(".") else written[wrapper]
    assert all(torch.equal(value, state[name.removeprefix(wrapper)]) for name, value in values.items())


def test_the_command_of_the_readme_takes_an_average(normsmith, tiny, tmp_path):
    torch.save(AveragedModel(trained(tiny("normed"))).state_dict(), tmp_path / "swa.pt")
    words = ("fix", tiny("normed"), "--recalibrate", "--checkpoint", "swa.pt", "--output")
    ran = normsmith(*words, "swa.safetensors")
    assert ran.code == 0, ran.err
    assert "the weights alone, without the prefix module.; left out: n_averaged" in ran.err
    assert "module" not in " ".join(load_file(tmp_path / "swa.safetensors"))
    assert normsmith(*words, "swa.pt", "--force").code == 0
    assert torch.load(tmp_path / "swa.pt").keys() >= {"n_averaged", "module.0.weight"}


def test_options_decide_what_is_taken_and_standard_error_says_it(normsmith, tiny, tmp_path):
    state = trained(tiny("normed")).state_dict()
    other = {name: value + 1 for name, value in state.items()}
    content = {
        "params": {**other, "loss.weight": torch.ones(2)},
        "params_ema": {f"net.{name}": value for name, value in state.items()},
        "args": argparse.Namespace(lr=1),
    }
    torch.save(content, tmp_path / "in.pt")
    words = ("fix", tiny("normed"), "--convert", "torch", "--checkpoint", "in.pt")
    refused(normsmith(*words), "--allow argparse.Namespace")
    words += ("--allow", "argparse.Namespace")
    refused(normsmith(*words, "--key", "params"), "--non-strict")
    refused(normsmith(*words, "--key", "params_ma"), "did you mean params_ema?")
    ran = normsmith(*words, "--key", "params", "--non-strict", "--output", "out.pt")
    assert ran.code == 0, ran.err
    assert "left out, not of the model: loss.weight" in ran.err
    assert "params_ema is another copy of the model and stays as it was" in ran.err
    ran = normsmith(*words, "--key", "params_ema", "--prefix", "net.", "--output", "ema.pt")
    assert ran.code == 0, ran.err
    with torch.serialization.safe_globals([argparse.Namespace]):
        assert torch.load(tmp_path / "ema.pt")["args"].lr == 1
    refused(normsmith("fix", tiny("normed"), "--strip", "--key", "a"), "go with --checkpoint")


def test_tied_weights_are_written_under_both_names(normsmith, tmp_path):
    tied = SHARED.replace("nn.Linear(6, 3)", "nn.Linear(6, 6)").replace("% 3", "% 6")
    tie = "        self.last.weight = self.once.weight\n\n    def forward"
    (tmp_path / "tied.py").write_text(tied.replace("    def forward", tie))
    ran = normsmith("fix", "tied.py:task", "--strip", "--output", "out.safetensors")
    assert ran.code == 0, ran.err
    found = load_file(tmp_path / "out.safetensors")
    assert torch.equal(found["last.weight"], found["once.weight"])


def test_what_exists_is_overwritten_by_force_only(normsmith, tiny, tmp_path):
    (tmp_path / "out.pt").write_bytes(b"mine")
    words = ("fix", tiny("normed"), "--strip", "--output", "out.pt")
    refused(normsmith(*words), "out.pt exists already", "--force")
    assert (tmp_path / "out.pt").read_bytes() == b"mine"
    assert normsmith(*words, "--force").code == 0
    assert torch.load(tmp_path / "out.pt")
    (tmp_path / "folder.pt").mkdir()
    refused(normsmith(*words[:-1], "folder.pt", "--force"), "expected a file to write, got a folder")


class Code:
    """What a pickle would execute."""

    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), ("--convert", "none of them")),
        (("--strip", "--fold"), ("--strip and --fold",)),
        (("--strip", "--norm", "layer"), ("--norm goes with --insert",)),
        (("--plan", "p.json", "--only", "2"), ("--only", "--plan")),
        (("--convert", "renrom"), ("renrom", "did you mean renorm?")),
        (("--convert", "renorm", "--set", "momntum=1"), ("no setting 'momntum'", "did you mean momentum?")),
        (("--convert", "renorm", "--set", "schedule=crosq"), ("did you mean crossq?",)),
        (("--convert", "group", "--set", "num_groups=0"), ("num_groups: expected a positive whole number",)),
        (("--convert", "renorm", "--set", "first="), ("expected a setting of the new layers",)),
        (("--insert", "before", "--norm", "btach"), ("did you mean batch?",)),
        (("--convert", "renorm", "--set", "total_steps"), ("total_steps",)),
        (("--convert", "renorm", "--set", "where=3"), ("where=3",)),
        (("--convert", "renorm", "--set", "speed=3"), ("speed",)),
        (("--convert", "renorm", "--only", "nothing.*"), ("none of its 2 batch norms",)),
        (("--strip", "--json", "--diff"), ("--json",)),
        (("--strip", "--output", "out.onnx"), (".safetensors",)),
        (("--strip", "--output", "no/such/out.pt"), ("no/such",)),
        (("--strip", "--save-plan", "plan.txt"), (".json",)),
        (("--strip", "--checkpoint", "none.pt"), ("none.pt",)),
        (("--strip", "--checkpoint", "none.safetensors"), ("none.safetensors",)),
        (("--strip", "--checkpoint", "weights.h5"), ("weights.h5", "an HDF5 file")),
        (("--strip", "--checkpoint", "hullo.pt"), ("hullo.pt", "did you mean hello.pt?")),
        (
            ("--strip", "--checkpoint", "hello.pt", "--allow", "os.system"),
            ("os.system", "argparse.Namespace"),
        ),
        (("--strip", "--checkpoint", "code.pt"), ("code.pt", "unpickled")),
        (("--strip", "--checkpoint", "text.pt"), ("text.pt",)),
        (("--strip", "--checkpoint", "hello.pt"), ("hello.pt", "torch.save")),  # torch's reader: KeyError
        (("--strip", "--checkpoint", "empty.pt"), ("a state dict", "'epoch'")),
        (("--strip", "--checkpoint", "other.pt"), ("weights of Sequential", "keys missing")),
        (("--plan", "none.json"), ("none.json",)),
        (("--plan", "text.json"), ("text.json", "did you mean text.pt?")),
        (("--plan", "text.pt"), ("plan",)),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(normsmith, tiny, tmp_path, capfd, words, said):
    torch.save(Code(), tmp_path / "code.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "hello.pt").write_text("hello world")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    before = sorted(tmp_path.iterdir())
    refused(normsmith("fix", tiny("normed"), *words), *said)
    assert sorted(tmp_path.iterdir()) == before


def test_a_task_that_cannot_work_is_one_line(normsmith, tmp_path):
    (tmp_path / "bad.py").write_text(SHARED.replace("self.last(", "self.missing("))
    refused(normsmith("fix", "bad.py:task", "--strip"), "missing")


@pytest.mark.parametrize("operation", [("--convert", "renorm"), ("--fold",), ("--recalibrate",)])
def test_a_network_without_norms_is_told_how_to_get_some(normsmith, tiny, operation):
    helps = "there is nothing to fold" if operation == ("--fold",) else "insert puts norms before or after"
    refused(normsmith("fix", tiny("task"), *operation), "expected batch norm", helps)


@pytest.mark.parametrize(
    ("task", "operation", "said"),
    [
        ("task", ("--strip",), "the network has no norms; --insert before puts some in"),
        ("task", ("--place", "after"), "the network has no norms; --insert before puts some in"),
        ("normed", ("--convert", "batch"), "2 changes"),
        ("normed", ("--convert", "torch"), "the norms that there are stand as asked for"),
    ],
)
def test_a_plan_without_changes_says_why(normsmith, tiny, task, operation, said):
    ran = normsmith("fix", tiny(task), *operation)
    assert ran.code == 0
    assert said in ran.err + ran.out


def test_a_plan_may_begin_with_the_mark_of_an_editor(normsmith, tiny, tmp_path):
    assert normsmith("fix", tiny("normed"), "--strip", "--save-plan", "plan.json").code == 0
    plan = tmp_path / "plan.json"
    plan.write_text(plan.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert normsmith("fix", tiny("normed"), "--plan", "plan.json").code == 0


def test_settings_are_shown_and_lines_fit_a_page(normsmith, tiny):
    settings = ("--set", "schedule=crossq", "--set", "momentum=0.0123456789")
    shown = normsmith("fix", tiny("normed"), "--convert", "renorm", *settings).out
    assert "schedule=crossq" in shown
    assert "momentum=0.0123457" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_the_exact_mode_takes_the_most_passes_and_says_whether_they_were_enough(normsmith, tiny):
    words = ("fix", tiny("normed"), "--recalibrate")
    assert "not exact" in normsmith(*words, "--exact", "--max-passes", "2").out
    assert "not exact" not in normsmith(*words, "--exact").out
    refused(normsmith(*words, "--max-passes", "2"), "--max-passes goes with --recalibrate --exact")


def test_statistics_that_are_broken_are_named_and_healed(normsmith, tiny, tmp_path):
    model = trained(tiny("normed"))
    model[2].running_var[:3] = -9.7
    torch.save(model.state_dict(), tmp_path / "in.pt")
    words = ("fix", tiny("normed"), "--checkpoint", "in.pt")
    assert "running_var is negative in 3 of 16 channels" in normsmith(*words, "--convert", "batch").out
    refused_ = normsmith(*words, "--fold")
    assert refused_.code == 1
    assert "running_var is negative in 3 of 16 channels" in refused_.out
    assert "heals 2: its running_var is negative" in normsmith(*words, "--recalibrate").out


@pytest.mark.parametrize(
    ("norm", "said"), [("renorm", "renorm before each"), ("group", "group norm before each")]
)
def test_the_title_of_an_insertion_is_english(normsmith, tiny, norm, said):
    settings = ("--set", "total_steps=9") if norm == "renorm" else ()
    assert normsmith("fix", tiny("task"), "--insert", "before", "--norm", norm, *settings).out.startswith(
        said
    )
