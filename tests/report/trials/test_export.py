"""Where trials go to is said by one word."""

from __future__ import annotations

import pytest
from tests.report.trials.made import trial

from normsmith.errors import InputError, ReportError
from normsmith.report import export_trials
from normsmith.report.trials.export import is_sink, open_sink


def test_words_name_files_or_sinks(tmp_path):
    assert export_trials(iter([trial()]), str(tmp_path / "t.csv"), rows="evaluations") == 3
    assert export_trials(iter([trial()]), f"tensorboard:{tmp_path}/runs") == 1
    assert len(list((tmp_path / "runs").rglob("events.*"))) > 0
    assert is_sink("mlflow:http://host")
    assert not is_sink("mlflow.csv")


@pytest.mark.parametrize("to", ["tensorbord:runs", "tensorboard:", "runs", ""])
def test_words_that_name_no_sink_are_refused(to):
    with pytest.raises(ReportError, match="expected a sink such as tensorboard:runs"):
        open_sink(to)


def test_rows_that_there_are_not_are_refused(tmp_path):
    with pytest.raises(InputError, match="rows: expected one of 'trials'"):
        export_trials([], str(tmp_path / "t.csv"), rows="curves")
