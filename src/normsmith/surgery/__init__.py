"""Surgery: a model changed as asked, and nothing else changed."""

from normsmith.surgery.adapt import adapt
from normsmith.surgery.convert import convert
from normsmith.surgery.fold import fold, fold_pairs
from normsmith.surgery.freeze import freeze
from normsmith.surgery.graph import Event, Graph, Residual
from normsmith.surgery.insert import insert
from normsmith.surgery.place import place
from normsmith.surgery.plan import Change, Plan, Remark
from normsmith.surgery.recalibrate import LayerStatistics, Recalibration, recalibrate
from normsmith.surgery.statistics import set_statistics
from normsmith.surgery.strip import strip
from normsmith.surgery.swap import swap_activation
from normsmith.surgery.trace import trace
from normsmith.surgery.verify import Expectation, Verification
from normsmith.surgery.warm_start import warm_start

__all__ = [
    "Change",
    "Event",
    "Expectation",
    "Graph",
    "LayerStatistics",
    "Plan",
    "Recalibration",
    "Remark",
    "Residual",
    "Verification",
    "adapt",
    "convert",
    "fold",
    "fold_pairs",
    "freeze",
    "insert",
    "place",
    "recalibrate",
    "set_statistics",
    "strip",
    "swap_activation",
    "trace",
    "warm_start",
]
