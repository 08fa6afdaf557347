"""Running statistics that no data can have: negative variances, values that are not finite, a division by zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from normsmith._torch import buffers_of
from normsmith.anatomy.locations import Locations
from normsmith.anatomy.remark import Remark
from normsmith.layers.statistics import StatisticsBase


@dataclass(frozen=True)
class BrokenStatistics:
    """What is wrong with the running statistics of a layer.

    - `text`: which are negative, not finite or zero, and in how many channels.
    - `unusable`: whether what the layer computes from them in evaluation is not finite; a variance that is negative by
      less than epsilon gives finite values, wrong as they are.
    """

    text: str
    unusable: bool

    @property
    def advice(self) -> str:
        """What is wrong, and what to do."""
        return f"{self.text}: recalibrate it first"


def broken_statistics(module: nn.Module) -> BrokenStatistics | None:
    """What is wrong with the running statistics of a module; None where nothing is, or it has none yet.

    >>> layer = nn.BatchNorm1d(3)
    >>> broken_statistics(layer) is None
    True
    >>> layer.running_var.copy_(torch.tensor([1.0, -9.7, float("nan")]))
    tensor([ 1.0000, -9.7000,     nan])
    >>> broken_statistics(layer).text
    'its running_var is negative in 1 and not finite in 1 of 3 channels'
    """
    return broken_values(buffers_of(module), _epsilon(module))


def broken_values(statistics: Mapping[str, Tensor | None], epsilon: float) -> BrokenStatistics | None:
    """What is wrong with running statistics, given by the names of their buffers, of a layer with this epsilon."""
    names = ("running_mean", "running_var", "running_std")
    held = {name: value for name in names if (value := statistics.get(name)) is not None}
    if any(is_lazy(value) or value.is_meta for value in held.values()):
        return None
    by_std = "running_std" in held
    texts, unusable = list[str](), False
    for name, value in held.items():
        faults = {"not finite": ~value.isfinite()}
        if name != "running_mean":
            faults = {"negative": value < 0} | faults
        if name == "running_std" or (name == "running_var" and not by_std and epsilon == 0):
            faults["zero, with eps=0," if name == "running_var" else "zero"] = value == 0
        counts = {fault: int(wrong.sum()) for fault, wrong in faults.items()}
        some = " and ".join(f"{fault} in {number}" for fault, number in counts.items() if number)
        if not some:
            continue
        texts.append(f"{name} is {some} of {len(value)} channels")
        usable = name == "running_var" and (by_std or bool((value.isfinite() & (value + epsilon > 0)).all()))
        unusable = unusable or not usable
    return BrokenStatistics("its " + " and its ".join(texts), unusable) if texts else None


def statistics_remarks(locations: Locations, modules: Iterable[nn.Module]) -> tuple[Remark, ...]:
    """A remark for each of these modules whose running statistics are broken."""
    return tuple(
        Remark(locations.paths[module][0], broken.advice)
        for module in modules
        if (broken := broken_statistics(module)) is not None
    )


def make_plausible(module: nn.Module) -> None:
    """Make broken running statistics 0 (means) or 1, to try a forward: within `preserved(module)`, which undoes it."""
    if broken_statistics(module) is None:
        return
    with torch.no_grad():
        for name in ("running_mean", "running_var", "running_std"):
            buffer = buffers_of(module).get(name)
            if buffer is not None:
                usable = buffer.isfinite() if name == "running_mean" else (buffer > 0) & buffer.isfinite()
                buffer.copy_(buffer.where(usable, 0.0 if name == "running_mean" else 1.0))


def _epsilon(module: nn.Module) -> float:
    return module.epsilon if isinstance(module, StatisticsBase) else float(getattr(module, "eps", 1e-5))
