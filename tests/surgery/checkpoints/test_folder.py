"""Folders of weights: the file in them, or what converts them."""

import json

import pytest

from normsmith.errors import InputError
from normsmith.surgery.checkpoints.folder import files_of, shards_of


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (["config.json", "pytorch_model.bin"], "pytorch_model.bin"),
        (["pytorch_model.bin", "model.safetensors"], "model.safetensors"),
        (["model.safetensors.index.json", "model-1.safetensors"], "model.safetensors.index.json"),
        (["pytorch_model.bin.index.json"], "pytorch_model.bin.index.json"),
        (["diffusion_pytorch_model.safetensors"], "diffusion_pytorch_model.safetensors"),
    ],
)
def test_the_file_that_hugging_face_takes(tmp_path, files, taken):
    for name in files:
        (tmp_path / name).touch()
    assert files_of(tmp_path)[0] == tmp_path / taken


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (
            ".metadata",
            r"python -m torch\.distributed\.checkpoint\.format_utils dcp_to_torch '.*a b' '.*a b\.pt'",
        ),
        ("zero_to_fp32.py", "python '.*zero_to_fp32.py' '.*a b'"),
        ("saved_model.pb", "a SavedModel of TensorFlow"),
        ("last.ckpt", "name one of its files: last.ckpt"),
        (None, "it holds no file"),
    ],
)
def test_other_folders_are_refused_with_what_to_do(tmp_path, file, said):
    folder = tmp_path / "a b"
    folder.mkdir()
    if file:
        (folder / file).touch()
    with pytest.raises(InputError, match=said):
        files_of(folder)


def index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(json.dumps(weight_map))
    return folder / "model.safetensors.index.json"


def test_each_part_is_read_once(tmp_path):
    for name in "ab":
        (tmp_path / name).touch()
    path = index(tmp_path, {"weight_map": {"x": "b", "y": "a", "z": "b"}})
    assert shards_of(path) == [tmp_path / "a", tmp_path / "b"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"weight_map": {"x": "gone.bin"}}, "it names gone.bin, which is not there; download all its parts"),
        ({"weight_map": {"x": "../secret.bin"}}, "expected names of files beside it, got '../secret.bin'"),
        ({"weight_map": {"x": "/etc/passwd"}}, "expected names of files beside it"),
        ({"weight_map": {"x": 3}}, 'expected an index with "weight_map"'),
        ({}, 'expected an index with "weight_map"'),
        ([], 'expected an index with "weight_map"'),
    ],
)
def test_a_wrong_index_is_refused(tmp_path, content, said):
    with pytest.raises(InputError, match=said):
        shards_of(index(tmp_path, content))
