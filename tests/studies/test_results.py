"""Results are plain data: what JSON keeps of them, and what they count."""

import math

from tests.report import samples

from normsmith.studies.results import Effect
from normsmith.studies.statistics import Interval


def test_an_effect_with_open_ends_is_kept_whole_by_json():
    effect = samples.fewer_steps().effects[1]
    assert math.isinf(effect.effects[0].high)
    again = Effect.model_validate_json(effect.model_dump_json())
    assert again == effect
    assert isinstance(again.interval, Interval)


def test_censored_are_those_that_are_not_points():
    assert [effect.censored for effect in samples.fewer_steps().effects] == [0, 2, 0]
