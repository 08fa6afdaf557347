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
    use_mask,
)

if typing.TYPE_CHECKING:
    from normsmith import surgery, tasks
    from normsmith.surgery.operations.converted import convert
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
    "convert",
    "errors",
    "layers",
    "ops",
    "surgery",
    "tasks",
    "use_mask",
]

# imported when first asked for: who trains with the layers does not wait for them
_LATER = {
    "surgery": "normsmith.surgery",
    "tasks": "normsmith.tasks",
    "convert": "normsmith.surgery.operations.converted",
    "Task": "normsmith.tasks",
    "accuracy": "normsmith.tasks",
}


def __getattr__(name: str) -> typing.Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_LATER[name])
    found = module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
