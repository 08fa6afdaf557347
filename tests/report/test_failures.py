"""Trials that did not finish are told once for each way in which they ended."""

from tests.report import samples

from normsmith.report import failures


def test_failures_are_grouped_and_errors_come_first():
    groups = failures.grouped(samples.failures())
    assert [(g.status, g.setting, g.trials, g.seeds) for g in groups] == [
        ("raised", "lr=0.5", 1, "3"),
        ("diverged", "lr=4", 8, "0–7"),
        ("diverged", "lr=8", 8, "0–7"),
    ]
    assert groups[1].more_reasons == 6
    assert failures.summary(samples.failures()) == "16 trials diverged, 1 trial raised an error."
    assert failures.summary(()) == "Every trial ran to its last step."


def test_what_nobody_could_read_is_cut():
    one = samples.failures()[-1]
    (group,) = failures.grouped([one.model_copy(update={"reason": "x" * 1_000_000, "arm": "y" * 1000})])
    assert len(group.reasons[0]) < 600
    assert group.reasons[0].endswith("… (1,000,000 characters)")
    assert len(group.arm) < 150


def test_a_study_says_first_that_nothing_finished_and_why():
    assert failures.nothing_finished(samples.ordinary()) == ""
    *diverged, raised = samples.failures()
    result = samples.study(failures=(*diverged, raised), trials_new=17, trials_reused=0)
    said = failures.nothing_finished(result)
    assert said.startswith(
        "No trial came to its end, so this study says nothing: 16 trials diverged, 1 trial raised"
    )
    assert said.endswith("tanh, bn, lr=0.5: RuntimeError: the metric got an empty batch.")
    only = samples.study(failures=tuple(diverged), trials_new=16, trials_reused=0)
    assert "Smaller learning rates may help." in failures.nothing_finished(only)
