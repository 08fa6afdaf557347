"""Anybody's batch norm, read: what it is, and what of it another layer can take over."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from normsmith._text import error_text
from normsmith._torch import buffers_of, children_of, parameters_of
from normsmith.anatomy.kinds import has_own_forward, is_prepared
from normsmith.anatomy.preserve import preserved
from normsmith.anatomy.remark import Refusal
from normsmith.layers.batch_renorm import RenormBase
from normsmith.layers.ours import is_ours
from normsmith.layers.statistics import StatisticsBase
from normsmith.ops import ACTIVATIONS

TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked", "running_std")
SETTINGS = ("ghost_batch_size", "process_group", "on_small_batch", "on_nonfinite")
_KNOWN_FORWARDS = re.compile(r"\w*FrozenBatchNorm\w*|(Sync)?BatchNormAct([123]d)?")
"""Classes of timm, detectron2, torchvision and Hugging Face by name: believed once they have passed a probe."""
_ACTIVATIONS: dict[type[nn.Module], Callable[[Any], str | None]] = {
    nn.Identity: lambda _: "identity",
    nn.ReLU: lambda _: "relu",
    nn.LeakyReLU: lambda act: "leaky_relu" if act.negative_slope == 0.01 else None,
    nn.SiLU: lambda _: "silu",
    nn.GELU: lambda act: "gelu" if act.approximate == "none" else None,
    nn.Hardswish: lambda _: "hardswish",
    nn.Sigmoid: lambda _: "sigmoid",
    nn.Tanh: lambda _: "tanh",
}


@dataclass(frozen=True)
class BatchNorm:
    """What a module that is a batch norm consists of.

    `dimensions` after (batch, channels): 1 (or none), 2, 3; None where the class does not say. `settings` and
    `renorm` are of our layers.
    """

    module: nn.Module
    origin: Literal["torch", "ours", "other"]
    features: int
    dimensions: int | None
    eps: float
    momentum: float | None
    tensors: dict[str, Tensor | None]
    lazy: bool = False
    frozen: bool = False
    tracks: bool = True
    activation: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    renorm: dict[str, Any] | None = None

    @property
    def affine(self) -> bool:
        """Whether it has γ (and perhaps β)."""
        return self.tensors.get("weight") is not None

    def attributes(self) -> dict[str, Any]:
        """Plain attributes that users or other libraries have put on the module."""
        known = _usual_attributes(_base(type(self.module)), self.lazy) if self.origin != "other" else None
        return (
            {} if known is None else {name: v for name, v in vars(self.module).items() if name not in known}
        )


def is_batch_norm(module: nn.Module) -> bool:
    """Whether conversion has to do with a module; normsmith's layers of other kinds are none."""
    if isinstance(module, StatisticsBase):
        return module.is_batch_norm or not type(module).is_ours
    if isinstance(module, (_InstanceNorm, torch.jit.ScriptModule)):
        return False
    return isinstance(module, _NormBase) or {"running_mean", "running_var"} <= buffers_of(module).keys()


def read(module: nn.Module) -> BatchNorm | Refusal:
    """A batch norm's parts, or, without a path, the reason why it must not be touched."""
    obstacle = next(_obstacles(module), None)
    if obstacle is not None:
        return Refusal("", obstacle)
    kind = type(module)
    if not isinstance(module, _NormBase) or has_own_forward(module):
        return _read_other(module)
    assert isinstance(module, _NormBase)
    ours = isinstance(module, StatisticsBase)
    norm: Any = module
    return BatchNorm(
        module,
        "ours" if ours else "torch",
        int(norm.num_features),
        _dimensions(kind),
        norm.epsilon if ours else norm.eps,
        norm.momentum,
        {name: _tensor(module, name) for name in TENSORS},
        lazy=isinstance(module, _LazyNormBase),
        frozen=ours and norm.pinned is not None,
        tracks=bool(norm.track_running_stats),
        activation=norm.activation if ours else None,
        settings=_settings(module),
        renorm={name: getattr(norm, name) for name in ("schedule", "total_steps", "track")}
        if isinstance(module, RenormBase)
        else None,
    )


def _obstacles(module: nn.Module) -> Iterator[str]:
    kind = type(module).__name__
    if "forward" in vars(module):
        yield f"its forward was replaced on this very {kind}"
    if "parametrizations" in children_of(module):
        yield f"{', '.join(module.parametrizations)} is parametrized; remove the parametrization first"  # type: ignore[arg-type]
    if is_prepared(module):
        yield "it is prepared for quantisation; change it before preparing"
    pinned = vars(module).get("pinned")
    if pinned is not None and pinned.normalize_with == "batch":
        yield "it is frozen to the statistics of the batch; call unfreeze() first"
    owner = next(base for base in type(module).__mro__ if "train" in vars(base))
    if owner is not nn.Module:
        yield f"{owner.__name__} has a train() of its own"
    children = children_of(module).keys() - {"act", "drop", "aa"}
    tensors = (parameters_of(module).keys() | buffers_of(module).keys()) - set(TENSORS)
    if children or tensors:
        yield f"{kind} holds {', '.join(sorted(children | tensors))} beside what a batch norm has"
    if isinstance(module, _NormBase) and "weight" not in parameters_of(module):
        yield "its weight is no parameter of its own; something computes it before each forward"


