"""The time of a training step."""

import math
import time
from dataclasses import replace

from normsmith.studies.arms import AS_IS
from normsmith.studies.pace import seconds_per_step
from normsmith.studies.trial import Trial
from normsmith.tasks import load

TRIALS = [Trial(AS_IS, 0.1, seed, steps=10) for seed in range(2)]


def test_time_is_measured_on_the_trials_themselves(tiny):
    measured = seconds_per_step(load(tiny()), TRIALS)
    assert math.isfinite(measured)
    assert 0 < measured < 1
    assert seconds_per_step(load(tiny("raising")), TRIALS) == 0.0
    assert seconds_per_step(load(tiny("leaving")), TRIALS[:1]) == 0.0


def test_what_is_done_once_in_a_process_is_not_counted_for_every_step(tiny):
    """Kernels are compiled in the first step."""
    called = []

    def forward(model, batch):
        if not called:
            time.sleep(1.2)
        called.append(1)
        return model(batch[0]), batch[1]

    assert seconds_per_step(replace(load(tiny()), forward=forward), TRIALS[:1]) < 1.2 / 12
