"""Statistics of what reaches each layer, over batches of data; nothing is changed."""

from normsmith.measure.layers import Measured, Statistics

__all__ = ["Measured", "Statistics"]
