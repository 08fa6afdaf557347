"""`moving-averages`: whether they lag behind what the network was trained with."""

from tests.contracts.question import QuestionContract, ask, diverged, hash_of, outcome, words


class TestMovingAverages(QuestionContract):
    name = "moving-averages"

    def world(self, trial):
        noise = 0.002 * (hash_of(trial) % 5)
        lag = {0.1: 0.05, 0.01: 0.2}.get(words(trial).get("momentum"), 0.0)
        return outcome(20, 0.95 - lag + noise, recalibrated=0.95 + noise, mismatch=lag)

    def indifferent(self, trial):
        final = 0.9 + 0.002 * (hash_of(trial) % 9)
        return outcome(20, final, recalibrated=final + 0.002 * (hash_of(trial) % 5 - 2))


def test_both_statistics_are_those_of_one_network_trained_on_large_batches():
    findings, asked = ask("moving-averages", TestMovingAverages().world)
    assert {words(trial)["size"] for trial in asked} == {96}  # half of the tiny task's data
    assert {effect.treatment.partition(",")[0] for effect in findings.effects} == {"recalibrated statistics"}
    assert len({trial for trial in asked if "momentum" in words(trial)}) == 2 * 3 * 8


def test_rates_are_multiples_of_each_seeds_best():
    _, asked = ask("moving-averages", TestMovingAverages().world, profile="full")
    rates = {}
    for trial in asked:
        if "momentum" in words(trial):
            rates.setdefault((trial.seed, words(trial)["momentum"]), set()).add(trial.learning_rate)
    assert {tuple(sorted(rate / min(own) for rate in own)) for own in rates.values()} == {(1, 4, 8, 16, 64)}


def test_a_network_that_diverged_is_not_said_to_be_alike_by_both_statistics():
    findings, _ = ask(
        "moving-averages",
        lambda trial: outcome(20, recalibrated=0.95, mismatch=0.1) if trial.seed else diverged(),
    )
    assert {effect.seeds for effect in findings.effects} == {(1, 2, 3, 4, 5, 6, 7)}
    assert {effect.failed for effect in findings.effects} == {(1, 1)}
