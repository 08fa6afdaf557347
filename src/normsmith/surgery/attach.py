"""The module path under which models that were pickled by normsmith 0.1 name the hooks of inserted norms."""

from normsmith.anatomy.hooks import After as Behind
from normsmith.anatomy.hooks import Before as InFront

__all__ = ["Behind", "InFront"]
