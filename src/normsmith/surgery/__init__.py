"""Surgery: a model changed as asked, and nothing else changed."""

from normsmith.surgery.place import insert, strip, swap_activation
from normsmith.surgery.plan import Change, Plan, Remark

__all__ = ["Change", "Plan", "Remark", "insert", "strip", "swap_activation"]
