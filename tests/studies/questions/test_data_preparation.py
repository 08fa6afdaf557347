"""`data-preparation`: whether a batch norm on the inputs does what a scaler does."""

from tests.contracts.question import QuestionContract, ask, hash_of, outcome

FINAL = {
    ("scales", "raw"): 0.5,
    ("scales", "standard"): 0.9,
    ("scales", "first"): 0.92,
    ("tails", "quantile"): 0.95,
}


def prepared(trial):
    """Which raw data, and what is done about them."""
    (raw, *preparation) = [dict(change.arguments)["how"] for change in trial.arm.data]
    first = any(change.spec()["edit"] == "norm-first" for change in trial.arm.edits)
    return raw, "first" if first else (preparation or ["raw"])[0]


class TestDataPreparation(QuestionContract):
    name = "data-preparation"

    def world(self, trial):
        return outcome(20, FINAL.get(prepared(trial), 0.8) + 0.002 * (hash_of(trial) % 5))


def test_nothing_is_done_twice_to_the_same_inputs():
    _, asked = ask("data-preparation", TestDataPreparation().world, profile="full", seeds=2)
    arms = {prepared(trial) for trial in asked}
    ways = ("raw", "standard", "quantile", "first")
    assert arms == {(raw, way) for raw in ("scales", "tails", "outliers") for way in ways}
    assert all(len(trial.arm.data) == (prepared(trial)[1] in ("standard", "quantile")) + 1 for trial in asked)
