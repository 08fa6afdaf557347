"""The places in a model where a norm can stand, so that it is applied to one result and to nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import torch
from torch import nn

from normsmith._choices import check_choice
from normsmith._torch import children_of
from normsmith.anatomy.aliasing import overwritten_after, read_in_place
from normsmith.anatomy.describe import label
from normsmith.anatomy.graph import Event, Graph, is_linear, is_recurrent, rank_of, spatial_of
from normsmith.anatomy.kinds import Signal, channels, is_sequential
from normsmith.anatomy.locations import Locations
from normsmith.anatomy.passing import moves
from normsmith.anatomy.remark import Refusal
from normsmith.surgery.placement.bias import Position, layer_with_redundant_bias


@dataclass(frozen=True)
class Place:
    """A place where a norm can stand: after a module, before it, or in the place of an identity.

    - `host`: the path of that module; `side`: where the norm stands beside it; `why`: the reason, for people.
    - `in_sequence`: the norm becomes a child of the `nn.Sequential` that runs the host; otherwise of the host itself.
    - `signal`: the shape of what is normalised there.
    - `like`: the path of the layer whose dtype and device the norm takes.
    - `bias`: the path of the layer right before the place, if a norm that subtracts a mean makes its bias redundant.
    - `unsqueeze`: how many dimensions of size one a hook adds for a norm that takes more than there are.
    """

    host: str
    side: Position
    in_sequence: bool
    signal: Signal
    like: str
    why: str
    bias: str | None = None
    unsqueeze: int = 0

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Place:
        """The place that `dataclasses.asdict` has written down."""
        check_choice("side", row["side"], get_args(Position))
        return cls(**{**row, "signal": Signal(**row["signal"])})


class Places:
    """Finds the places of one model by its graph."""

    def __init__(self, model: nn.Module, graph: Graph) -> None:
        self.graph, self.locations = graph, Locations(model)

    @cached_property
    def hidden(self) -> frozenset[Event]:
        """What `hidden_events` finds, once."""
        return hidden_events(self.graph)

    @cached_property
    def gates(self) -> frozenset[Event]:
        """What `gates` finds, once."""
        return gates(self.graph)

    def after(self, event: Event, why: str) -> Place | Refusal:
        """The place after an event, or the reason why there is none.

        Where an event that only passes channels on cannot hold a norm (a function, a module called twice), the place
        is above it.
        """
        host = event
        while self._holds_none(host) and host.keeps_channels:
            if self.graph.is_used_elsewhere(host.sources[0]):
                break
            host = host.sources[0]
        written = read_in_place(self.graph, host)
        return self._hosted(host, "after", host, why) if written is None else Refusal(host.path, written)

    def before(self, event: Event, source: Event, why: str) -> Place | Refusal:
        """The place before an event that takes `source`, or the reason why there is none."""
        while event.keeps_channels and self._holds_none(event):
            consumers = self.graph.consumers(event)
            if len(consumers) != 1 or self.graph.is_output(event):
                break
            source, event = event, consumers[0]
        if not event.sources or event.sources[0] is not source or event.sources.count(source) > 1:
            return Refusal(event.path, f"{label(event)} takes more than the one result")
        if (written := read_in_place(self.graph, event)) is not None:
            return Refusal(event.path, written)
        if (later := overwritten_after(self.graph, source, event)) is not None:
            reason = f"{label(later)} overwrites in place what {label(event)} takes, which a norm needs for gradients"
            return Refusal(event.path, reason)
        return self._hosted(event, "before", source, why)

    def replacing(self, event: Event, why: str) -> Place | None:
        """The place of an identity, if the event is one that can be replaced."""
        module = event.module
        if type(module) is not nn.Identity or children_of(module) or not self.graph.is_called_once(module):
            return None
        if self.locations.plain_attribute(module) or not self.locations.holders[module]:
            return None
        if read_in_place(self.graph, event) is not None:
            return None
        place = self._hosted(event, "replaces", event.sources[0], why)
        return place if isinstance(place, Place) and not place.signal.channels_last else None

    def _hosted(self, event: Event, side: Position, result: Event, why: str) -> Place | Refusal:
        module, obstacle = event.module, self._holds_none(event)
        if obstacle is not None or module is None:
            return Refusal(event.path, str(obstacle))
        known = self.signal(result)
        if isinstance(known, Refusal):
            return known
        signal, like = known
        within = side != "replaces" and not signal.channels_last and self._runs_in_sequence(module)
        return Place(
            event.path, side, within, signal, like, why, layer_with_redundant_bias(self.graph, result, side)
        )

    def _holds_none(self, event: Event) -> str | None:
        """Why no norm can be put on an event, if so."""
        if event.module is None:
            return f"{label(event)} cannot hold a norm; call one there in your own code, or make it a module"
        if not self.graph.is_called_once(event.module):
            return f"{label(event)} is called more than once, and a norm on it would be in all places"
        if is_sequential(event.module):
            return f"{label(event)} is empty, and would call a norm as its only child"
        if isinstance(event.module, torch.jit.ScriptModule):
            return f"{label(event)} is a scripted module, which takes no hooks"
        return None

    def signal(self, event: Event) -> tuple[Signal, str] | Refusal:
        """The shape of an event's result, and the path of a layer of its dtype and device; or why it is not known."""
        source = event.channel_source
        layer = source or self._next_producer(event)
        shape = event.shape
        if layer is None and shape is not None and len(shape) == 2:  # (N, C), wherever it comes from
            layer = self._last_producer(event)
        if layer is None:
            return Refusal(
                event.path,
                "its number of channels is not known: no linear layer or convolution leads to it through layers "
                "that keep them",
            )
        last = is_linear(layer) or is_recurrent(layer)
        if shape is None:
            rank = rank_of(event)
            if source is None or source.module is None or is_recurrent(source) or rank is None:
                return Refusal(event.path, "its number of channels is not known without data; give a batch")
            return Signal(channels(source.module), rank - 2), source.path
        batched = last or layer.shape is None or len(layer.shape) == spatial_of(layer) + 2
        spatial = len(shape) - 2
        if not (batched and 0 <= spatial <= 3):
            return Refusal(
                event.path,
                f"expected a batch of channels, and at most 3 dimensions more, got a result of shape {shape}",
            )
        last = last and spatial > 0
        return Signal(shape[-1 if last else 1], spatial, last), layer.path

    def _runs_in_sequence(self, module: nn.Module) -> bool:
        holders = self.locations.holders[module]
        return len(holders) == 1 and is_sequential(holders[0][0]) and self.graph.calls.get(holders[0][0]) == 1

    def _next_producer(self, event: Event) -> Event | None:
        """The first layer with weights that takes the event's channels as they are."""
        waiting = list(self.graph.consumers(event))
        while waiting:
            later = waiting.pop(0)
            if later.role == "producer" and later.sources and later.module is not None:
                return later
            sums = later.role == "add" and later.shape == event.shape
            if sums or later.keeps_channels or later.role in ("activation", "norm"):
                waiting.extend(self.graph.consumers(later))
        return None

    def _last_producer(self, event: Event) -> Event | None:
        return next(
            (earlier for earlier in reversed(self.graph.events[: event.index]) if earlier.role == "producer"),
            None,
        )


