"""Outcomes of trials that were never run, for what reads them."""

from __future__ import annotations

from tests.studies.tiny import make

from normsmith.studies.arms import AS_IS
from normsmith.studies.lab import Lab, Tuned
from normsmith.studies.trial import Outcome, Trial

DIVERGED = Outcome("diverged", "the loss became nan at step 1")
AT = Tuned(AS_IS, 0.1, (0.1,))


def lab(*outcomes, **changes):
    """A lab with these outcomes of one arm at one rate, a seed each."""
    made = Lab(make("read", **changes), tuple(range(len(outcomes))), "quick", 20)
    made.outcomes = {Trial(AS_IS, 0.1, seed, 20): outcome for seed, outcome in enumerate(outcomes)}
    return made
