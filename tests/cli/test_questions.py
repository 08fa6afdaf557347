"""`normsmith questions`: every question with its title."""

from normsmith.studies import every_question


def test_questions_are_listed(normsmith):
    ran = normsmith("questions")
    assert ran.code == 0
    for name, question in every_question().items():
        assert name in ran.out
        assert question.title in " ".join(ran.out.split())
    left_out = [question for question in every_question().values() if "quick" not in question.profiles]
    assert " ".join(ran.out.split()).count("(--profile full, or by name)") == len(left_out) > 0
