"""Checkpoints as people have them are loaded: by themselves, with the option that is named, or not at all."""

import argparse
import json
import pathlib
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.surgery.checkpoints.networks import is_same, network, prefixed
from torch import nn
from torch.optim.swa_utils import AveragedModel

from normsmith.errors import InputError
from normsmith.surgery import load_checkpoint

MODEL = network(1)
STATE, OTHER = MODEL.state_dict(), network(2).state_dict()
OPTIMIZER = torch.optim.Adam(MODEL.parameters())
MODEL(torch.randn(4, 6)).sum().backward()
OPTIMIZER.step()
STATE, OPTIMIZER = MODEL.state_dict(), OPTIMIZER.state_dict()
WITHOUT_COUNTERS = {name: value for name, value in STATE.items() if "num_batches" not in name}
RNG = torch.get_rng_state()


def averaged(model):
    """The state dict of an average of one model: its own values."""
    average = AveragedModel(model)
    average.update_parameters(model)
    return average.state_dict()


TAKEN = {
    "plain.pt": STATE,
    "plain.pth": dict(STATE),
    "pytorch_model.bin": STATE,
    "model.safetensors": STATE,
    "safetensors_in.bin": STATE,
    "no_suffix": STATE,
    "swa.pt": averaged(MODEL),
    "swa_of_ddp.pt": averaged(nn.DataParallel(MODEL)),
    "swa_of_compiled.pt": averaged(torch.compile(MODEL, backend="eager")),
    "swa_in_lightning.ckpt": {"state_dict": prefixed("model.", averaged(MODEL))},
    "ddp_around_compile.pt": prefixed("module._orig_mod.", STATE),
    "part_was_compiled.pt": {f"{name[0]}._orig_mod{name[1:]}": value for name, value in STATE.items()},
    "compiled_part_in_ddp.pt": {
        f"module.{name.replace('1.', '1._orig_mod.')}": value for name, value in STATE.items()
    },
    "part_in_ddp.pt": {"model": {name.replace("1.", "1.module."): value for name, value in STATE.items()}},
    "compile_around_ddp.pt": prefixed("_orig_mod.module.", STATE),
    "all_three.pt": prefixed("model.module._orig_mod.module.", STATE),
    "lightning.ckpt": {"epoch": 1, "state_dict": prefixed("model.", STATE), "optimizer_states": [OPTIMIZER]},
    "last.pth.tar": {
        "epoch": 3,
        "state_dict": prefixed("module.", STATE),
        "arch": "x",
        "optimizer": OPTIMIZER,
    },
    "odd_key.pt": {"my_network": STATE, "best": torch.tensor(0.5), "rng": {"cpu": RNG}},
    "nested.pt": {"agent": {"critic": prefixed("module.", STATE), "steps": 3}},
    "detectron.pth": {"model": STATE, "optimizer": OPTIMIZER, "iteration": 3},
    "old.pth": WITHOUT_COUNTERS,
    "old_with_versions.pth": None,
    "half.pt": {name: value.half() if value.is_floating_point() else value for name, value in STATE.items()},
}


def write(path, content):
    if path.name == "old_with_versions.pth":
        content = OrderedDict(WITHOUT_COUNTERS)
        content._metadata = STATE._metadata
    if "safetensors" in path.name:
        save_file(dict(content), path)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("name", TAKEN)
def test_taken_without_options(tmp_path, name):
    model = network()
    loaded = load_checkpoint(model, write(tmp_path / name, TAKEN[name]))
    if name.startswith("half"):
        assert torch.equal(model[0].weight, STATE["0.weight"].half().float())
        return
    model[1].num_batches_tracked.fill_(1)
    assert is_same(model, MODEL)
    assert loaded.unexpected == ()


