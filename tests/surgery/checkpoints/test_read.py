"""Files are read by what they hold; nothing in them is executed, and damage is one line."""

import os
import pathlib
import pickle

import pytest
import torch
from safetensors.torch import save_file
from tests.surgery.checkpoints.networks import network
from torch import nn

from normsmith.errors import InputError
from normsmith.surgery.checkpoints.read import read


class Running:
    """Unpickling it runs code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_executed(tmp_path, zipped):
    torch.save(
        {"w": torch.zeros(2, 3), "more": Running(tmp_path / "ran")},
        tmp_path / "last.pt",
        _use_new_zipfile_serialization=zipped,
    )
    everything = ["pathlib.PosixPath", "argparse.Namespace", "numpy.generic"]
    for allow in ([], everything):
        with pytest.raises(
            InputError, match="expected tensors and plain values, which is all that is unpickled"
        ):
            read(tmp_path / "last.pt", allow)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_pickled_model_is_refused_with_what_to_save(tmp_path, zipped):
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        InputError, match=r"a whole pickled model .*Linear.*save torch\.save\(model\.state_dict"
    ):
        read(tmp_path / "a.pt")


def test_what_is_allowed_is_allowed_in_one_reading_alone(tmp_path):
    torch.save({"path": pathlib.PurePosixPath("a/b")}, tmp_path / "a.pt")
    assert read(tmp_path / "a.pt", ["pathlib.PurePosixPath"]).value["path"] == pathlib.PurePosixPath("a/b")
    with pytest.raises(InputError, match=r"it holds pathlib.*; --allow pathlib\.PurePosixPath takes it"):
        read(tmp_path / "a.pt")


def test_the_form_is_that_of_the_bytes(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "weights.bin", {"format": "pt"})
    torch.save({"a": torch.ones(2)}, tmp_path / "weights.anything")
    content = read(tmp_path / "weights.bin")
    assert (content.form, content.metadata, content.value["a"].tolist()) == (
        "safetensors",
        {"format": "pt"},
        [1, 1],
    )
    assert read(tmp_path / "weights.anything").form == "torch"


def damaged(path, how):
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "head": whole[:6], "empty": b""}[how])


@pytest.mark.parametrize("how", ["cut", "head", "empty"])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_damage_is_one_line(tmp_path, form, how):
    path = tmp_path / ("a.safetensors" if form == "safetensors" else "a.pt")
    if form == "safetensors":
        save_file(network().state_dict(), path)
    else:
        torch.save(network().state_dict(), path, _use_new_zipfile_serialization=form == "zip")
    damaged(path, how)
    with pytest.raises(InputError) as refused:
        read(path)
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 500
    assert "\n" not in str(refused.value)


def test_other_bytes_and_other_pickles_are_one_line(tmp_path):
    (tmp_path / "text.pt").write_text("hello world")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": 1}))
    for name in ("text.pt", "plain.pkl"):
        with pytest.raises(InputError, match=r"expected a file that torch\.save or safetensors wrote"):
            read(tmp_path / name)


def test_what_is_not_there_meets_its_neighbour(tmp_path):
    (tmp_path / "model_best.pth").write_bytes(b"")
    with pytest.raises(InputError, match=r"no such file; did you mean model_best\.pth\?"):
        read(tmp_path / "model_best.pt")
    with pytest.raises(InputError, match=r"no such file; there is no folder .*gone"):
        read(tmp_path / "gone" / "a.pt")
    with pytest.raises(InputError, match=r"no such file$"):
        read(tmp_path / "x.pt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes in folders")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(InputError, match="got a device or a pipe"):
        read(tmp_path / "pipe.pt")


def test_a_link_to_nothing_and_a_name_that_no_system_takes_are_one_line(tmp_path):
    (tmp_path / "link.pt").symlink_to("gone.pt")
    with pytest.raises(InputError, match=r"no such file, but a link to one that is not there$"):
        read(tmp_path / "link.pt")
    with pytest.raises(InputError, match=r"cannot read .*: File name too long"):
        read(tmp_path / f"{'x' * 300}.pt")


def test_a_tensor_in_two_parts_is_refused(tmp_path):
    for name in ("a.bin", "b.bin"):
        torch.save({"x": torch.ones(1)}, tmp_path / name)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"x": "a.bin", "y": "b.bin"}}')
    with pytest.raises(InputError, match=r"expected each tensor in one part, got x in b\.bin and before it"):
        read(index)
