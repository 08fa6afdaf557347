"""Passes of data through a model, and the statistics of what reaches each of its layers; nothing is changed.

Which file answers which question:

- Which `layers` can be measured, and why can the others not?
- What are the `statistics` that a layer normalises by, and by which rules do moments become such statistics?
- How is a layer measured? `inputs` hooks it, its `meter` merges the moments of its calls.
- How do batches go through a model? In `passes`, whose results are merged `across_ranks`.
- Which statistics should layers hold for a whole data set, where they feed each other? `population`, which
  asks `fixed_point` what to try next where a layer feeds itself.
"""

from normsmith.measure.across_ranks import PassResult
from normsmith.measure.fixed_point import EXACT
from normsmith.measure.layers import MeasurableLayers, MeasuredLayer, measurable_layers
from normsmith.measure.passes import EveryCall, Passes
from normsmith.measure.population import MAX_PASSES, Population, PopulationResult
from normsmith.measure.statistics import Statistics, batch_statistics, population_statistics

__all__ = [
    "EXACT",
    "MAX_PASSES",
    "EveryCall",
    "MeasurableLayers",
    "MeasuredLayer",
    "PassResult",
    "Passes",
    "Population",
    "PopulationResult",
    "Statistics",
    "batch_statistics",
    "measurable_layers",
    "population_statistics",
]
