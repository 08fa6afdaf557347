"""Surgery: a model changed as asked, and nothing else changed."""

from normsmith.surgery.convert import convert
from normsmith.surgery.graph import Event, Graph, Residual
from normsmith.surgery.place import insert, strip, swap_activation
from normsmith.surgery.plan import Change, Plan, Remark
from normsmith.surgery.trace import trace
from normsmith.surgery.verify import Expectation, Verification

__all__ = [
    "Change",
    "Event",
    "Expectation",
    "Graph",
    "Plan",
    "Remark",
    "Residual",
    "Verification",
    "convert",
    "insert",
    "strip",
    "swap_activation",
    "trace",
]
