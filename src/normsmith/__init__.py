"""Batch normalization that can be depended on: layers, surgery and controlled studies for PyTorch."""

from importlib.metadata import version

from normsmith import errors, layers, ops, surgery, tasks
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
from normsmith.surgery.converted import convert
from normsmith.tasks import Task, accuracy

__version__ = version("normsmith")

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
