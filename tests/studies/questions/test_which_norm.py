"""`which-norm`: the best norm is chosen by some seeds, judged by others, and said in one sentence."""

import pytest
from tests.contracts.question import QuestionContract, ask, hash_of, outcome, words

from normsmith.errors import SurgeryError
from normsmith.studies.questions import which_norm
from normsmith.studies.results import Verdict

BATCH, AFTER, LAYER, GROUP, GHOST, RENORM = (
    "batch norm before activation",
    "batch norm after activation",
    "layer norm before activation",
    "group norm before activation",
    "ghost batch norm before activation",
    "batch renorm before activation",
)
WHITENING, OWN, NONE = "whitening before activation", "the network's own norms", "no norm"


def ending(**finals):
    """Outcomes whose final metric is that of the arm: 0.9 unless it is named."""

    def world(trial):
        final = finals.get(_short(trial), 0.9)
        return outcome(20, final + 0.001 * (hash_of(trial) % 3))

    return world


def _short(trial):
    named = words(trial)
    if "most" in named:
        return "whitening"
    if "ghost_batch_size" in named:
        return "ghost"
    if trial.arm.edits and named["norm"] == "none":
        return "none"
    return "own" if named["norm"] == "none" else f"{named['norm']}_{named['where']}"


class TestWhichNorm(QuestionContract):
    name = "which-norm"

    def world(self, trial):
        return ending(none=0.8, batch_before=0.905, whitening=0.7)(trial)

    def indifferent(self, trial):
        return outcome(20, 0.9 + 0.002 * (hash_of(trial) % 9))

    def test_nothing_is_called_where_nothing_differs(self):
        """But that norms tie is true there."""
        findings, _ = ask(self.name, self.indifferent)
        worth, _, _ = findings.effects
        assert worth.verdict is not Verdict.HOLDS
        assert findings.recommendation.startswith(("Do not use batch norm here", "Not decided"))


def recommended(task="task", seeds=10, **finals):
    findings, asked = ask("which-norm", ending(**finals), task, seeds=seeds)
    assert findings.recommendation.count(". ") == 0  # one sentence
    return findings, asked


def test_candidates_are_all_that_surgery_can_put_in_and_the_networks_own():
    findings, _ = recommended()
    names = [row[0] for row in findings.tables[0].rows]
    assert names == [BATCH, AFTER, LAYER, GROUP, GHOST, RENORM, WHITENING]
    findings, _ = recommended("normed")
    assert findings.tables[0].rows[0][0] == OWN


def test_those_who_choose_do_not_judge():
    """Candidates are compared on validation, with seeds of their own; on test only what they chose is looked at."""
    _, asked = recommended(none=0.8, layer_before=0.95)
    choosing = [trial for trial in asked if trial.stream == 1]
    judging = [trial for trial in asked if trial.stream == 0]
    assert {trial.detail for trial in choosing} == {"metric"}
    assert {_short(trial) for trial in judging} == {"none", "layer_before", "batch_before"}
    assert {_short(trial) for trial in choosing} >= {"group_before", "ghost", "whitening", "renorm_before"}
    assert not any(_short(trial) == "none" for trial in choosing)
    assert {trial.seed for trial in judging} == set(range(10))


def test_more_seeds_judge_what_ten_chose():
    _, asked = ask("which-norm", ending(none=0.8), seeds=14)
    assert {trial.seed for trial in asked if trial.stream == 1} == set(range(10))
    assert {trial.seed for trial in asked if trial.stream == 0} == set(range(14))


@pytest.mark.parametrize(
    ("finals", "begins", "says"),
    [
        # worth it, and the best is not the simplest: a tie
        (
            {"none": 0.8, "layer_before": 0.905},
            f"Use {BATCH} at a learning rate of ",
            [f"{LAYER} ends more than 1 point better than no norm, well initialised (holds: +10",
             f"{BATCH} ends within 1 point of it, a tie: take the simplest (holds: "],
        ),
        # worth it, and better than batch norm
        (
            {"none": 0.8, "layer_before": 0.95},
            f"Use {LAYER} at a learning rate of ",
            [f"{BATCH} ends more than 1 point worse than {LAYER}, so do not use it here (does not hold here: "],
        ),
        # not worth it
        (
            {"none": 0.9},
            "Do not use batch norm here, nor another norm, but no norm at a learning rate of ",
            ["ends less than 1 point better than no norm, well initialised (does not hold here: "],
        ),
        # harmful
        (
            {"none": 0.95},
            "Do not use batch norm here, nor another norm, but no norm at a learning rate of ",
            ["ends more than 1 point worse than no norm, well initialised (reversed: −"],
        ),
    ],
)  # fmt: skip
def test_the_sentence_says_what_the_verdicts_do(finals, begins, says):
    findings, _ = recommended(**finals)
    assert findings.recommendation == findings.headline
    assert findings.recommendation.startswith(begins)
    for part in says:
        assert part in findings.recommendation
    assert "95 % interval" in findings.recommendation
    assert "initial weights" in findings.recommendation
    assert "p = 0.0" in findings.recommendation


def test_the_rival_of_a_change_is_what_the_network_has():
    findings, _ = recommended("normed", none=0.8, layer_before=0.95)
    assert findings.effects[1].control == OWN
    findings, _ = recommended("normed", none=0.8, own=0.95)
    assert findings.effects[0].treatment == OWN
    assert findings.recommendation.startswith(f"Use {OWN} at")


def test_too_few_seeds_recommend_nothing_for_sure():
    findings, _ = recommended(seeds=3, none=0.8)
    assert findings.recommendation.startswith("Not decided, so take it as a guess: ")
    assert "range of the seeds" in findings.recommendation


def test_what_cannot_be_put_in_is_said(monkeypatch):
    monkeypatch.setattr(which_norm, "insert_whitening", refusing)
    findings, _ = recommended(seeds=2)
    assert WHITENING not in [row[0] for row in findings.tables[0].rows]
    assert f"Not tried: {WHITENING}, as it is too small to be white." in findings.notes


def refusing(model, task, **_):
    raise SurgeryError("it is too small to be white")


def test_a_network_that_can_have_no_norm_is_told_why():
    """The activation of a recurrence of its own is called at every step."""
    with pytest.raises(
        SurgeryError, match=r"a norm cannot be put before its activations .*called more than once"
    ):
        recommended("recurrent")
