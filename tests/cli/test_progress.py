"""Progress: a bar on a terminal, a few plain lines elsewhere, and what failed at once."""

import io

import pytest
from rich.console import Console

from normsmith.cli.progress import LINES, StudyProgress
from normsmith.studies.arms import AS_IS
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
