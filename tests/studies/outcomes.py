"""Outcomes of trials that were never run, for what reads them."""

from __future__ import annotations

from tests.studies.tiny import make

from normsmith.studies.arms import AS_IS
from normsmith.studies.lab import Lab
from normsmith.studies.trial import Outcome, Trial
from normsmith.studies.tuning import Setting, Tuned

DIVERGED = Outcome("diverged", "the loss became nan at step 1")


def at(*rates, arm=AS_IS, **more):
    """An arm at these rates, a seed each."""
    chosen = {seed: Setting(arm, rate) for seed, rate in enumerate(rates)}
    return Tuned(arm, chosen, {seed: (setting,) for seed, setting in chosen.items()}, **more)


AT = at(*[0.1] * 4)
"""As `lab` has its outcomes, of which there are at most so many."""


def lab(*outcomes, **changes):
    """A lab with these outcomes of one arm at one rate, a seed each."""
    made = Lab(make("read", **changes), tuple(range(len(outcomes))), "quick", 20)
    made.outcomes = {Trial(AS_IS, 0.1, seed, 20): outcome for seed, outcome in enumerate(outcomes)}
    return made
