"""What was found, in plain sentences: directions, sizes and the seeds that are needed are those of the results."""

from __future__ import annotations

import sys

import pytest
from tests.docs.pages import ROOT
from tests.report.samples import fewer_steps

sys.path.insert(0, str(ROOT / "scripts"))
from shared.answers import kept_runs
from shared.claims import CLAIMS, MAIN, lines
from shared.facts import told
from shared.findings import IMPOSSIBLE, Finding, findings_in, findings_of
from shared.hypotheses import WORDINGS

sys.path.remove(str(ROOT / "scripts"))

from normsmith.studies import every_question
from normsmith.studies._inference import holm
from normsmith.studies.results import Effect, Verdict

RUNS = kept_runs()
FOUND = [
    (run["task"], answer, findings_of(answer["question"], effects, answer.get("notes", ())))
    for run in RUNS
    for answer in run["answers"]
    for effects in [[Effect.model_validate(each) for each in answer["effects"]]]
]


def effect_of(logs: list[float], verdict: Verdict, **changes: object) -> Effect:
    """A made-up effect on steps, as natural logarithms, positive where the treatment is faster."""
    middle = sorted(logs)[len(logs) // 2]
    margin = 0.4
    fields = {
        **fewer_steps().effects[0].model_dump(),
        "name": "steps to 0.95, relu: batch norm vs none",
        "seeds": tuple(range(len(logs))),
        "effects": tuple((each, each) for each in logs),
        "median": (middle, middle),
        "interval": (min(logs), max(logs)),
        "margin": margin,
        "beyond": sum(each > margin for each in logs),
        "short": sum(each < margin for each in logs),
        "failed": (0, 0),
        "test_error": None,
        "after": None,
        "verdict": verdict,
        "sentence": f"{verdict.value.capitalize()}: so many (95 % interval so wide).",
    }
    return Effect.model_validate({**fields, **changes})


def test_direction_and_size_come_first_then_what_is_decided() -> None:
    effect = effect_of([0.6] * 14 + [0.1] * 3 + [-0.2] * 3, Verdict.INCONCLUSIVE, p=0.115, p_adjusted=0.115)
    (finding,) = findings_of("fewer-steps", [effect])
    assert finding.sentence == (
        "With ReLU, batch norm is faster in 17 of 20 seeds (slower in 3), typically 0.549× the steps; that it is at "
        "most 0.67× the steps is undecided (14 of 20, 15 needed)."
    )
    assert (finding.sides, finding.needed, finding.verdict) == ("14 : 6", 15, "inconclusive")


def test_two_ends_that_are_nearly_one_are_one_number_and_others_are_bounds() -> None:
    def said(median: tuple[float, float]) -> str:
        effect = effect_of([0.6] * 20, Verdict.HOLDS, p=1e-5, p_adjusted=1e-5, median=median)
        return findings_of("fewer-steps", [effect])[0].sentence

    assert "typically 0.547× the steps;" in said((0.597, 0.61))
    assert "typically at most 0.248× the steps;" in said((1.3946, float("inf")))


def test_what_something_else_decided_is_said_with_the_reason() -> None:
    sentence = "Inconclusive: no norm did not learn, and a network that does not learn is smooth."
    effect = effect_of([0.6] * 20, Verdict.INCONCLUSIVE, p=1e-5, p_adjusted=1.0, sentence=sentence)
    (finding,) = findings_of("fewer-steps", [effect])
    assert (
        "is not decided, as no norm did not learn, and a network that does not learn is smooth."
        in finding.sentence
    )
    assert "needed" not in finding.sentence


def test_a_hypothesis_that_a_ceiling_made_impossible_is_no_no() -> None:
    effect = effect_of(
        [-0.3] * 20,
        Verdict.NOT_HERE,
        name="final metric, sigmoid: batch norm vs none",
        unit="points",
        scale="difference",
        better="higher",
        margin=19.9,
        control="sigmoid, no norm",
        p=1e-5,
        p_adjusted=1e-5,
    )
    note = "A ceiling: “sigmoid, no norm” is at 96.4 of 100 points, if the metric ends at 1. More."
    with_room, without = (findings_of("saturation", [effect], notes)[0] for notes in ((), (note,)))
    assert with_room.verdict == "does not hold here"
    assert without.verdict == IMPOSSIBLE
    assert "could not be shown here, as what it is compared with is at 96.4 of 100 points" in without.sentence


@pytest.mark.parametrize(
    ("task", "answer", "found"), FOUND, ids=[f"{t}: {a['question']}" for t, a, _ in FOUND]
)
def test_the_seeds_needed_agree_with_the_verdicts(task, answer, found) -> None:
    """What has so many seeds on one side is decided, what has fewer is not: by Holm's own order."""
    judged = [each for each in found if each.effect.verdict is not Verdict.NOT_JUDGED]
    for each in judged:
        effect = each.effect
        assert each.needed
        if effect.kind == "superiority" and effect.after is None and "not decided, as" not in each.sentence:
            assert (max(effect.beyond, effect.short) >= each.needed) == (
                effect.verdict is not Verdict.INCONCLUSIVE
            )
    names = [each.effect.name for each in judged]
    after = [names.index(each.effect.after) if each.effect.after in names else None for each in judged]
    holds = [each.effect.verdict is Verdict.HOLDS for each in judged]
    adjusted = holm(
        [1.0 if "not decided, as" in each.sentence else each.effect.p for each in judged], holds, after
    )
    assert adjusted == pytest.approx([each.effect.p_adjusted for each in judged])


def test_every_kept_hypothesis_has_words_of_its_own_and_no_figure_is_typed() -> None:
    for _, answer, found in FOUND:
        assert all(each.words.about for each in found), answer["question"]
        assert not any("{" in each.sentence for each in found)  # all names of a pattern were filled in
    assert {*WORDINGS} == {*every_question()}


def test_every_claim_is_answered_by_what_was_asked_of_the_main_network() -> None:
    asked = {answer["question"] for run in RUNS if run["task"] == MAIN for answer in run["answers"]}
    assert len([claim for claim in CLAIMS if not claim.beyond]) == 17
    for claim in CLAIMS:
        if claim.question in asked and not claim.on:
            answers = [line for line in lines(claim, RUNS) if line.task == MAIN]
            assert answers
            assert all(pattern for pattern in claim.answers[0][1])


def test_where_no_network_got_there_nothing_is_said() -> None:
    open_ = (float("-inf"), float("inf"))
    changes = {
        "effects": (open_,) * 20,
        "median": open_,
        "interval": open_,
        "beyond": 0,
        "short": 0,
        "p": 1.0,
    }
    (finding,) = findings_of(
        "fewer-steps", [effect_of([0.0] * 20, Verdict.INCONCLUSIVE, p_adjusted=1.0, **changes)]
    )
    assert finding.sentence.startswith("Nothing can be said: in none of 20 seeds did either network")
    some = {**changes, "effects": ((0.5, 0.5), *[open_] * 19)}
    (finding,) = findings_of(
        "fewer-steps", [effect_of([0.0] * 20, Verdict.INCONCLUSIVE, p_adjusted=1.0, **some)]
    )
    assert "not known in 19 of 20 seeds (faster in 1), typically not known" in finding.sentence


def test_fewer_steps_than_one_measurement_cannot_be_shown() -> None:
    effect = effect_of([0.0] * 20, Verdict.NOT_HERE, p=1e-5, p_adjusted=1e-5, control="relu, no norm")
    run = {"task": "wine", "task_facts": {"steps": "150"}}

    def found(median: str) -> Finding:
        arms = {"columns": ["arm", "steps to target"], "rows": [["relu, no norm", median]]}
        answer = {"question": "fewer-steps", "effects": [effect.model_dump()], "arms": arms}
        return findings_in(answer, run)[0]

    assert (found("3").verdict, found("3").sides) == (IMPOSSIBLE, "–")
    assert "at the first measurement, step 3, in at least 11 of 20 seeds" in found("3").sentence
    assert "in at least 10 of 20 seeds" in found("4.5").sentence, "the middle of 3 and 6"
    for later in ("6", "30 (1 never)", "never"):
        assert (found(later).verdict, found(later).sides) == ("does not hold here", "0 : 20")


def test_where_the_target_is_out_of_reach_nothing_is_said_of_rates_either() -> None:
    name = "range of rates that reach 0.489: batch norm vs none"
    effect = effect_of([0.0] * 20, Verdict.NOT_HERE, name=name, unit="octaves", scale="difference")
    note = "No arm reached the target within 150 steps for any seed"
    within, out = (findings_of("learning-rates", [effect], notes)[0] for notes in ((), (note,)))
    assert (within.shown, within.nothing) == (Verdict.NOT_HERE, False)
    assert (out.shown, out.sides, out.certainty) == (Verdict.INCONCLUSIVE, "–", "")
    assert (
        out.sentence
        == "Nothing can be said: in none of 20 seeds did either network reach the target at any rate."
    )


def test_facts_are_figures_of_the_arms_and_of_the_task_itself() -> None:
    rows = [["none", "0.9", "–"], ["contrast", "0.2", "0.8"], ["invert", "0.2", "0.3"]]
    arms = {"title": "", "columns": ["shift", "statistics of training", "adapted"], "rows": rows}
    said = {
        task: " ".join(text for _, text in told("shifted-inputs", {"arms": arms}, {"task": task}))
        for task in ("shapes", "digits-mlp")
    }
    assert "guessing gives 12.5 %" in said["shapes"]
    assert "guessing gives 10 %" in said["digits-mlp"]
    assert all("Hardly less" not in text and "beat those" not in text for text in said.values())


def test_what_asks_the_opposite_of_a_claim_says_so_in_its_row() -> None:
    for claim in CLAIMS:
        for line in lines(claim, RUNS):
            said = "as the opposite of the claim: " in line.sentence
            assert said == (line.opposite and not line.finding.nothing)
    assert {claim.title for claim in CLAIMS if claim.opposite} == {
        "Internal covariate shift",
        "Data preparation",
    }
