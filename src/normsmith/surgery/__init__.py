"""Surgery: a model changed as asked, and nothing else changed."""

from normsmith.surgery.place import insert, strip, swap_activation
from normsmith.surgery.plan import Change, Plan, Remark
from normsmith.surgery.verify import Expectation, Verification

__all__ = ["Change", "Expectation", "Plan", "Remark", "Verification", "insert", "strip", "swap_activation"]
