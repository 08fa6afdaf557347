"""Progress: a bar on a terminal, a few plain lines elsewhere, and what failed at once."""

import io

import pytest
from rich.console import Console

from normsmith.cli.progress import LINES, StudyProgress
from normsmith.studies.arms import AS_IS
from normsmith.studies.rehearsal import Need
from normsmith.studies.trial import Outcome, Trial


def told(trials, outcomes, *, jobs=2, reused=0, seconds=134.0, terminal=False):
    """Standard error of a batch of so many trials, of which these end."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120, color_system=None)
    with StudyProgress(console, jobs) as progress:
        progress.planned(trials, reused, seconds)
        for seed, outcome in enumerate(outcomes):
            progress.finished(Trial(AS_IS, 0.25, seed, 20), outcome)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("trials", "jobs", "reused", "said"),
    [
        (30, 2, 0, "30 trials to run, about 2 min on 2 worker processes\n"),
        (1, 1, 5, "1 trial to run, 5 more found in the store, about 2 min on 1 worker process\n"),
        (0, 2, 30, "0 trials to run, 30 more found in the store\n"),
    ],
)
def test_what_is_planned_is_said_first(trials, jobs, reused, said):
    assert told(trials, [], jobs=jobs, reused=reused) == said


@pytest.mark.parametrize("trials", [3, 10, 57])
def test_elsewhere_than_on_a_terminal_a_batch_gets_a_few_lines(trials):
    lines = told(trials, [Outcome("finished")] * trials).splitlines()[1:]
    assert len(lines) == min(trials, LINES)
    assert lines[-1] == f"{trials} of {trials} trials"


def spoken(jobs=2):
    stream = io.StringIO()
    return stream, StudyProgress(Console(file=stream, width=200, color_system=None), jobs)


def test_a_plan_is_said_again_only_when_it_changes_by_a_tenth():
    stream, progress = spoken()
    with progress:
        for new, seconds in ((100, 60.0), (105, 50.0), (120, 50.0), (121, 40.0)):
            progress.planned(new, 0, seconds)
            progress.finished(Trial(AS_IS, 0.25, 0, 20), Outcome("finished"))
    said = [line for line in stream.getvalue().splitlines() if "trials to run" in line or "in all" in line]
    assert said == [
        "100 trials to run, about 60 s on 2 worker processes",
        "now 120 trials in all, 118 of them to run, about 50 s on 2 worker processes",
    ]


def test_what_decides_and_what_cannot_is_said_before_anything_runs():
    stream, progress = spoken()
    progress.needs(10, [Need("a", 9, 7), Need("b", 9, 7), Need("c", 10, 8)])
    assert stream.getvalue().splitlines() == [
        "9 of 10 seeds on one side of its margin decide a hypothesis of a, b",
        "10 of 10 seeds on one side of its margin decide a hypothesis of c",
    ]
    stream, progress = spoken()
    progress.needs(1, [Need("a", None, 7)])
    assert stream.getvalue() == (
        "warning: 1 seed cannot decide a hypothesis of a, however clear its effect: at least 7 can (--seeds 7)\n"
    )


def test_trials_that_run_when_a_study_is_done_are_a_plan_of_their_own():
    stream, progress = spoken(jobs=1)
    with progress:
        progress.planned(3, 0, 1.0)
        for _ in range(3):
            progress.finished(Trial(AS_IS, 0.25, 0, 20), Outcome("finished"))
        progress.planned(1, 0, 1.0)
        progress.finished(Trial(AS_IS, 0.25, 0, 20), Outcome("finished"))
    assert stream.getvalue().splitlines()[-2:] == [
        "1 trial to run, about 1 s on 1 worker process",
        "1 of 1 trials",
    ]


def test_failures_are_said_at_once_and_divergence_is_a_result():
    text = told(
        3, [Outcome("raised", "ValueError: [no] such\x1b thing"), Outcome("diverged", "the loss became nan")]
    )
    assert "as is, rate 0.25, seed 0 raised: ValueError: [no] such" in text
    assert "diverged" not in text


def test_a_terminal_gets_a_bar_and_no_lines():
    text = told(2, [Outcome("finished")] * 2, terminal=True)
    assert "2/2" in text
    assert "of 2 trials" not in text


def test_a_budget_is_said_with_its_parts_in_their_order():
    stream, progress = spoken()
    progress.scheduled([("b", 10, 40.0), ("a", 10, 200.0), ("b", 20, 40.0)], 120.0)
    progress.begun("b", 10, 118.0)
    assert stream.getvalue().splitlines() == [
        "the whole takes about 5 min on 2 worker processes, the budget is 2 min; "
        "what decides most in the least time comes first:",
        "  at 10 seeds: b (40 s), a (3 min)",
        "  at 20 seeds: b (40 s)",
        "b: 10 seeds, with 2 min left",
    ]
