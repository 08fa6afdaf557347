"""How a task gets to worker processes."""

import threading

import pytest

from normsmith.errors import StudyError
from normsmith.studies.executors.reference import TaskReference


def test_a_task_object_that_cannot_travel_is_refused():
    from tests.studies.tiny import make

    lock = threading.Lock()
    task = make("locked", collate=lambda samples: (lock, samples))
    with pytest.raises(
        StudyError, match=r"the task locked cannot be sent.*lock.*; put it into a file and pass"
    ):
        TaskReference.to(task)
