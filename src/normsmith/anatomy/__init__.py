"""What a model is made of, and how data flow through it; nothing is changed."""

from normsmith.anatomy.graph import Event, Graph, Residual
from normsmith.anatomy.remark import Refusal, Remark
from normsmith.anatomy.trace import trace

__all__ = ["Event", "Graph", "Refusal", "Remark", "Residual", "trace"]
