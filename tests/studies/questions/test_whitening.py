"""`whitening`: whether it goes further than batch norm."""

import math
from dataclasses import replace

from tests.contracts.question import QuestionContract, ask, hash_of, outcome, words


class TestWhitening(QuestionContract):
    name = "whitening"

    def world(self, trial):
        return outcome((25 if "most" in words(trial) else 60) + 5 * (hash_of(trial) % 2))


def test_every_arm_has_correlated_inputs():
    _, asked = ask("whitening", TestWhitening().world, seeds=2)
    assert {words(trial)["condition"] for trial in asked} == {30.0}
    kinds = {change.spec()["edit"]: change for trial in asked for change in trial.arm.edits}
    assert {"insert-norm", "insert-whitening"} <= kinds.keys()


def test_the_target_is_said_to_be_that_of_batch_norm():
    findings, _ = ask("whitening", TestWhitening().world, "untargeted", seeds=2)
    assert "to the best of batch norm before activation, on validation" in findings.notes[0]


def test_seconds_to_the_target_are_shown_and_no_hypothesis_is_about_seconds():
    findings, _ = ask("whitening", lambda trial: replace(TestWhitening().world(trial), seconds=50.0), seeds=2)
    (table,) = findings.tables
    at = {name: index for index, name in enumerate(table.columns)}
    for row in table.rows:
        assert float(row[at["seconds to target"]]) == 0.5 * float(row[at["steps to target"]])
    assert {effect.unit for effect in findings.effects} == {"steps to target"}


def test_seconds_to_a_target_that_is_never_reached_are_never():
    findings, _ = ask("whitening", lambda trial: replace(outcome(math.inf), seconds=50.0), seeds=2)
    at = findings.tables[0].columns.index("seconds to target")
    assert {row[at] for row in findings.tables[0].rows} == {"never"}
