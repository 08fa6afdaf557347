"""Renorm in a comparison: it must have been more than batch norm to say anything."""

from __future__ import annotations

from normsmith.errors import StudyError
from normsmith.studies.lab import Lab
from normsmith.studies.probes import renorm_acted
from normsmith.studies.tuning import Tuned


def require_active_renorm(lab: Lab, tuned: Tuned) -> None:
    """Refuse to compare renorm whose r stayed 1 and whose d stayed 0: it was batch norm.

    Raises:
        StudyError: so it is for some seed.
    """
    for seed, outcome in lab.measured(tuned).items():
        if outcome.status == "finished" and not renorm_acted(outcome.probes):
            raise StudyError(
                f"renorm was not active in “{tuned.arm.name}”, seed {seed}: r stayed 1 and d stayed 0 at every "
                "probe, so it was batch norm; give the study more steps"
            )
