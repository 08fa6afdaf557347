"""Files are written whole or not at all, and only where a file can stand."""

import os

import pytest
import torch
from tests.surgery.checkpoints.networks import network
from torch import nn

from normsmith.errors import InputError
from normsmith.surgery.checkpoints import write


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"old")

    def full(*_):
        raise RuntimeError("[enforce fail at inline_container.cc] . no\n  space")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        InputError, match=r"cannot write .*: \[enforce fail at inline_container.cc\] \. no space$"
    ):
        write.save(network().state_dict(), path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_cannot_be_pickled_is_one_line_and_leaves_the_old_file_alone(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"old")
    with pytest.raises(InputError, match=r"cannot write .*a\.pt"):
        write.save({"a": lambda: 1}, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == b"old"


def test_a_folder_that_is_gone_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"cannot write .*: No such file or directory"):
        write.save_text("{}", tmp_path / "gone" / "plan.json")


def test_text_replaces_what_a_link_names(tmp_path):
    (tmp_path / "plan.json").write_text("old")
    (tmp_path / "link.json").symlink_to("plan.json")
    write.save_text("σ", tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "plan.json").read_text(encoding="utf-8") == "σ"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes in folders")
def test_a_pipe_is_no_file_to_write(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(InputError, match="expected a file to write, got a device or a pipe"):
        write.check_target(tmp_path / "pipe.pt", force=True, suffixes=write.PICKLED)


def test_safetensors_hold_tensors_alone(tmp_path):
    class Stateful(nn.Module):
        def get_extra_state(self):
            return 3

        def set_extra_state(self, state):
            pass

    with pytest.raises(
        InputError, match=r"safetensors hold tensors alone, and _extra_state is none; write a \.pt"
    ):
        write.save(Stateful().state_dict(), tmp_path / "model.safetensors")


def test_a_name_that_no_system_takes_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"cannot write .*: File name too long"):
        write.check_target(tmp_path / f"{'x' * 300}.pt", force=False, suffixes=write.PICKLED)
