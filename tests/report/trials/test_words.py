"""What a trial is called in experiment trackers."""

from tests.report.trials.made import nasty, trial

from normsmith.report.trials.words import described


def test_settings_and_versions_are_named():
    assert described(trial(3)) == {
        "task": "digits",
        "arm": "no norm",
        "learning_rate": 0.1,
        "seed": 3,
        "stream": 0,
        "steps": 4,
        "detail": "curve",
        "torch": "2.13",
        "backend": "numba 0.66",
        "instruction_set": "x86_64 AVX2",
    }
    assert "torch" not in described(nasty())
