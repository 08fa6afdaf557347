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
