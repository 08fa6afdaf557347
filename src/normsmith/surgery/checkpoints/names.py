"""Which key of a state dict belongs to which key of a model: the prefixes that wrappers put before names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.parameter import is_lazy

from normsmith._torch import COMPILED_PREFIX
from normsmith.surgery.checkpoints.entries import StateDict

WRAPPERS = (COMPILED_PREFIX, "module.", "model.")
"""What torch.compile, DataParallel and averaging, and Lightning put before the names of a model."""
_AVERAGED = "n_averaged"
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Match:
    """A state dict beside a model, with the names under `prefix` compared to the model's.

    - `names`: the model's key → the file's key, of all that both have.
    - `missing`: keys of the model that are not there and that nothing stands for.
    - `tied`: keys of the model that are not there, but whose tensor is under another name.
    - `counters`: counters of norms that an old file lacks; they begin at 0.
    - `unexpected`: keys of the file that are not the model's.
    - `shapes`: (key of the file, its shape, the model's shape) where these differ.
    - `is_translated`: the model takes other names than its own, as those of an earlier version of itself.
    """

    prefix: str
    names: dict[str, str]
    missing: tuple[str, ...] = ()
    tied: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    is_translated: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether the model's values are all there, with their shapes."""
        return not (self.missing or self.shapes)


class Fit(NamedTuple):
    """A state dict of a checkpoint, and how its names under a prefix compare to the model's."""

    state: StateDict
    match: Match


def wrapped_prefixes(keys: Iterable[str], wanted: str | None = None) -> list[str]:
    """The prefixes of keys that wrappers alone make, in any order; with `wanted` those that hold it within.

    >>> wrapped_prefixes(["module.model.conv.weight", "n_averaged"])
    ['', 'module.', 'module.model.']
    >>> wrapped_prefixes(["module.backbone.weight", "module.head.weight"], "backbone.")
    ['module.backbone.']
    """
    found = {prefix for key in keys for prefix in _starts(key)}
    if wanted in found:
        return [wanted]
    fitting = [prefix for prefix in found if any(_is_wrapping(rest) for rest in _rests(prefix, wanted or ""))]
    return sorted(fitting, key=lambda prefix: (len(prefix), prefix))


def prefixes_of(keys: Iterable[str], wanted: Mapping[str, Any]) -> list[str]:
    """The prefixes, of whatever kind, under which the first of a model's keys stands."""
    first = next((key for key in wanted if not key.endswith(_COUNTER)), None)
    if first is None:
        return []
    before = {key.removesuffix(first) for key in keys if key.endswith(first)}
    return sorted(prefix for prefix in before if prefix.endswith(".") or not prefix)


def match(state: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str, *, part: bool = False) -> Match:
    """Compare the keys of a state dict under a prefix with those of a model.

    Args:
        state: what the file holds.
        wanted: the model's state dict with its variables (`keep_vars=True`), by which tied ones are known.
        prefix: what the file has before the model's names.
        part: what is not under the prefix belongs to other modules, and is not unexpected.
    """
    inside = {key.removeprefix(prefix): key for key in state if key.startswith(prefix)}
    names = {key: inside[key] for key in wanted if key in inside}
    absent = [key for key in wanted if key not in inside]
    present = {id(wanted[key]) for key in names}
    tied = tuple(key for key in absent if id(wanted[key]) in present)
    counters = tuple(key for key in absent if key not in tied and key.rpartition(".")[2] == _COUNTER)
    mine = set(names.values()) | {
        f"{start}{_AVERAGED}" for start in _starts(prefix) if prefix.startswith("module.", len(start))
    }
    return Match(
        prefix,
        names,
        tuple(key for key in absent if key not in (*tied, *counters)),
        tied,
        counters,
        tuple(key for key in state if key not in mine and not (part and not key.startswith(prefix))),
        tuple(_differing(state, wanted, names)),
    )


def has(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a model's weights are all in a state dict, under whatever prefix."""
    return any(match(state, wanted, prefix).is_complete for prefix in prefixes_of(state, wanted))


def _differing(
    state: Mapping[str, Any], wanted: Mapping[str, Any], names: Mapping[str, str]
) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    for name, key in names.items():
        value, own = state[key], wanted[name]
        if not isinstance(own, Tensor) or is_lazy(own):
            continue
        got = tuple(value.shape) if isinstance(value, Tensor) else (-1,)
        if got != tuple(own.shape) and not (own.ndim == 0 and got == (1,)):  # scalars of torch 0.3
            yield key, got, tuple(own.shape)


def _starts(key: str) -> Iterator[str]:
    """The key's beginnings that end in a dot, the empty one too."""
    yield ""
    for at, character in enumerate(key):
        if character == ".":
            yield key[: at + 1]


def _is_wrapping(prefix: str) -> bool:
    """Whether a prefix is made of wrappers' names alone."""
    return all(f"{part}." in WRAPPERS for part in prefix.split(".")[:-1])


def _rests(prefix: str, wanted: str) -> Iterator[str]:
    """What is left of a prefix around each place where the wanted part stands, at its beginning or after a dot."""
    for at in range(len(prefix) + 1):
        if prefix.startswith(wanted, at) and prefix[:at][-1:] in ("", "."):
            yield prefix[:at] + prefix[at + len(wanted) :]
