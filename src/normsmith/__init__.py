"""Batch normalization that can be depended on: layers, surgery and controlled studies for PyTorch."""

import importlib
import typing
from importlib.metadata import PackageNotFoundError, version

from normsmith import errors, layers, ops
from normsmith.layers import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    BatchNormAct1d,
    BatchNormAct2d,
    BatchNormAct3d,
    BatchNormGRU,
    BatchNormLSTM,
    BatchRenorm1d,
    BatchRenorm2d,
    BatchRenorm3d,
    BatchRenormAct1d,
    BatchRenormAct2d,
    BatchRenormAct3d,
    ConditionalBatchNorm1d,
    ConditionalBatchNorm2d,
    ConditionalBatchNorm3d,
    ConditionalNorm,
    DomainBatchNorm1d,
    DomainBatchNorm2d,
    DomainBatchNorm3d,
    DomainNorm,
    InputNorm,
    LazyBatchNorm1d,
    LazyBatchNorm2d,
    LazyBatchNorm3d,
    LazyBatchRenorm1d,
    LazyBatchRenorm2d,
    LazyBatchRenorm3d,
    Whiten1d,
    Whiten2d,
    accumulate,
    use_domain,
    use_mask,
)

if typing.TYPE_CHECKING:
    from normsmith import measure, surgery, tasks
    from normsmith.anatomy.lengths import use_lengths
    from normsmith.checks.check import check
    from normsmith.surgery.operations.convert import convert_model as convert
    from normsmith.tasks import Task, accuracy

try:
    __version__ = version("normsmith")
except PackageNotFoundError:  # sources on a path, as `make gpu` finds them
    __version__ = "0+unknown"

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormAct1d",
    "BatchNormAct2d",
    "BatchNormAct3d",
    "BatchNormGRU",
    "BatchNormLSTM",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "BatchRenorm3d",
    "BatchRenormAct1d",
    "BatchRenormAct2d",
    "BatchRenormAct3d",
    "ConditionalBatchNorm1d",
    "ConditionalBatchNorm2d",
    "ConditionalBatchNorm3d",
    "ConditionalNorm",
    "DomainBatchNorm1d",
    "DomainBatchNorm2d",
    "DomainBatchNorm3d",
    "DomainNorm",
    "InputNorm",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "LazyBatchRenorm1d",
    "LazyBatchRenorm2d",
    "LazyBatchRenorm3d",
    "Task",
    "Whiten1d",
    "Whiten2d",
    "__version__",
    "accumulate",
    "accuracy",
    "check",
    "convert",
    "errors",
    "layers",
    "measure",
    "ops",
    "surgery",
    "tasks",
    "use_domain",
    "use_lengths",
    "use_mask",
]

# imported when first asked for: who trains with the layers does not wait for them; a module, and a name in it
_LATER = {
    "measure": ("normsmith.measure", None),
    "surgery": ("normsmith.surgery", None),
    "tasks": ("normsmith.tasks", None),
    "check": ("normsmith.checks", "check"),
    "use_lengths": ("normsmith.anatomy.lengths", "use_lengths"),
    "convert": ("normsmith.surgery.operations.convert", "convert_model"),
    "Task": ("normsmith.tasks", "Task"),
    "accuracy": ("normsmith.tasks", "accuracy"),
}


def __getattr__(name: str) -> typing.Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, member = _LATER[name]
    value = importlib.import_module(module)
    if member is not None:
        value = getattr(value, member)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
