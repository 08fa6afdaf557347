"""What about a norm, a producer, or hooks around the two is against folding one into the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import nn
from torch.nn.parameter import is_lazy

from normsmith._torch import (
    ConvTranspose,
    backward_hooks_of,
    children_of,
    forward_hooks_of,
    forward_pre_hooks_of,
    parameters_of,
)
from normsmith.anatomy.affine import affine_of
from normsmith.anatomy.batch_norms import BatchNorm, is_batch_norm
from normsmith.anatomy.broken_statistics import broken_statistics
from normsmith.anatomy.kinds import is_prepared, is_producer
from normsmith.anatomy.linear_layers import read_linear
from normsmith.anatomy.locations import Locations
from normsmith.anatomy.other_libraries import read_fixed
from normsmith.anatomy.read_batch_norm import read_batch_norm
from normsmith.anatomy.remark import Refusal

_HooksOf = Callable[[nn.Module], Mapping[int, Any]]


@dataclass(frozen=True)
class Fold:
    """A norm that comes `after` or `before` the producer that is to do its work.

    - `dimensions`: how many the norm's input must have for that, where the trace does not tell how many it has.
    - `repeats`: where the producer's channels are others than the norm's, how many of them in a row are one of the
      norm's: channel i of the producer is its channel i // repeats, counted from 0 again after its last one.
    """

    norm: nn.Module
    producer: nn.Module
    side: Literal["after", "before"]
    dimensions: int | None = None
    repeats: int | None = None


class Owners:
    """Which modules of a model own its paths and its parameters, and how often each parameter is owned."""

    def __init__(self, locations: Locations) -> None:
        self.locations = locations
        self.modules = {path: module for module, paths in locations.paths.items() for path in paths}
        self.holders = Counter(
            id(p) for m in locations.paths for p in parameters_of(m).values() if p is not None
        )

    def path(self, module: nn.Module) -> str:
        """The first of its paths."""
        return self.locations.paths[module][0]

    def scope(self, one: nn.Module, other: nn.Module) -> str:
        """The path of the innermost module that holds both."""
        parts: list[str] = []
        for a, b in zip(self.path(one).split("."), self.path(other).split("."), strict=False):
            if a != b:
                break
            parts.append(a)
        return ".".join(parts)

    def around(self, module: nn.Module, other: nn.Module) -> Iterator[nn.Module]:
        """A module and what it is in, as far as `other` is not in it."""
        path, scope = self.path(module), self.scope(module, other)
        while path != scope:
            yield self.modules[path]
            path = path.rpartition(".")[0]


def foldable_norm(module: nn.Module, locations: Locations) -> BatchNorm | Refusal:
    """A norm's parts, or what about the norm itself is against folding it."""
    path, bound = locations.paths[module][0], locations.why_not_replaceable(module, "folding")
    if bound is not None:
        return Refusal(path, bound)
    norm = read_batch_norm(module) if is_batch_norm(module) else None
    if norm is None or isinstance(norm, Refusal):
        norm = read_fixed(module) or norm or Refusal(path, "it is no batch norm")
    if isinstance(norm, Refusal):
        return norm.at(path)
    if norm.lazy or norm.is_uninitialised:
        return Refusal(path, "it has no values yet (lazy); run the model once")
    if norm.tensors["running_mean"] is None or norm.tensors["running_var"] is None:
        return Refusal(path, "it normalises by the batch in evaluation too: it has no running statistics")
    broken = broken_statistics(module)
    if broken is not None and broken.unusable:
        return Refusal(path, f"{broken.advice}; folded weights would not be finite")
    return norm


def obstacle(fold: Fold, norm: BatchNorm, owners: Owners, between: Iterable[nn.Module] = ()) -> str | None:
    """What about a producer, and about hooks around the two, is against a fold."""
    producer, path = fold.producer, owners.path(fold.producer)
    if not is_producer(producer) and read_linear(producer) is None:
        return f"{path} is no plain linear layer or convolution"
    own = next(own_obstacles(producer, path, owners.holders), None)
    if own is not None:
        return own
    wide, narrow = width(producer, fold.side), norm.features * (fold.repeats or 1)
    is_for_all = norm.layouts is not None and norm.features == 1
    if not is_for_all and (wide % narrow if fold.repeats else wide != narrow):
        return f"it has {norm.features} channels, {path} has {wide}"
    hooked = _hooked(fold, owners, between)
    if hooked is not None:
        return hooked
    if fold.side == "before" and has_border(producer):
        shift = affine_of(norm).shift
        if shift.is_meta or bool(shift.any()):
            return (
                f"{path} after it has a border (zero padding, or a transposed kernel) that the norm's shift does not "
                "reach, and a bias would"
            )
    return None


def width(producer: nn.Module, side: Literal["after", "before"]) -> int:
    """How many channels a producer has on the side on which a norm is: of its results, or of its inputs."""
    linear, layer = read_linear(producer), cast(Any, producer)
    if linear is not None:
        return linear.outputs if side == "after" else linear.inputs
    return int(layer.out_channels if side == "after" else layer.in_channels)


def own_obstacles(producer: nn.Module, path: str, holders: Counter[int]) -> Iterator[str]:
    """What about the weights of a producer is against giving it others."""
    parameters = [p for p in parameters_of(producer).values() if p is not None]
    if "forward" in vars(producer):
        yield f"the forward of {path} was replaced"
    if "parametrizations" in children_of(producer):
        yield f"{path} is parametrized; remove the parametrization first"
    if not isinstance(parameters_of(producer).get("weight"), nn.Parameter):
        yield f"the weight of {path} is computed before each forward (weight norm); remove that first"
    if is_prepared(producer):
        yield f"{path} is prepared for quantisation; fold before preparing"
    if any(is_lazy(p) for p in parameters):
        yield f"{path} has no values yet (lazy); run the model once"
    if any(holders[id(p)] > 1 for p in parameters):
        yield f"another module holds the weight or bias of {path} too (tied)"
    if any(not p.is_floating_point() for p in parameters):
        yield f"the weights of {path} are no floating point numbers"


def _hooked(fold: Fold, owners: Owners, between: Iterable[nn.Module]) -> str | None:
    """Hooks that meet the values between the two, which will be other ones or none."""
    first, second = (fold.producer, fold.norm) if fold.side == "after" else (fold.norm, fold.producer)
    watched: list[tuple[nn.Module, _HooksOf]]
    watched = [(module, forward_hooks_of) for module in owners.around(first, second)]
    watched += [(module, forward_pre_hooks_of) for module in owners.around(second, first)]
    watched += [
        (module, hooks_of) for module in between for hooks_of in (forward_pre_hooks_of, forward_hooks_of)
    ]
    watched += [(module, backward_hooks_of) for module in (first, second)]
    for module, hooks_of in watched:
        if hooks_of(module):
            return f"a hook of {owners.path(module)} meets what goes between norm and weights, which changes"
    return None


def has_border(producer: nn.Module) -> bool:
    """Whether some outputs are made of fewer inputs than others."""
    layer: Any = producer
    if read_linear(producer) is not None:
        return False
    if isinstance(producer, ConvTranspose):
        return any(size > 1 for size in (*layer.kernel_size, *layer.stride)) or any(layer.output_padding)
    if layer.padding_mode != "zeros" or layer.padding == "valid":
        return False
    return any(k > 1 for k in layer.kernel_size) if layer.padding == "same" else any(layer.padding)
