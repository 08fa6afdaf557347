"""Passes of data through a model, and the statistics of what reaches each of its layers; nothing is changed."""

from normsmith.measure.across_ranks import PassResult
from normsmith.measure.layers import MeasurableLayers, MeasuredLayer, measurable_layers
from normsmith.measure.passes import Passes
from normsmith.measure.population import Population, PopulationResult
from normsmith.measure.statistics import Statistics, batch_statistics, population_statistics

__all__ = [
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
