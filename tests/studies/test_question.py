"""Questions are found by walking their folder, and chosen by name."""

import pkgutil

import pytest

from normsmith.errors import StudyError
from normsmith.studies import every_question, questions, select


def test_every_file_of_the_folder_is_a_question_in_alphabetical_order():
    files = [info.name.replace("_", "-") for info in pkgutil.iter_modules(questions.__path__)]
    assert list(every_question()) == sorted(files)


def test_questions_are_selected_in_the_order_named_and_once_each():
    assert [question.name for question in select(("saturation", "placement", "saturation"))] == [
        "saturation",
        "placement",
    ]
    assert select(()) == tuple(every_question().values())


def test_unknown_questions_are_named():
    with pytest.raises(StudyError, match=r"no question is called 'placment'.*placement"):
        select(("placment",))
