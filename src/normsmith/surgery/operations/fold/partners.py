"""Which linear layer or convolution can do a batch norm's work, or the reason why none can."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Literal

from torch import nn

from normsmith._torch import buffers_of, children_of, parameters_of
from normsmith.anatomy.batch_norms import BatchNorm
from normsmith.anatomy.graph import Event, Graph
from normsmith.anatomy.kinds import is_sequential
from normsmith.anatomy.linear_layers import read_linear
from normsmith.anatomy.remark import Refusal
from normsmith.surgery.operations.fold.calls import Call, Calls
from normsmith.surgery.operations.fold.layout import keeps_the_batch_apart, repeats_between
from normsmith.surgery.operations.fold.obstacles import Fold, Owners, foldable_norm, obstacle, width
from normsmith.surgery.operations.fold.ways import Obstacle, Way, Ways, label

_Side = Literal["after", "before"]


class Partners:
    """Finds for each norm its partner: the producer that can do its work. Norms come in the order of the forward."""

    def __init__(self, graph: Graph, owners: Owners) -> None:
        self._graph, self._owners = graph, owners
        self._calls = Calls(graph, owners)
        self._ways = Ways(graph, owners, self._calls)

    def find(self, norms: Iterable[nn.Module]) -> dict[nn.Module, Fold | Refusal]:
        """For each norm how to fold it, or the reason why it cannot be: in the order of the forward.

        Of several that are folded into one layer, one after the other, the order says what is scaled first.
        """
        calls = {norm: self._calls.of(norm) for norm in norms}

        def position(norm: nn.Module) -> int:
            its = calls[norm]
            return -1 if isinstance(its, Refusal) else its[0].end.index

        return {norm: self._one(norm, calls[norm]) for norm in sorted(calls, key=position)}

    def _one(self, module: nn.Module, calls: tuple[Call, ...] | Refusal) -> Fold | Refusal:
        norm = foldable_norm(module, self._owners.locations)
        if isinstance(norm, Refusal):
            return norm
        code = self._owners.locations.code
        if isinstance(calls, Refusal):
            by_hand = code.by_hand(module)
            return calls if by_hand is None else Refusal(calls.path, by_hand)
        fold = self._beside(norm, self._ways.back(calls), "after")
        if isinstance(fold, Obstacle):
            against, fold = fold, self._beside(norm, self._ahead(norm, calls), "before")
            if isinstance(fold, Obstacle):
                return Refusal(self._owners.path(module), _together(against, fold))
        if (read := code.why_bound(module, nn.Identity())) is not None:
            return Refusal(self._owners.path(module), read)
        if norm.activation is None and len(calls[0].inner) == 1:
            self._ways.folded |= {call.end for call in calls}
        return fold

    def _ahead(self, norm: BatchNorm, calls: Sequence[Call]) -> list[Way] | Obstacle:
        if norm.activation is not None:
            return Obstacle(stops_at=f"its own activation, {norm.activation}")
        return self._ways.ahead(calls)

    def _beside(self, norm: BatchNorm, ways: list[Way] | Obstacle, side: _Side) -> Fold | Obstacle:
        """The fold into the producer that all ways lead to, or what is against it."""
        if isinstance(ways, Obstacle):
            return ways
        producer, *others = dict.fromkeys(way.producer.module for way in ways)
        path = self._owners.path(producer)
        if others:
            names = " and ".join(self._owners.path(module) for module in (producer, *others))
            return Obstacle(f"{names} stand beside it, and one alone would have to do its work for all calls")
        number, seen = self._graph.calls.get(producer, 0), len({way.producer.end for way in ways})
        if number != seen:
            what = "send their results elsewhere" if side == "after" else "take something else"
            return Obstacle(f"{path} is called {number} times in a forward, of which {number - seen} {what}")
        every = dict.fromkeys(self._repeats(norm, way, side) for way in ways)
        repeats = next((result for result in every if isinstance(result, Obstacle)), next(iter(every)))
        if isinstance(repeats, Obstacle):
            return repeats
        if len(every) > 1:
            return Obstacle(f"its channels are not the same ones of {path} in each call")
        known = ways[0].norm.entry.shape is not None or norm.dimensions in (2, 3)
        dimensions = None if known else _dimensions(producer)
        same = repeats == 1 and (width(producer, side) == norm.features or not any(map(_moves, ways)))
        fold = Fold(norm.module, producer, side, dimensions, None if same else repeats)
        between = [event.module for way in ways for event in way.between if event.module is not None]
        reason = obstacle(fold, norm, self._owners, between)
        if reason is None and self._calls.uses_elsewhere(producer, [way.producer for way in ways]):
            reason = f"the weights of {path} are used outside of its own forward"
        reason = reason or self._left_out(norm.module, producer)
        return fold if reason is None else Obstacle(reason)

    def _repeats(self, norm: BatchNorm, way: Way, side: _Side) -> int | Obstacle:
        """How many of the producer's channels in a row are one of the norm's."""
        producer = way.producer.module
        path = self._owners.path(producer)
        elsewhere = Obstacle(f"its channels are not in the dimension in which {path} has its own")
        expected, linear = _dimensions(producer), read_linear(producer) is not None
        if way.norm.entry.shape is None:
            fits = norm.dimensions is None or norm.dimensions + 2 == expected
            fits = (fits or (linear and norm.dimensions == 1)) and (expected, 1) in (
                norm.layouts or {(expected, 1)}
            )
            return 1 if fits else elsewhere
        first, last = (way.producer, way.norm) if side == "after" else (way.norm, way.producer)
        shape, layer_shape = first.end.shape, (way.producer.end if side == "after" else last.entry).shape
        norms = _dimension_of_channels(norm, way.norm.entry.shape)
        if not shape or not layer_shape or norms is None or not (linear or len(layer_shape) == expected):
            return elsewhere
        its, moves = len(layer_shape) - 1 if linear else 1, _moves(way)
        if norm.features == 1 or (not moves and its == norms):  # one number is for all
            return 1
        if shape[0] == 1 and not all(keeps_the_batch_apart(event, channels_last=linear) for event in moves):
            return Obstacle(
                f"{label(moves[0])} may mix the channels with the batch, which one sample does not show; give two"
            )
        dimensions = (its, norms) if side == "after" else (norms, its)
        repeats = repeats_between(moves, shape, dimensions, width(producer, side), norm.features, side)
        return elsewhere if repeats is None else repeats

    def _left_out(self, norm: nn.Module, producer: nn.Module) -> str | None:
        """What one forward did not call, beside the two: for other inputs the data may go that way."""
        if self._graph.followed == "symbols":
            return None
        scope = self._owners.scope(norm, producer)
        while scope and self._graph.calls.get(self._owners.modules[scope], 0) == 0:
            scope = scope.rpartition(".")[0]
        holder = self._owners.modules[scope]
        if is_sequential(holder):
            return None
        if scope not in self._uncalled:
            self._uncalled[scope] = next(self._uncalled_in(holder, scope), None)
        missing = self._uncalled[scope]
        if missing is None:
            return None
        return f"{type(holder).__name__} did not call {missing} for this batch, and may go another way for others"

    @cached_property
    def _uncalled(self) -> dict[str, str | None]:
        return {}

    def _uncalled_in(self, module: nn.Module, path: str) -> Iterator[str]:
        """Modules with tensors of their own that the forward did not come by."""
        for name, child in children_of(module).items():
            if child is None or self._graph.of(child):
                continue
            inner = f"{path}.{name}" if path else name
            tensors = (*parameters_of(child).values(), *buffers_of(child).values())
            if child not in self._graph.calls and any(tensor is not None for tensor in tensors):
                yield inner
            yield from self._uncalled_in(child, inner)


def _together(after: Obstacle, before: Obstacle) -> str:
    if after.stops_at and before.stops_at:
        return (
            f"it stands between {after.stops_at} and {before.stops_at}: beside no linear layer or convolution that "
            "could do its work"
        )
    return "; ".join(reason for reason in (after.reason, before.reason) if reason)


def _dimension_of_channels(norm: BatchNorm, shape: tuple[int, ...]) -> int | None:
    """In which a norm has its channels: 1, and where somebody's scale and shift has them for such a shape."""
    if norm.layouts is None:
        return 1
    return next((dimension for count, dimension in sorted(norm.layouts) if count == len(shape)), None)


def _moves(way: Way) -> list[Event]:
    return [event for event in way.between if event.move is not None]


def _dimensions(producer: nn.Module) -> int:
    """Of the input of a producer whose channels are where a norm's are."""
    return 2 if read_linear(producer) else 2 + len(producer.kernel_size)  # type: ignore[arg-type]
