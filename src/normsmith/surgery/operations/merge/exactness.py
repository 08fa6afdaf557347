"""Which merged statistics are exactly those of all data, and why the others are not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from normsmith._text import count, path_text
from normsmith.anatomy.batch_norms import is_batch_norm
from normsmith.anatomy.forward import Forward
from normsmith.anatomy.graph import Event, Graph
from normsmith.anatomy.locations import Locations
from normsmith.anatomy.remark import Refusal
from normsmith.anatomy.trace import trace
from normsmith.errors import SurgeryError
from normsmith.measure.layers import MeasurableLayers, MeasuredLayer
from normsmith.surgery.operations.fold.calls import Calls
from normsmith.surgery.operations.fold.obstacles import Owners
from normsmith.surgery.operations.merge.sources import Part, State, label


class Exactness:
    """Tells for each layer whether its merged statistics are those that all data together would have given.

    They are where the layer's inputs are the same whichever model they go through: no batch norm stands before it, and
    all weights before it are equal. Norms that their users have frozen, with the same statistics in all models, count
    as weights.
    """

    def __init__(
        self,
        model: nn.Module,
        measurable: MeasurableLayers,
        states: Sequence[State],
        batch: Any,
        forward: Forward,
    ) -> None:
        self._model, self._states = model, states
        held = states[0]
        self._frozen = {remark.path for remark in measurable.kept if f"{remark.path}.running_mean" in held}
        self._batch, self._forward = batch, forward
        self._first_difference: dict[str, str | None] = {}

    def why_not(self, layer: MeasuredLayer, parts: Sequence[Part]) -> str | None:
        """Why the merged statistics of a layer are approximate; None where they are exact."""
        return _by_counts(parts) or self.why_other_inputs(layer)

    def why_other_inputs(self, layer: MeasuredLayer) -> str | None:
        """Why a layer's inputs depend on the model that they go through; None where they do not."""
        graph, owners = self._followed
        if graph is None or owners is None:
            return (
                "its forward cannot be followed without data, so that norms may stand before it; give batch="
            )
        calls = Calls(graph, owners).of(layer.layer)
        if isinstance(calls, Refusal):
            return calls.reason
        before = [event for event in graph.events if any(graph.leads_to(event, call.entry) for call in calls)]
        return next((reason for event in before if (reason := self._of(event))), None)

    def _of(self, event: Event) -> str | None:
        """What about an event makes its result another one in another model."""
        module, path = event.module, event.path
        is_norm = (module is not None and is_batch_norm(module)) or event.name == "batch_norm"
        if is_norm and path not in self._frozen:
            return f"{path_text(path)} before it normalises by statistics of each model's own data"
        if event.kind == "parameter":
            return self._difference(path, [path])
        if module is None:
            return None
        return self._difference(path, [f"{path}.{name}" if path else name for name in module.state_dict()])

    def _difference(self, path: str, names: Sequence[str]) -> str | None:
        if path not in self._first_difference:
            different = next((name for name in names if not self._is_equal(name)), None)
            self._first_difference[path] = (
                None if different is None else f"{different} before it differs between the models"
            )
        return self._first_difference[path]

    def _is_equal(self, name: str) -> bool:
        tensors = [state[name].detach().cpu() for state in self._states if name in state]
        return all(torch.equal(tensors[0], tensor) for tensor in tensors[1:])

    @cached_property
    def _followed(self) -> tuple[Graph, Owners] | tuple[None, None]:
        try:
            graph = trace(self._model, self._batch, forward=self._forward)
        except SurgeryError:
            if self._batch is not None:
                raise
            return None, None
        return graph, Owners(Locations(self._model))


def _by_counts(parts: Sequence[Part]) -> str | None:
    """Why statistics are not of so many values, as far as the models tell."""
    if not all(part.known for part in parts):
        return "no counts were given: each model's statistics count by its share"
    for number, part in enumerate(parts):
        if part.measured:
            continue
        if part.steps is None:
            return f"{label(number)} may have moving averages, which have no count"
        if part.steps:
            return (
                f"{label(number)} has moving averages of {count(part.steps, 'training step')}, which have no count; "
                "exact counts are those that recalibrate returns"
            )
    return None
