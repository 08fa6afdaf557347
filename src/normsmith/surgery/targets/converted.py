"""What a batch norm becomes: the new layer, in words and with what is to be expected of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from normsmith.surgery.plans.verify import Outcome


@dataclass(frozen=True)
class Converted:
    """A new layer, in words and with what is to be expected; `changes` is False if it would be as the old one.

    `stops`: parameters that no longer train. `inner`: the part of the new layer that holds the tensors of the old one,
    where that is not the layer itself.
    """

    new: nn.Module
    before: str
    after: str
    why: str
    evaluation: Outcome
    training: Outcome
    changes: bool = True
    stops: tuple[nn.Parameter, ...] = ()
    inner: nn.Module | None = None
