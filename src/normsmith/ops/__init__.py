"""Tensors to tensors: one path for every batch norm, on one table of backends."""

from normsmith.ops.activation import ACTIVATIONS
from normsmith.ops.batch_norm import batch_norm
from normsmith.ops.dispatch import BACKENDS, explain
from normsmith.ops.moments import Moments, concatenate, merge, moments
from normsmith.ops.resolve import Renorm, Resolved, Running, commit, correction, resolve
from normsmith.ops.snapshot import snapshot
from normsmith.ops.sync import Sync, own_group

__all__ = [
    "ACTIVATIONS",
    "BACKENDS",
    "Moments",
    "Renorm",
    "Resolved",
    "Running",
    "Sync",
    "batch_norm",
    "commit",
    "concatenate",
    "correction",
    "explain",
    "merge",
    "moments",
    "own_group",
    "resolve",
    "snapshot",
]
