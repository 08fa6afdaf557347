"""`placement`: before or after the activation."""

from tests.contracts.question import QuestionContract, ask, hash_of, outcome, verdicts, words

from normsmith.studies.results import Verdict


class TestPlacement(QuestionContract):
    name = "placement"

    def world(self, trial):
        reaches = 20 if words(trial).get("where") == "before" else 60
        return outcome(reaches + 5 * (hash_of(trial) % 3))


def test_for_s_shapes_the_claim_is_after():
    def world(trial):
        s_shaped = words(trial).get("activation") in ("tanh", "sigmoid")
        claimed = "after" if s_shaped else "before"
        return outcome(20 if words(trial).get("where") == claimed else 60)

    findings, _ = ask("placement", world, task="activations")
    assert [effect.name for effect in findings.effects] == [
        "steps to 0.8, relu: batch norm before vs after",
        "steps to 0.8, tanh: batch norm after vs before",
    ]
    assert verdicts(findings) == {Verdict.HOLDS}


def test_the_full_profile_asks_for_sigmoids_too():
    findings, _ = ask("placement", lambda trial: outcome(20), task="activations", profile="full")
    assert [effect.name.split()[3] for effect in findings.effects] == ["relu:", "tanh:", "sigmoid:"]


def test_the_same_final_metric_is_found_equivalent():
    findings, _ = ask("placement", lambda trial: outcome(20, 0.95 + 0.0005 * (hash_of(trial) % 3)))
    (row,) = findings.tables[1].rows
    assert row[-1] == Verdict.HOLDS
