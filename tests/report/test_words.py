"""Verdicts and the sentences on them."""

from tests.report import samples

from normsmith.report import words


def test_a_finding_leaves_the_verdict_to_its_badge():
    effect = samples.placement().effects[0]
    assert words.finding(effect) == "Sigmoid: after is faster, as far as eight seeds can tell."
    other = effect.model_copy(update={"sentence": "Well: it depends."})
    assert words.finding(other) == "Well: it depends."
