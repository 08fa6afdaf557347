"""Renorm that was batch norm is not compared."""

import pytest
from tests.contracts.question import ACTIVE, outcome
from tests.studies.tiny import task

from normsmith.errors import StudyError
from normsmith.studies.arms import normalized
from normsmith.studies.lab import Lab
from normsmith.studies.renorm import require_active_renorm
from normsmith.studies.tuning import Setting, Tuned

ARM = normalized(None, "renorm")
TUNED = Tuned(ARM, {0: Setting(ARM, 0.1)})


def lab_of(seen):
    lab = Lab(task, (0,), "quick", 100)
    lab.outcomes = dict.fromkeys(lab.trials(TUNED).values(), seen)
    return lab


def test_renorm_that_acted_may_be_compared():
    require_active_renorm(lab_of(outcome(20, **ACTIVE)), TUNED)


def test_renorm_that_did_nothing_is_refused_with_its_seed():
    with pytest.raises(StudyError, match="seed 0: r stayed 1 and d stayed 0"):
        require_active_renorm(lab_of(outcome(20, **dict.fromkeys(ACTIVE, 0.0))), TUNED)
