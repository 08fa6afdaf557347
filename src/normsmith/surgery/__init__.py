"""Surgery: a model changed as asked, and nothing else changed."""

from normsmith.anatomy.graph import Event, Graph, Residual
from normsmith.anatomy.remark import Refusal, Remark
from normsmith.anatomy.trace import trace
from normsmith.measure.folder_group import FolderGroup
from normsmith.surgery.checkpoints.checkpoint import Checkpoint
from normsmith.surgery.checkpoints.layout import save_checkpoint
from normsmith.surgery.checkpoints.load import load_checkpoint
from normsmith.surgery.fold import FoldedNorm
from normsmith.surgery.operations.adapt import adapt
from normsmith.surgery.operations.convert import convert
from normsmith.surgery.operations.fold.fold import fold, fold_pairs
from normsmith.surgery.operations.freeze import freeze
from normsmith.surgery.operations.insert import insert
from normsmith.surgery.operations.merge.average import average
from normsmith.surgery.operations.merge.merge_statistics import merge_statistics
from normsmith.surgery.operations.place import place
from normsmith.surgery.operations.prune.prune import prune
from normsmith.surgery.operations.recalibrate import LayerStatistics, Recalibration, recalibrate
from normsmith.surgery.operations.set_momentum import set_momentum
from normsmith.surgery.operations.set_statistics import set_statistics
from normsmith.surgery.operations.strip import strip
from normsmith.surgery.operations.swap_activation import swap_activation
from normsmith.surgery.operations.warm_start import warm_start
from normsmith.surgery.plans.plan import Change, Plan
from normsmith.surgery.plans.verify import Expectation, Verification

__all__ = [
    "Change",
    "Checkpoint",
    "Event",
    "Expectation",
    "FoldedNorm",
    "FolderGroup",
    "Graph",
    "LayerStatistics",
    "Plan",
    "Recalibration",
    "Refusal",
    "Remark",
    "Residual",
    "Verification",
    "adapt",
    "average",
    "convert",
    "fold",
    "fold_pairs",
    "freeze",
    "insert",
    "load_checkpoint",
    "merge_statistics",
    "place",
    "prune",
    "recalibrate",
    "save_checkpoint",
    "set_momentum",
    "set_statistics",
    "strip",
    "swap_activation",
    "trace",
    "warm_start",
]
