"""Which attributes of a model's layers are read by the code of the modules that hold them, as it is written.

A forward such as `F.batch_norm(x, self.bn.running_mean, ...)` computes with a layer's attributes, and one such as that
of `nn.TransformerEncoderLayer` looks at them to decide where to go. A run or a trace meets what is read on its way, in
its mode; the code tells what may be read on any.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from normsmith._torch import children_of
from normsmith.anatomy.kinds import is_opaque, is_sequential
from normsmith.anatomy.source import ANY, Chain, accesses


class Holders:
    """For every module of a model what the forwards of others read of it.

    - `reads`: from each module to the attributes that are read, each with who reads it, in words.
    - `called`: the modules that code calls, or an `nn.Sequential` does.

    Seen is what a forward, and the functions and methods that it calls, reach from `self` by names, subscripts and
    loops; not what they reach by computed names, from modules kept elsewhere, or where there is no source code.

    >>> layer = nn.TransformerEncoderLayer(8, 2)
    >>> holders = Holders(layer)
    >>> holders.reads[layer.norm1]["eps"], layer.norm1 in holders.called
    ('TransformerEncoderLayer', True)
    """

    def __init__(self, model: nn.Module) -> None:
        self.reads: dict[nn.Module, dict[str, str]] = defaultdict(dict)
        self.called: set[nn.Module] = set()
        for path, module in model.named_modules():
            if is_sequential(module):
                self.called.update(child for child in children_of(module).values() if child is not None)
            elif children_of(module) and not is_opaque(module):
                self._look_at(module, f"{type(module).__name__} {path}".rstrip())

    def why_bound(self, module: nn.Module, new: Any) -> str | None:
        """Why `new` cannot come in the place of a module: code reads attributes that it does not have. None if it can.

        >>> Holders(nn.Sequential(nn.ReLU())).why_bound(nn.ReLU(), nn.Identity()) is None
        True
        """
        missing = {name: who for name, who in self.reads.get(module, {}).items() if not hasattr(new, name)}
        if not missing:
            return None
        who = next(iter(missing.values()))
        names = ", ".join(name for name in missing if missing[name] == who)
        return f"the forward of {who} reads its {names}, which {type(new).__name__} does not have"

    def by_hand(self, norm: nn.Module) -> str | None:
        """Why what a norm's own forward does is of no effect, in words; None where it is called.

        In `F.batch_norm(x, self.bn.running_mean, ...)` others compute with its statistics and do not call it.
        """
        who = self.reads.get(norm, {}).get("running_mean")
        if who is None or norm in self.called:
            return None
        return f"the forward of {who} computes with its statistics and never calls it"

    def _look_at(self, holder: nn.Module, who: str) -> None:
        for access in accesses(type(holder)):
            reached = _reached([holder], access.chain)
            if access.is_call:
                self.called.update(reached)
                continue
            for module in reached:
                if module is not holder and access.name not in children_of(module):
                    self.reads[module].setdefault(access.name, who)


def _reached(modules: Iterable[nn.Module], chain: Chain) -> list[nn.Module]:
    """The modules at the end of a chain of names from some modules; of a plain container those in it."""
    reached: list[Any] = list(modules)
    for step in chain:
        reached = [
            inner
            for one in reached
            for inner in (_contents(one) if step == ANY else [_child(one, step)])
            if inner is not None
        ]
    return [one for one in reached if isinstance(one, nn.Module)]


def _child(holder: Any, name: str) -> Any:
    """A child, or a plain attribute that may hold modules."""
    if not isinstance(holder, nn.Module):
        return None
    child = children_of(holder).get(name)
    value = vars(holder).get(name) if child is None else child
    return value if isinstance(value, (nn.Module, list, tuple, dict)) else None


def _contents(holder: Any) -> Iterable[Any]:
    if isinstance(holder, nn.Module):
        return [child for child in children_of(holder).values() if child is not None]
    if isinstance(holder, Mapping):
        return list(holder.values())
    return holder if isinstance(holder, (list, tuple)) else []
