"""What files have of a model, also where they lack running statistics."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import cnn, mlp

from normsmith.checks import UnavailableError
from normsmith.checks.files import of_norm, saved
from normsmith.checks.norms import norms_of


def test_names_are_those_of_the_model(tmp_path):
    model, path = mlp(), tmp_path / "last.pt"
    torch.save({"state_dict": {f"module.{name}": p for name, p in model.named_parameters()}}, path)
    tensors = saved(model, path)
    assert tensors.keys() == dict(model.named_parameters()).keys()
    assert of_norm(norms_of(model)[0], tensors).keys() == {"weight", "bias"}


def test_another_model_and_no_file(tmp_path):
    torch.save(mlp().state_dict(), tmp_path / "last.pt")
    for name in ("last.pt", "none.pt"):
        with pytest.raises(UnavailableError, match=name):
            saved(cnn(), tmp_path / name)
