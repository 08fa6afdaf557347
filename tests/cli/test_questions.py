"""`normsmith questions`: every question with its title."""

from normsmith.studies import every_question


def test_questions_are_listed(normsmith):
    ran = normsmith("questions")
    assert ran.code == 0
    for name, question in every_question().items():
        assert name in ran.out
        assert question.title in " ".join(ran.out.split())
    text = " ".join(ran.out.split())
    profiles = [question.profiles for question in every_question().values()]
    assert text.count("(--profile full, or by name)") == profiles.count(("full",)) > 0
    assert text.count("(--recommend, or by name)") == 1
    assert text.count("(by name)") == profiles.count(()) - 1
