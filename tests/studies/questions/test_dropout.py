"""`dropout`: whether it clashes with a batch norm after it."""

from tests.contracts.question import QuestionContract, ask, hash_of, outcome, words


class TestDropout(QuestionContract):
    name = "dropout"

    def world(self, trial):
        noise = 0.002 * (hash_of(trial) % 5)
        between = words(trial).get("share") and between_layers(trial)
        shift, lost = (2.0, 0.1) if between else (1.0, 0.0)
        if words(trial)["norm"] == "none":
            return outcome(20, 0.9 - lost + noise)
        return outcome(20, 0.9 - lost + noise, recalibrated=0.9 + noise, variance_shift=shift + noise)

    def indifferent(self, trial):
        noise = 0.002 * (hash_of(trial) % 9)
        return outcome(20, 0.9 + noise, recalibrated=0.9 + noise, variance_shift=1.1 + noise)


def between_layers(trial):
    return any(dict(change.arguments).get("where") == "between" for change in trial.arm.edits)


def test_dropout_after_the_last_activation_stands_beside():
    findings, _ = ask("dropout", TestDropout().world)
    (beside,) = [effect for effect in findings.effects if effect.beside]
    assert "last" in beside.treatment


def test_the_full_profile_asks_whether_dropout_costs_more_with_batch_norm():
    findings, asked = ask("dropout", TestDropout().world, profile="full", seeds=3)
    interaction = findings.effects[-1]
    assert interaction.treatment == "the gain by dropout with batch norm"
    assert {words(trial).get("share") for trial in asked} == {None, 0.1, 0.3, 0.5}
    assert {words(trial)["norm"] for trial in asked} == {"batch", "none"}
    chart, table = findings.charts[0], findings.tables[0]
    assert {line.label: line.x for line in chart.lines if "recalibrated" not in line.label} == {
        "batch norm, dropout between": (0.0, 0.1, 0.3, 0.5),
        "batch norm, dropout last": (0.0, 0.1, 0.3, 0.5),
        "no norm, dropout between": (0.0, 0.5),
    }
    measures = table.columns.index("recalibrated"), table.columns.index("variance shift")
    plain = [row for row in table.rows if row[0].startswith("no norm")]
    assert [[row[i] for i in measures] for row in plain] == [["–", "–"]] * 2, (
        "there is nothing to recalibrate"
    )
