"""The module path under which models that were pickled by normsmith 0.1 name what stands in a folded norm's place."""

from normsmith.surgery.operations.fold.fold import FoldedNorm

__all__ = ["FoldedNorm"]
