"""Which key of a state dict belongs to which key of a model: the prefixes that wrappers put before names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.parameter import is_lazy

from normsmith._torch import COMPILED_PREFIX
from normsmith.surgery.checkpoints.entries import StateDict

WRAPPERS = (COMPILED_PREFIX, "module.", "model.")
"""What torch.compile, DataParallel and averaging, and Lightning put before the names of a model."""
INNER = (COMPILED_PREFIX, "module.")
"""What those put into the names of a model of which they wrap a part: `backbone._orig_mod.0.weight`."""
_AVERAGED = "n_averaged"
_COUNTER = "num_batches_tracked"
_STATISTICS = ("running_mean", "running_var", "running_std")


@dataclass(frozen=True)
class Match:
    """A state dict beside a model, with the names under `prefix` compared to the model's.

    - `names`: the model's key → the file's key, of all that both have.
    - `missing`: keys of the model that are not there and that nothing stands for.
    - `tied`: keys of the model that are not there, but whose tensor is under another name.
    - `counters`: counters of norms that an old file lacks; they begin at 0.
    - `unexpected`: keys of the file that are not the model's.
    - `shapes`: (key of the file, its shape or, of no tensor, its type, the model's shape) where these differ.
    - `inner`: the wrappers of parts of the model that stand within the file's names.
    - `is_translated`: the model takes other names than its own, as those of an earlier version of itself.
    - `statistics`: running statistics that the file lacks, where that is forgiven; the model keeps its own.
    """

    prefix: str
    names: dict[str, str]
    missing: tuple[str, ...] = ()
    tied: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    shapes: tuple[tuple[str, tuple[int, ...] | str, tuple[int, ...]], ...] = ()
    inner: tuple[str, ...] = ()
    is_translated: bool = False
    statistics: tuple[str, ...] = ()

    def key_of(self, name: str) -> str:
        """Under which key the file has a value of the model; a new one stands beside those of its module.

        >>> match({"a._orig_mod.0.weight": 1}, {"a.0.weight": 1}, "", inner=True).key_of("a.0.bias")
        'a._orig_mod.0.bias'
        """
        if name in self.names:
            return self.names[name]
        beside = next(
            (start for start in reversed(list(_starts(name))) if start in self._starts_of_modules), ""
        )
        return self._starts_of_modules.get(beside, self.prefix) + name.removeprefix(beside)

    @cached_property
    def _starts_of_modules(self) -> dict[str, str]:
        """What the file has before the names within each of the model's modules."""
        modules: dict[str, str] = {}
        for name, key in self.names.items():
            for start in _starts(name):
                if key.endswith(rest := name.removeprefix(start)):
                    modules.setdefault(start, key.removesuffix(rest))
        return modules

    def forgiving(self) -> Match:
        """The same, with running statistics that are missing forgiven."""
        lacking = tuple(name for name in self.missing if name.rpartition(".")[2] in _STATISTICS)
        return replace(self, missing=tuple(n for n in self.missing if n not in lacking), statistics=lacking)

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
    prefixes = {prefix for key in keys for prefix in _starts(key)}
    if wanted in prefixes:
        return [wanted]
    fitting = [
        prefix for prefix in prefixes if any(_is_wrapping(rest) for rest in _rests(prefix, wanted or ""))
    ]
    return sorted(fitting, key=lambda prefix: (len(prefix), prefix))


def prefixes_of(keys: Iterable[str], wanted: Mapping[str, Any]) -> list[str]:
    """The prefixes, of whatever kind, under which the first of a model's keys stands."""
    first = next((key for key in wanted if not key.endswith(_COUNTER)), None)
    if first is None:
        return []
    before = {key.removesuffix(first) for key in keys if key.endswith(first)}
    return sorted(prefix for prefix in before if prefix.endswith(".") or not prefix)


def match(
    state: Mapping[str, Any],
    wanted: Mapping[str, Any],
    prefix: str,
    *,
    part: bool = False,
    inner: bool = False,
) -> Match:
    """Compare the keys of a state dict under a prefix with those of a model.

    Args:
        state: what the file holds.
        wanted: the model's state dict with its variables (`keep_vars=True`), by which tied ones are known.
        prefix: what the file has before the model's names.
        part: what is not under the prefix belongs to other modules, and is not unexpected.
        inner: names that differ by wrappers of parts of the model are the same.
    """
    inside = {key.removeprefix(prefix): key for key in state if key.startswith(prefix)}
    if inner:
        inside = _without_inner(inside, wanted)
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
        tuple(
            word for word in INNER if any(_has_more(word, key, prefix + name) for name, key in names.items())
        ),
    )


def has(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a model's weights are all in a state dict, under whatever prefix."""
    prefixes = {*prefixes_of(state, wanted), *wrapped_prefixes(state)}
    return any(match(state, wanted, prefix, inner=True).is_complete for prefix in prefixes)


def _without_inner(inside: Mapping[str, str], wanted: Iterable[str]) -> dict[str, str]:
    """The file's keys by the model's names where these are the same but for wrappers of parts, one of each."""
    own, theirs = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for name in wanted:
        own[_bare(name)].append(name)
    for name in inside:
        theirs[_bare(name)].append(name)
    renamed = {
        names[0]: own[bare][0]
        for bare, names in theirs.items()
        if len(names) == 1 and len(own.get(bare, ())) == 1
    }
    return {renamed.get(name, name): key for name, key in inside.items()}


def _bare(name: str) -> str:
    """A name without the parts that wrappers put into it."""
    return ".".join(part for part in name.split(".") if f"{part}." not in INNER)


def _has_more(word: str, key: str, name: str) -> bool:
    return f".{key}".count(f".{word}") > f".{name}".count(f".{word}")


def _differing(
    state: Mapping[str, Any], wanted: Mapping[str, Any], names: Mapping[str, str]
) -> Iterator[tuple[str, tuple[int, ...] | str, tuple[int, ...]]]:
    for name, key in names.items():
        value, own = state[key], wanted[name]
        if not isinstance(own, Tensor) or is_lazy(own):
            continue
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
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
