"""Measurements of a model: passes of data through it, and what reaches and leaves its layers; nothing is changed.

Which file answers which question:

- Which `layers` can be measured, and why can the others not?
- What are the `statistics` that a layer normalises by, and by which rules do moments become such statistics?
- How is a layer measured? `inputs` hooks it, its `meter` merges the moments of its calls.
- How do batches go through a model? In `passes`, whose results are merged `across_ranks`.
- Which statistics should layers hold for a whole data set, where they feed each other? `population`, which
  asks `fixed_point` what to try next where a layer feeds itself.
- What is known of norms by name in the literature? `variance_shift`, `normalisation_noise` and `saturation`; and
  `mismatch`, how far a norm in evaluation is from what it does in training. The last two compare what norms give in
  `both_modes`.
- And of training? `smoothness` and `internal_covariate_shift`, at one `iterate`: a model, a batch, the loss.
"""

from normsmith.measure.across_ranks import PassResult
from normsmith.measure.fixed_point import EXACT
from normsmith.measure.internal_covariate_shift import CovariateShift, internal_covariate_shift
from normsmith.measure.iterate import Iterate, iterate_of
from normsmith.measure.layers import MeasurableLayers, MeasuredLayer, measurable_layers
from normsmith.measure.mismatch import Mismatch, mismatch
from normsmith.measure.normalisation_noise import normalisation_noise
from normsmith.measure.passes import EveryCall, Passes
from normsmith.measure.population import MAX_PASSES, Population, PopulationResult
from normsmith.measure.saturation import FLAT, saturation
from normsmith.measure.smoothness import MULTIPLES, Smoothness, smoothness
from normsmith.measure.statistics import Statistics, batch_statistics, population_statistics
from normsmith.measure.variance_shift import variance_shift

__all__ = [
    "EXACT",
    "FLAT",
    "MAX_PASSES",
    "MULTIPLES",
    "CovariateShift",
    "EveryCall",
    "Iterate",
    "MeasurableLayers",
    "MeasuredLayer",
    "Mismatch",
    "PassResult",
    "Passes",
    "Population",
    "PopulationResult",
    "Smoothness",
    "Statistics",
    "batch_statistics",
    "internal_covariate_shift",
    "iterate_of",
    "measurable_layers",
    "mismatch",
    "normalisation_noise",
    "population_statistics",
    "saturation",
    "smoothness",
    "variance_shift",
]
