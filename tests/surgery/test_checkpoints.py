"""Checkpoints are written whole or not at all, and read without executing what is in them."""

import pathlib

import pytest
import torch
from torch import nn

from normsmith.errors import InputError
from normsmith.surgery import checkpoints


def network():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize("suffix", [".safetensors", *checkpoints.PICKLED])
def test_what_is_saved_is_loaded(tmp_path, suffix):
    path, model, other = tmp_path / f"model{suffix}", network(), network()
    assert checkpoints.save(model, path) == len(model.state_dict())
    checkpoints.load_into(other, path)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in other.state_dict().items())
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"old")

    def full(*_):
        raise RuntimeError("[enforce fail at inline_container.cc] . no\n  space")

    monkeypatch.setattr(checkpoints, "save_file", full)
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        InputError, match=r"cannot write .*: \[enforce fail at inline_container.cc\] \. no space$"
    ):
        checkpoints.save(network(), path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_folder_that_is_gone_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"cannot write .*: No such file or directory"):
        checkpoints.save_text("{}", tmp_path / "gone" / "plan.json")


def test_text_replaces_what_a_link_names(tmp_path):
    (tmp_path / "plan.json").write_text("old")
    (tmp_path / "link.json").symlink_to("plan.json")
    checkpoints.save_text("σ", tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "plan.json").read_text(encoding="utf-8") == "σ"


@pytest.mark.parametrize("nested", ["state_dict", "model_state_dict", "model"])
def test_weights_are_taken_out_of_what_training_scripts_save(tmp_path, nested):
    model, other = network(), network()
    wrapped = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({nested: wrapped, "epoch": 3}, tmp_path / "last.pt")
    checkpoints.load_into(other, tmp_path / "last.pt")
    assert torch.equal(other[0].weight, model[0].weight)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"epoch": 3}, "expected a state dict, .* got a dict of 'epoch'"),
        ({}, "got a dict of nothing"),
        ([1, 2], "got list"),
        ({"0.weight": torch.zeros(1)}, "expected weights of Sequential"),
    ],
)
def test_what_is_no_checkpoint_of_the_model_is_named(tmp_path, content, said):
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(InputError, match=said):
        checkpoints.load_into(network(), tmp_path / "last.pt")


def test_safetensors_hold_tensors_alone(tmp_path):
    class Stateful(nn.Module):
        def get_extra_state(self):
            return 3

        def set_extra_state(self, state):
            pass

    with pytest.raises(
        InputError, match=r"safetensors hold tensors alone, and _extra_state is none; write a \.pt"
    ):
        checkpoints.save(Stateful(), tmp_path / "model.safetensors")
    assert checkpoints.save(Stateful(), tmp_path / "model.pt") == 1


class Running:
    """Unpickling it runs code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_nothing_in_a_file_is_executed(tmp_path):
    torch.save({"0.weight": torch.zeros(2, 3), "more": Running(tmp_path / "ran")}, tmp_path / "last.pt")
    with pytest.raises(InputError, match="expected tensors and plain values, which is all that is unpickled"):
        checkpoints.load_into(network(), tmp_path / "last.pt")
    assert not (tmp_path / "ran").exists()
