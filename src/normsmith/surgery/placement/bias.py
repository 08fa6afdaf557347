"""Where it is decided that a layer's bias is redundant, because a norm subtracts it, or is needed again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import Literal

import torch
from torch import nn

from normsmith._torch import TorchBatchNorm, parameters_of
from normsmith.anatomy.graph import Event, Graph
from normsmith.anatomy.holders import Holders
from normsmith.anatomy.kinds import channels, is_producer
from normsmith.anatomy.locations import find
from normsmith.anatomy.remark import Remark
from normsmith.surgery.plans.edits import Edit, ParameterEdit
from normsmith.surgery.plans.plan import Change

Position = Literal["before", "after", "replaces"]
"""Where a norm stands beside its host: before it, after it, or in the place of the host, which is an identity."""


def layer_with_redundant_bias(graph: Graph, result: Event, side: Position) -> str | None:
    """The path of the layer whose bias a norm of `result` makes redundant, if the norm subtracts a mean.

    A norm right after a linear layer or convolution subtracts whatever constant the bias adds. The bias stays where
    the layer's output is used elsewhere too, or the layer is called more than once. `side`: where the norm stands
    beside its host; after its host, it is applied to all that the host's output is used for.
    """
    shared = side != "after" and graph.is_used_elsewhere(result)
    while _copies_at_most(result) and not shared:
        result = result.sources[0]
        shared = graph.is_used_elsewhere(result)
    layer = result.module
    if shared or layer is None or not is_producer(layer) or getattr(layer, "bias", None) is None:
        return None
    return result.path if graph.is_called_once(layer) else None


def layer_that_needs_a_bias(graph: Graph, norm: Event, source: Event) -> str | None:
    """The path of the layer right before a norm that moves away, if the norm has a bias and the layer has none.

    `source` is the event whose result the norm is applied to.
    """
    while _copies_at_most(source) and not graph.is_used_elsewhere(source):
        source = source.sources[0]
    layer = source.module
    if layer is None or not is_producer(layer) or getattr(layer, "bias", None) is not None:
        return None
    alone = not graph.is_used_elsewhere(source) and len(graph.of(layer)) == 1
    return source.path if alone and getattr(norm.module, "bias", None) is not None else None


def _copies_at_most(event: Event) -> bool:
    """Whether a call returns what it takes, or a copy, as what `strip` leaves does."""
    return type(event.module) is nn.Identity or (event.kind == "function" and event.name == "clone")


def layers_that_need_a_bias(
    graph: Graph, norms: set[nn.Module]
) -> Iterator[tuple[nn.Module, nn.Module | None]]:
    """Layers without a bias right before norms that go and have one, each with its norm.

    The norm is None where the layer's output goes elsewhere too, so that the layer must not get a bias.
    """
    layers = dict.fromkeys(e.module for e in graph.having("producer") if e.module is not None)
    for layer in layers:
        if getattr(layer, "bias", None) is not None:
            continue
        consumers = [consumer for event in graph.of(layer) for consumer in _past_identities(graph, event)]
        after = [
            t.module for t in consumers if t.module in norms and getattr(t.module, "bias", None) is not None
        ]
        if after:
            elsewhere = len(after) < len(consumers) or any(graph.is_output(e) for e in graph.of(layer))
            yield layer, None if elsewhere else after[0]


class Biases:
    """Collects the edits of one plan that take redundant biases away and give layers biases again."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._uses = Counter(
            id(p) for module in model.modules() for p in parameters_of(module).values() if p is not None
        )
        self.edits: list[Edit] = []
        self.kept: list[Remark] = []

    @cached_property
    def _code(self) -> Holders:
        return Holders(self._model)

    def remove_if_redundant(self, path: str | None, norm: nn.Module) -> Iterator[Change]:
        """Remove the bias of the layer at `path` where `norm`, which comes after it, subtracts any constant.

        Batch norms do. Layer and group norm subtract a mean over channels, in which the bias of each channel is no
        constant. A bias that is parametrized, or that another layer has too, stays and is in `kept`.
        """
        if path is None or not isinstance(norm, TorchBatchNorm):
            return
        layer = find(self._model, path)
        bias = parameters_of(layer).get("bias")
        if bias is None or self._uses[id(bias)] > 1:
            self.kept.append(
                Remark(f"{path}.bias", "redundant, but parametrized or shared with another layer")
            )
            return
        reader = self._code.reads.get(layer, {}).get("bias")
        if reader is not None:
            self.kept.append(Remark(f"{path}.bias", f"redundant, but the forward of {reader} reads it"))
            return
        self.edits.append(ParameterEdit(layer, "bias", bias, None))
        yield Change(
            f"{path}.bias", "bias", "no bias", f"{type(norm).__name__} after it subtracts any constant"
        )

    def restore(self, path: str, kind: str, norm: nn.Module | None = None) -> Iterator[Change]:
        """Give the layer at `path` a bias of zeros, since a norm of this kind, which had one, goes away after it.

        An optimizer has the new bias in the group of the norm's, if the norm is known.
        """
        layer = find(self._model, path)
        weight = next(p for p in layer.parameters() if p.is_floating_point())
        zeros = torch.zeros(channels(layer), dtype=weight.dtype, device=weight.device)
        bias = nn.Parameter(zeros, requires_grad=any(p.requires_grad for p in layer.parameters()))
        beta = None if norm is None else parameters_of(norm).get("bias")
        self.edits.append(ParameterEdit(layer, "bias", None, bias, takes_over=beta))
        yield Change(f"{path}.bias", "no bias", "bias", f"{kind} after it, which goes, had one")


def _past_identities(graph: Graph, event: Event) -> Iterator[Event]:
    """The calls that take an event's result, identities left out."""
    for consumer in graph.consumers(event):
        if type(consumer.module) is nn.Identity:
            yield from _past_identities(graph, consumer)
        else:
            yield consumer