def _settings(module: nn.Module) -> dict[str, Any]:
    if isinstance(module, StatisticsBase):
        return {name: getattr(module, name) for name in SETTINGS}
    if isinstance(module, nn.SyncBatchNorm):
        group = module.process_group
        return {"process_group": "world" if group is None else group}
    return {}


def _read_other(module: nn.Module) -> BatchNorm | Refusal:
    """A batch norm with a forward of its own, if its class is known and computes what its name says."""
    kind = type(module).__name__
    if not _KNOWN_FORWARDS.fullmatch(kind):
        return Refusal("", f"{kind} has a forward of its own and may do more than batch norm")
    tensors = {name: _tensor(module, name) for name in TENSORS}
    mean, var = tensors["running_mean"], tensors["running_var"]
    if mean is None or var is None:
        return Refusal("", f"{kind} has no running statistics to compare its forward with")
    act = children_of(module).get("act")
    activation = None if act is None else _ACTIVATIONS.get(type(act), lambda _: None)(act)
    if act is not None and activation is None:
        return Refusal("", f"the activation of {kind}, {act}, is none of {', '.join(ACTIVATIONS)}")
    norm = BatchNorm(
        module,
        "other",
        len(mean),
        int(digit[0]) if (digit := re.findall(r"([123])d", kind)) else None,
        float(getattr(module, "eps", 1e-5)),
        getattr(module, "momentum", 0.1),
        tensors,
        frozen="Frozen" in kind,
        activation=None if activation == "identity" else activation,
        settings={"process_group": "world"} if kind.startswith("Sync") else {},
    )
    reason = _probed(norm)
    return norm if reason is None else Refusal("", reason)


def _probed(norm: BatchNorm) -> str | None:
    """Why a forward is not what it seems: it is tried on a few numbers, in evaluation and, on CPU, in training."""
    mean, kind = norm.tensors["running_mean"], type(norm.module).__name__
    assert mean is not None
    if mean.is_meta:
        return f"{kind} has a forward of its own, which cannot be tried on the meta device"
    weight = norm.tensors["weight"]
    shape = (2, norm.features, *(2,) * (norm.dimensions or 2))
    x = torch.linspace(-2, 2, 2 * norm.features * 2 ** (len(shape) - 2), device=mean.device)
    x = x.reshape(shape).sin().to(mean.dtype if weight is None else weight.dtype)
    modes = [False] if "process_group" in norm.settings else [False, True]
    for training in modes:
        with preserved(norm.module), torch.no_grad():
            batch = training and not norm.frozen
            try:
                found = norm.module.train(training)(x)
            except Exception as error:  # noqa: BLE001  somebody's forward
                return f"the forward of {kind} failed on a probe: {error_text(error)}"
            expected = _formula(norm, x, batch)
        if found.shape != x.shape or not torch.allclose(
            found.float(), expected.float(), rtol=1e-2, atol=1e-2
        ):
            mode = "training" if training else "evaluation"
            return f"{kind} does not compute batch norm and its activation in {mode}, tried on a probe"
    return None


def _formula(norm: BatchNorm, x: Tensor, batch: bool) -> Tensor:
    tensors = {name: None if t is None else t.detach().float() for name, t in norm.tensors.items()}
    mean, var = (None, None) if batch else (tensors["running_mean"], tensors["running_var"])
    y = F.batch_norm(x.float(), mean, var, tensors["weight"], tensors["bias"], batch, 0.0, norm.eps)
    return y if norm.activation is None else ACTIVATIONS[norm.activation].forward(y)


def _tensor(module: nn.Module, name: str) -> Tensor | None:
    return parameters_of(module).get(name, buffers_of(module).get(name))


def _dimensions(kind: type[nn.Module]) -> int | None:
    if issubclass(kind, StatisticsBase):
        return max(kind.spatial)
    if issubclass(kind, _LazyNormBase):
        kind = kind.cls_to_become  # type: ignore[assignment]
    known = {nn.BatchNorm1d: 1, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3}
    return next((count for base, count in known.items() if issubclass(kind, base)), None)


def _base(kind: type[nn.Module]) -> Any:
    """The class of torch's or ours that a subclass without a forward of its own is of."""
    return next(base for base in kind.__mro__ if base.__module__.startswith("torch.nn.") or is_ours(base))


@cache
def _usual_attributes(kind: Any, lazy: bool) -> frozenset[str] | None:
    if kind is _BatchNorm or kind is _NormBase:
        return None
    return frozenset(vars(kind(device="meta") if lazy else kind(1, device="meta")))


def is_uninitialised(norm: BatchNorm) -> bool:
    """Whether its tensors wait for their first input."""
    return any(tensor is not None and is_lazy(tensor) for tensor in norm.tensors.values())
