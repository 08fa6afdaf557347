"""Results are plain data: what JSON keeps of them, and what they count."""

import math

from tests.report import samples

from normsmith.studies.results import Effect, StudyResult
from normsmith.studies.statistics import Interval


def test_an_effect_with_open_ends_is_kept_whole_by_json():
    effect = samples.fewer_steps().effects[1]
    assert math.isinf(effect.effects[0].high)
    again = Effect.model_validate_json(effect.model_dump_json())
    assert again == effect
    assert isinstance(again.interval, Interval)


def test_censored_are_those_that_are_not_points():
    assert [effect.censored for effect in samples.fewer_steps().effects] == [0, 2, 0]


def test_names_that_no_file_can_hold_are_made_so_that_one_can():
    result = samples.study(
        samples.placement().model_copy(update={"notes": ()}),
        task="caf\udce9",
        settings={"\ud800": "é 🙂"},
    )
    assert result.task == "caf\ufffd"
    assert result.settings == {"\ufffd": "é 🙂"}
    assert StudyResult.model_validate_json(result.model_dump_json()) == result


def test_a_study_of_which_nothing_finished_is_told_from_one_that_ran_nothing():
    failures = samples.failures()
    assert samples.study(trials_new=len(failures), trials_reused=0).nothing_finished
    assert not samples.ordinary().nothing_finished
    assert not samples.empty().nothing_finished
