"""Whole models that an earlier version pickled load for good: their classes keep importable paths."""

import pickletools
import zipfile
from pathlib import Path

import pytest
import torch

from normsmith import surgery

DATA = Path(__file__).parent / "data"
FILES = sorted(DATA.glob("pickled-model-*.pt"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_pickled_model_gives_the_outputs_it_gave(file):
    saved = torch.load(file, weights_only=False)
    assert saved["outputs"]
    for name, output in saved["outputs"].items():
        torch.testing.assert_close(saved["model"][name](saved["input"]), output)


def test_the_first_file_names_the_classes_that_have_moved():
    """Otherwise the test above would not try their old paths."""
    with zipfile.ZipFile(DATA / "pickled-model-0.1.pt") as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        named = {
            argument for code, argument, _ in pickletools.genops(archive.read(name)) if code.name == "GLOBAL"
        }
    assert {
        "normsmith.surgery.attach Behind",
        "normsmith.surgery.attach InFront",
        "normsmith.surgery.fold FoldedNorm",
        "normsmith.layers._statistics Policy",
    } <= named


def test_an_old_path_does_not_take_the_place_of_the_verb():
    torch.load(DATA / "pickled-model-0.1.pt", weights_only=False)
    assert callable(surgery.fold)