def test_files_of_torch_before_1_6_are_taken(tmp_path):
    torch.save({"state_dict": STATE}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    model = network()
    load_checkpoint(model, tmp_path / "old.pt")
    assert is_same(model, MODEL)
    torch.save({"p": pathlib.Path("x")}, tmp_path / "path.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"--allow pathlib\.PosixPath"):
        load_checkpoint(model, tmp_path / "path.pt")


WITH_AN_OPTION = {
    "detector.pth": (
        prefixed("backbone.", STATE) | {"head.weight": torch.ones(2)},
        "--prefix backbone.",
        "prefix",
    ),
    "detector_of_ddp.pth": (
        {"model": prefixed("module.backbone.", STATE) | {"module.head.weight": torch.ones(2)}},
        "--prefix module.backbone.",
        "prefix",
    ),
    "own_attribute.ckpt": ({"state_dict": prefixed("net.", STATE)}, "--prefix net.", "prefix"),
    "twice.pt": (
        prefixed("model.", OTHER) | prefixed("module.", STATE),
        "under the prefixes 'model.' and 'module.'; name one: --prefix 'module.'",
        "prefix",
    ),
    "bare_too.pt": (OTHER | prefixed("module.", STATE), "the prefixes '' and 'module.'", "prefix"),
    "extra_keys.pt": (STATE | {"loss.weight": torch.ones(2)}, "--non-strict", "strict"),
    "lightning_loss.ckpt": (
        {"state_dict": prefixed("model.", STATE) | {"loss.weight": torch.ones(2)}},
        "--non-strict leaves them out, or --prefix model.",
        "strict",
    ),
    "params_ema.pth": ({"params_ema": STATE, "params": OTHER}, "params_ema, params; name one: --key", "key"),
    "path.ckpt": (
        {"state_dict": prefixed("model.", STATE), "hyper_parameters": {"data": pathlib.Path("x")}},
        "--allow pathlib.PosixPath",
        "allow",
    ),
    "namespace.pth": (
        {"state_dict": STATE, "args": argparse.Namespace(lr=1, out=pathlib.PureWindowsPath("c:/x"))},
        "--allow argparse.Namespace --allow pathlib.PureWindowsPath",
        "allow",
    ),
    "numpy.pth": (
        {"model": STATE, "best": np.float64(0.5), "kind": np.dtype("int8")},
        "--allow numpy.generic",
        "allow",
    ),
}
OPTIONS = {
    "prefix": lambda said: {"prefix": said.split()[-1].strip("'")},
    "strict": lambda _: {"strict": False},
    "key": lambda _: {"key": "params_ema"},
    "allow": lambda said: {"allow": said.split("--allow ")[1:]},
}


@pytest.mark.parametrize("name", WITH_AN_OPTION)
def test_taken_with_the_option_that_is_named(tmp_path, name):
    content, said, option = WITH_AN_OPTION[name]
    torch.save(content, tmp_path / name)
    safe, model = set(torch.serialization.get_safe_globals()), network()
    with pytest.raises(InputError) as refused:
        load_checkpoint(model, tmp_path / name)
    assert said in str(refused.value)
    assert is_same(model, network())
    options = {
        key: [v.strip() for v in value] if key == "allow" else value
        for key, value in OPTIONS[option](said).items()
    }
    load_checkpoint(model, tmp_path / name, **options)
    assert is_same(model, MODEL)
    assert set(torch.serialization.get_safe_globals()) == safe


def test_what_else_is_there_is_said(tmp_path):
    torch.save(
        {"state_dict": STATE, "state_dict_ema": OTHER, "disc": {"w": torch.ones(3)}}, tmp_path / "ema.pth"
    )
    model = network()
    loaded = load_checkpoint(model, tmp_path / "ema.pth")
    assert is_same(model, MODEL)
    assert (loaded.key, loaded.others, loaded.copies) == (
        "state_dict",
        ("state_dict_ema", "disc"),
        ("state_dict_ema",),
    )
    assert "took state_dict\n  there are also state_dict_ema, disc, for --key" in str(loaded)
    load_checkpoint(model, tmp_path / "ema.pth", key="state_dict_ema")
    assert torch.equal(model[0].weight, OTHER["0.weight"])


def test_non_strict_names_what_it_forgives_and_forgives_nothing_missing(tmp_path):
    torch.save(STATE | {"loss.weight": torch.ones(2)}, tmp_path / "more.pt")
    loaded = load_checkpoint(network(), tmp_path / "more.pt", strict=False)
    assert loaded.unexpected == ("loss.weight",)
    assert "left out, not of the model: loss.weight" in str(loaded)
    torch.save({name: value for name, value in STATE.items() if name != "3.bias"}, tmp_path / "less.pt")
    with pytest.raises(InputError, match=r"1 key missing \(3\.bias\)"):
        load_checkpoint(network(), tmp_path / "less.pt", strict=False)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"epoch": 3}, "expected a state dict, .* got a dict of 'epoch'"),
        ({}, "got an empty dict"),
        (None, "got None"),
        (3, "got an int"),
        (torch.ones(2), "got a float32 Tensor"),
        (
            {name: value.long() for name, value in STATE.items()},
            r"got a dict of '0.weight', .*\(int64 Tensor\)",
        ),
        (STATE | {5: torch.ones(2)}, "whose keys are text, got one with the key 5"),
        (STATE | {"1.weight": [1.0]}, r"1.weight: expected a tensor of shape \(16,\), got a list"),
        (
            {name: value.to("meta") for name, value in STATE.items()},
            "0.weight cannot be copied: Cannot copy out of meta",
        ),
        ({"a.b": STATE, "a": {"b": OTHER}}, "got two that are both called a.b"),
        ({name: value for name, value in STATE.items() if name != "1.weight"}, r"1 key missing \(1.weight\)"),
        ([1, 2], "got a list"),
        (OPTIMIZER, "got a dict of 'state', 'param_groups'"),
        ({"0.weight": torch.zeros(1)}, "expected weights of Sequential: .* missing"),
        (
            STATE | {"0.weight": torch.ones(7, 6)},
            r"1 tensor of another shape, as 0.weight: expected \(16, 6\), got \(7, 6\)",
        ),
        (
            {name: value for name, value in STATE.items() if not name.startswith("1.")},
            "holds nothing of 1 batch norm .*folded into their layers, take the checkpoint from before",
        ),
    ],
)
def test_what_is_no_checkpoint_of_the_model_is_named(tmp_path, content, said):
    torch.save(content, tmp_path / "last.pt")
    model = network()
    with pytest.raises(InputError, match=said):
        load_checkpoint(model, tmp_path / "last.pt")
    assert is_same(model, network())


