"""Whatever the user's code raises is explained; a process that it forks ends with its call."""

import os

import pytest

from normsmith.errors import TaskError
from normsmith.tasks.calls import users_code


class Odd(BaseException):
    pass


def explained(error):
    return TaskError(f"it raised {type(error).__name__}")


@pytest.mark.parametrize(
    "error", [ValueError(), SystemExit(0), GeneratorExit(), StopIteration(), Odd()], ids=repr
)
def test_whatever_is_raised_is_explained(error):
    with pytest.raises(TaskError, match=f"it raised {type(error).__name__}"), users_code(explained):
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), KeyError("k")], ids=repr)
def test_an_interrupt_and_what_is_named_pass(error):
    with pytest.raises(type(error)), users_code(explained, but=(KeyError,)):
        raise error


@pytest.mark.parametrize("raising", [False, True])
def test_a_process_that_is_forked_does_not_come_out(raising, tmp_path):
    try:
        with users_code(explained):
            child = os.fork()
            if child == 0 and raising:
                raise ValueError
    finally:
        (tmp_path / str(os.getpid())).touch()
    assert os.waitpid(child, 0)[1] == 0
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]
