"""Read a module as a batch norm: torch's, ours, or one of another library; or tell why it must not be touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from normsmith._torch import LazyNormBase, NormBase, buffers_of, children_of, parameters_of
from normsmith.anatomy.batch_norms import TENSORS, BatchNorm, is_batch_norm, tensors_of
from normsmith.anatomy.behaviour import behaviour_of
from normsmith.anatomy.kinds import has_own_forward, is_prepared
from normsmith.anatomy.other_libraries import read_by_probe
from normsmith.anatomy.remark import Refusal
from normsmith.anatomy.renorm_of_others import library_of, read_renorm
from normsmith.layers.batch_renorm import RenormBase
from normsmith.layers.statistics import StatisticsBase

_SETTINGS = ("ghost_batch_size", "process_group", "on_small_batch", "on_nonfinite")


def read_batch_norm(module: nn.Module) -> BatchNorm | Refusal:
    """The parts of a module that `is_batch_norm`, or a refusal without a path that says why it must not be touched."""
    library = library_of(module)
    obstacle = next(_obstacles(module, TENSORS if library is None else library.tensors), None)
    if obstacle is not None:
        return Refusal("", obstacle)
    if library is not None:
        return read_renorm(module, library)
    kind = type(module)
    if not isinstance(module, NormBase) or has_own_forward(module):
        return read_by_probe(module)
    assert isinstance(module, NormBase)
    ours = isinstance(module, StatisticsBase)
    norm: Any = module
    return BatchNorm(
        module,
        "ours" if ours else "torch",
        int(norm.num_features),
        _dimensions(kind),
        norm.epsilon if ours else norm.eps,
        norm.momentum,
        tensors_of(module),
        lazy=isinstance(module, LazyNormBase),
        frozen=ours and norm.pinned is not None,
        tracks=bool(norm.track_running_stats),
        activation=norm.activation if ours else None,
        settings=_settings(module),
        renorm={name: getattr(norm, name) for name in ("schedule", "total_steps", "track")}
        if isinstance(module, RenormBase)
        else None,
    )


def fused_activation(module: nn.Module) -> str | None:
    """The name of the activation that is in one layer with a norm; None where there is none, or it is not known.

    >>> from normsmith.layers import BatchNormAct2d
    >>> fused_activation(BatchNormAct2d(8, activation="silu")), fused_activation(nn.BatchNorm2d(8))
    ('silu', None)
    """
    norm = read_batch_norm(module) if is_batch_norm(module) else None
    return norm.activation if isinstance(norm, BatchNorm) else None


def _obstacles(module: nn.Module, names: Iterable[str]) -> Iterator[str]:
    """Reasons why a batch norm with tensors of these names must not be touched, whatever its class is."""
    kind = type(module).__name__
    if "forward" in vars(module):
        yield f"its forward was replaced on this very {kind}"
    if "parametrizations" in children_of(module):
        yield f"{', '.join(module.parametrizations)} is parametrized; remove the parametrization first"  # type: ignore[arg-type]
    if is_prepared(module):
        yield "it is prepared for quantisation; change it before preparing"
    pinned = module.pinned if isinstance(module, StatisticsBase) else None
    if pinned is not None and pinned.normalize_with == "batch":
        yield "it is frozen to the statistics of the batch; call unfreeze() first"
    owner = next(base for base in type(module).__mro__ if "train" in vars(base))
    if owner is not nn.Module:
        yield f"{owner.__name__} has a train() of its own"
    children = children_of(module).keys() - {"act", "drop", "aa"}
    tensors = (parameters_of(module).keys() | buffers_of(module).keys()) - set(names)
    behaviour = behaviour_of(module) if tensors else None
    if behaviour is not None:
        yield behaviour.text
    if children or tensors:
        yield f"{kind} holds {', '.join(sorted(children | tensors))} beside what a batch norm has"
    if isinstance(module, NormBase) and "weight" not in parameters_of(module):
        yield "its weight is no parameter of its own; something computes it before each forward"


def _settings(module: nn.Module) -> dict[str, Any]:
    if isinstance(module, StatisticsBase):
        return {name: getattr(module, name) for name in _SETTINGS}
    if isinstance(module, nn.SyncBatchNorm):
        group = module.process_group
        return {"process_group": "world" if group is None else group}
    return {}


def _dimensions(kind: type[nn.Module]) -> int | None:
    if issubclass(kind, StatisticsBase):
        return max(kind.spatial)
    if issubclass(kind, LazyNormBase):
        kind = kind.cls_to_become  # type: ignore[assignment]
    known = {nn.BatchNorm1d: 1, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3}
    return next((count for base, count in known.items() if issubclass(kind, base)), None)