def hidden_events(graph: Graph) -> frozenset[Event]:
    """The hidden events: those whose results reach a later layer with weights (norms not counted)."""
    hidden: set[Event] = set()
    for event in reversed(graph.events):
        if any(later in hidden or _has_weights(later) for later in graph.consumers(event)):
            hidden.add(event)
    return frozenset(hidden)


def gates(graph: Graph) -> frozenset[Event]:
    """The activations whose results only multiply other results, and the events that are computed for these alone.

    Between the activation and the product its result may be passed on, or moved, as by `view` and `expand_as`.
    """
    gating, scaling = set[Event](), set[Event]()
    for event in reversed(graph.events):
        later = graph.consumers(event)
        scales = bool(later) and scaling.issuperset(later)
        if _multiplies(event) or (scales and moves(event)):
            scaling.add(event)
        computes = event.role in ("producer", "activation") or moves(event)
        leads = computes and len(later) == 1 and later[0] in gating
        if (event.role == "activation" and scales) or leads:
            gating.add(event)
    return frozenset(gating)


def _multiplies(event: Event) -> bool:
    signals = {source for source in event.sources if source.kind != "parameter"}
    return event.name == "mul" and len(signals) > 1


def _has_weights(event: Event) -> bool:
    if event.role in ("norm", "activation"):
        return False
    return event.role == "producer" or (
        event.module is not None and any(True for _ in event.module.parameters())
    )
