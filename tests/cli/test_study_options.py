"""Options that say where trials run: what they make, and what is no use together."""

import pytest

from normsmith.cli.study_options import Placement, Where, executor_of
from normsmith.errors import StudyError
from normsmith.studies import LocalExecutor, RayExecutor

NOTHING = (None,) * 6


def test_nothing_said_is_this_machine_with_all_that_it_has():
    assert executor_of(Where.LOCAL, *NOTHING) == LocalExecutor()
    assert executor_of(Where.LOCAL, "cuda:0, cuda:2", *NOTHING[1:]) == LocalExecutor(("cuda:0", "cuda:2"))


def test_what_a_trial_takes_of_a_cluster():
    assert executor_of(Where.RAY, *NOTHING) == RayExecutor()
    made = executor_of(Where.RAY, None, "auto", 0.5, 0.25, Placement.SPREAD, 0)
    assert made == RayExecutor("auto", 0.5, 0.25, "spread", 0)


def test_an_option_of_the_other_executor_is_refused():
    with pytest.raises(StudyError, match="--devices: expected it without --executor ray"):
        executor_of(Where.RAY, "cuda:0", *NOTHING[1:])
    with pytest.raises(
        StudyError, match="--ray-retries: expected it with --executor ray, got --executor local"
    ):
        executor_of(Where.LOCAL, *NOTHING[1:], 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--devices", "cuda:0"], "expected a task on the device 'cuda'"),
        (["--devices", "cuda:0", "--jobs", "1"], "expected a task on the device 'cuda'"),
        (["--ray-address", "auto"], "--ray-address: expected it with --executor ray"),
        (["--executor", "ray", "--ray-address", "nowhere"], "expected the address of a Ray cluster"),
        (["--executor", "ray", "--ray-gpus", "1.5"], "expected GPUs per trial of at most 1"),
    ],
)
def test_what_cannot_be_is_refused_before_a_store_is_made(normsmith, tiny, tmp_path, arguments, words):
    ran = normsmith("study", tiny(), "-q", "fewer-steps", *arguments)
    assert ran.code == 2
    assert words in ran.err
    assert "Traceback" not in ran.err
    assert list(tmp_path.iterdir()) == []
