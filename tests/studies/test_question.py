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
    by_name_alone = {"domain-norms", "which-norm"}
    assert select(()) == select((), "full")
    assert {question.name for question in select(())} == every_question().keys() - by_name_alone


def test_the_quick_profile_asks_what_answers_within_minutes_and_others_by_name():
    assert [question.name for question in select((), "quick")] == [
        "fewer-steps",
        "initialisation",
        "learning-rates",
        "own-norms",
        "placement",
        "saturation",
        "small-batches",
    ]
    assert [question.name for question in select(("data-preparation",), "quick")] == ["data-preparation"]


def test_unknown_questions_are_named():
    with pytest.raises(StudyError, match=r"no question is called 'placment'.*placement"):
        select(("placment",))
