"""What a file of weights has, by the names of a model, whether or not it could be loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from normsmith.checks.finding import UnavailableError
from normsmith.checks.norms import Norm
from normsmith.errors import NormsmithError
from normsmith.surgery.checkpoints.choose import choose
from normsmith.surgery.checkpoints.read import read

Saved = Mapping[str, Tensor]
"""The tensors of a file, by the names of the model."""


def saved(model: nn.Module, path: Path) -> Saved:
    """The tensors that a file has of a model; it may lack running statistics.

    Raises:
        UnavailableError: the file cannot be read, or is of another model.
    """
    try:
        fit, _ = choose(model, read(path).value, path, key=None, prefix=None, strict=False, lacking=True)
    except NormsmithError as error:
        raise UnavailableError(str(error)) from error
    if fit.match.is_translated:
        raise UnavailableError(f"{path}: its names are those of an earlier version of the model")
    return {name: fit.state.tensors[key] for name, key in fit.match.names.items()}


def of_norm(norm: Norm, tensors: Saved) -> dict[str, Tensor]:
    """What a file has of a norm, by the norm's own names."""
    start = f"{norm.path}." if norm.path else ""
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
