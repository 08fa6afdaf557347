"""What was taken from a file of weights, kept so that a changed model is written in the same layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from normsmith._text import count, some
from normsmith.surgery.checkpoints.names import Fit
from normsmith.surgery.checkpoints.read import Content

Parameters = tuple[tuple[str, tuple[int, ...]], ...]
"""The names and shapes of a model's parameters, in the order in which an optimizer numbers them."""


@dataclass(frozen=True)
class Checkpoint:
    """What `load_checkpoint` took from a file, and what else is there; printing it says so.

    - `path`: the file or folder.
    - `key`: where the state dict stood in it, "" if the file is the state dict itself.
    - `prefix`: what stood before the model's names and was removed.
    - `unexpected`: keys that the model does not have, forgiven by `strict=False`.
    - `others`: the other state dicts of the file, by their keys.
    - `copies`: those among them that are the same model with other values, as an average of it.
    """

    path: Path
    others: tuple[str, ...]
    copies: tuple[str, ...]
    content: Content = field(repr=False)
    fit: Fit = field(repr=False)
    parameters: Parameters = field(repr=False)

    @property
    def key(self) -> str:
        return self.fit.state.name

    @property
    def prefix(self) -> str:
        return self.fit.match.prefix

    @property
    def unexpected(self) -> tuple[str, ...]:
        return self.fit.match.unexpected

    @property
    def is_plain(self) -> bool:
        """Whether the file was the state dict of the model and nothing else."""
        match = self.fit.match
        removed = self.prefix or match.inner
        lacks = match.counters or match.statistics
        return not (self.key or removed or self.others or self.unexpected or lacks or self.content.unread)

    def __str__(self) -> str:
        prefix = f", without the prefix {self.prefix}" if self.prefix else ""
        if self.fit.match.inner:
            prefix += f", without {' and '.join(self.fit.match.inner)} within names"
        lines = [f"{self.path}: took {self.key or 'its state dict'}{prefix}"]
        if self.content.unread:
            lines.append(f"  not read, though in the folder: {some(self.content.unread, 10)}")
        if self.others:
            verb = "is" if len(self.others) == 1 else "are"
            lines.append(f"  there {verb} also {some(self.others, 10)}, for --key")
        if self.unexpected:
            lines.append(f"  left out, not of the model: {some(self.unexpected, 10)}")
        if self.fit.match.counters:
            norms = count(len(self.fit.match.counters), "norm")
            lines.append(f"  no num_batches_tracked of {norms}: counted from 0")
        if self.fit.match.statistics:
            tensors = count(len(self.fit.match.statistics), "tensor")
            lines.append(f"  no running statistics, {tensors}: those of a new network stay")
        return "\n".join(lines)


def parameters(model: nn.Module) -> Parameters:
    """The parameters of a model, by which it is seen whether an optimizer's state still belongs to it."""
    return tuple((name, tuple(value.shape)) for name, value in model.named_parameters())