def test_wrong_names_meet_the_near_one(tmp_path):
    torch.save({"params": STATE, "params_ema": OTHER}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="there are params, params_ema; did you mean params_ema"):
        load_checkpoint(network(), tmp_path / "a.pt", key="parms_ema")
    torch.save(prefixed("backbone.", STATE) | {"head.weight": torch.ones(2)}, tmp_path / "b.pt")
    with pytest.raises(InputError, match=r"did you mean backbone\.\?"):
        load_checkpoint(network(), tmp_path / "b.pt", prefix="backbon")
    with pytest.raises(
        InputError, match=r"expected one of argparse.Namespace.* did you mean pathlib.PosixPath"
    ):
        load_checkpoint(network(), tmp_path / "a.pt", allow=["PosixPath"])


def test_a_wrapped_model_takes_what_its_inner_one_takes(tmp_path):
    torch.save(prefixed("module.", STATE), tmp_path / "a.pt")
    for wrapped in (torch.compile(network(), backend="eager"), nn.DataParallel(network())):
        load_checkpoint(wrapped, tmp_path / "a.pt")
        assert all(
            torch.equal(value, STATE[name.split(".", 1)[1]]) for name, value in wrapped.state_dict().items()
        )


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_a_module_that_translates_old_names_is_let(tmp_path):
    torch.save(nn.utils.weight_norm(nn.Linear(3, 2)).state_dict(), tmp_path / "old.pt")
    model = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    load_checkpoint(model, tmp_path / "old.pt")
    old = torch.load(tmp_path / "old.pt")
    assert torch.equal(model.parametrizations.weight.original1, old["weight_v"])


def test_a_tied_weight_may_be_there_once(tmp_path):
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    save_file({"0.weight": torch.ones(5, 3)}, tmp_path / "tied.safetensors")
    load_checkpoint(model, tmp_path / "tied.safetensors")
    assert torch.equal(model[1].weight, torch.ones(5, 3))


def test_folders_and_indices_of_hugging_face_are_taken(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    (whole / "config.json").write_text("{}")
    torch.save(STATE, whole / "pytorch_model.bin")
    halves = [dict(list(STATE.items())[:3]), dict(list(STATE.items())[3:])]
    for number, half in enumerate(halves):
        save_file(half, parts / f"model-{number}.safetensors")
    weight_map = {name: f"model-{number}.safetensors" for number, half in enumerate(halves) for name in half}
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for path in (whole, parts, parts / "model.safetensors.index.json"):
        model = network()
        load_checkpoint(model, path)
        assert is_same(model, MODEL)


def test_the_key_of_one_state_dict_is_said_in_the_singular(tmp_path):
    torch.save({"params": STATE}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="there is params; did you mean params"):
        load_checkpoint(network(), tmp_path / "a.pt", key="parms")


def test_other_files_of_weights_in_the_folder_are_named(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    torch.save(OTHER, tmp_path / "pytorch_model.bin")
    loaded = load_checkpoint(network(), tmp_path)
    assert not loaded.is_plain
    assert "not read, though in the folder: pytorch_model.bin" in str(loaded)


def test_a_single_name_that_is_allowed_may_stand_by_itself(tmp_path):
    model = nn.Linear(2, 1)
    torch.save({"model": model.state_dict(), "args": argparse.Namespace(lr=1)}, tmp_path / "last.pt")
    loaded = load_checkpoint(nn.Linear(2, 1), tmp_path / "last.pt", allow="argparse.Namespace")
    assert loaded.key == "model"
