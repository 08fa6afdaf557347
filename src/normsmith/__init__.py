"""Batch normalization that can be depended on: layers, surgery and controlled studies for PyTorch."""

from importlib.metadata import version

from normsmith import errors, layers, ops, surgery, tasks
from normsmith.layers import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    BatchRenorm1d,
    BatchRenorm2d,
    BatchRenorm3d,
    LazyBatchNorm1d,
    LazyBatchNorm2d,
    LazyBatchNorm3d,
    LazyBatchRenorm1d,
    LazyBatchRenorm2d,
    LazyBatchRenorm3d,
)
from normsmith.tasks import Task, accuracy

__version__ = version("normsmith")

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "BatchRenorm3d",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "LazyBatchRenorm1d",
    "LazyBatchRenorm2d",
    "LazyBatchRenorm3d",
    "Task",
    "__version__",
    "accuracy",
    "errors",
    "layers",
    "ops",
    "surgery",
    "tasks",
]
