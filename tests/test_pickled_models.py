"""Whole models that an earlier version pickled load for good: their classes keep importable paths."""

import pickletools
import zipfile
from pathlib import Path

import pytest
import torch
from tests.pickled_models import DATA, models

from normsmith import surgery

FILES = sorted(DATA.glob("pickled-model-*.pt"))


def classes_in(file: Path) -> set[str]:
    """The classes and functions that a file names, as "module name"."""
    with zipfile.ZipFile(file) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        codes = pickletools.genops(archive.read(name))
        return {str(argument) for code, argument, _ in codes if code.name == "GLOBAL"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_pickled_model_gives_the_outputs_it_gave(file):
    saved = torch.load(file, weights_only=False)
    assert saved["outputs"]
    for name, output in saved["outputs"].items():
        torch.testing.assert_close(saved["model"][name](saved["input"]), output)


def test_the_first_file_names_the_classes_that_have_moved():
    """Otherwise the test above would not try their old paths."""
    named = classes_in(DATA / "pickled-model-0.1.pt")
    assert {
        "normsmith.surgery.attach Behind",
        "normsmith.surgery.attach InFront",
        "normsmith.surgery.fold FoldedNorm",
        "normsmith.layers._statistics Policy",
    } <= named


def test_the_classes_of_today_have_the_paths_that_the_last_file_names():
    """A class that moves needs an alias at its old path, and a new file of `tests/pickled_models.py`."""
    named = {
        f"{type(module).__module__} {type(module).__qualname__}"
        for model in models().values()
        for module in model.modules()
        if type(module).__module__.startswith("normsmith.")
    }
    assert named
    assert any(named <= classes_in(file) for file in FILES)


def test_an_old_path_does_not_take_the_place_of_the_verb():
    torch.load(DATA / "pickled-model-0.1.pt", weights_only=False)
    assert callable(surgery.fold)
