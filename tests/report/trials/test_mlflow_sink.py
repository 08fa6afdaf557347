"""MLflow's own client finds one run a trial, with its curves, parameters and tags."""

from __future__ import annotations

import os
import sys
import time

import pytest
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient
from tests.report.trials.made import nasty, trial

from normsmith.errors import MissingExtraError, ReportError
from normsmith.report.trials.mlflow_sink import KEY, MLflow
from normsmith.studies.sinks import Sink


@pytest.fixture
def uri(tmp_path, monkeypatch):
    """A store of MLflow in files: quick, and only to be had by this variable."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "mlruns").as_uri()


def put(uri, *trials):
    sink = MLflow(uri)
    for made in trials:
        sink.put(made)
    sink.close()
    return sink


def runs(uri, experiment="digits"):
    client = MlflowClient(uri)
    number = client.get_experiment_by_name(experiment).experiment_id
    return client, list(client.search_runs([number], run_view_type=ViewType.ACTIVE_ONLY))


def test_a_trial_is_a_run_of_its_tasks_experiment(uri):
    assert isinstance(put(uri, trial(3)), Sink)
    client, (run,) = runs(uri)
    assert run.data.tags[KEY] == trial(3).record.key
    assert (run.data.params["arm"], run.data.params["learning_rate"], run.data.params["seed"]) == (
        "no norm",
        "0.1",
        "3",
    )
    assert run.data.tags["normsmith.status"] == "finished"
    assert (run.info.status, run.info.end_time - run.info.start_time) == ("FINISHED", 1500)
    curve = client.get_metric_history(run.info.run_id, "test")
    assert [(point.step, point.value) for point in curve] == [(0, 0.125), (2, 0.5), (4, 0.7)]
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [2, 4]
    assert [point.value for point in client.get_metric_history(run.info.run_id, "probe/__")] == [0.25, 0.125]


def test_nothing_is_added_twice_and_what_was_cut_short_is_written_anew(uri):
    put(uri, trial(1), trial(2), trial(1))
    client, both = runs(uri)
    assert len(both) == 2
    client.update_run(both[0].info.run_id, status="RUNNING")  # as a process that was killed leaves it
    put(uri, trial(1), trial(2))
    _, again = runs(uri)
    assert {run.data.tags[KEY] for run in again} == {trial(1).record.key, trial(2).record.key}
    assert {run.info.run_id for run in again} & {both[0].info.run_id, both[1].info.run_id} == {
        both[1].info.run_id
    }
    assert all(run.info.status == "FINISHED" for run in again)


def test_the_worst_that_a_store_holds_is_taken_and_trials_without_a_result_are_not(uri):
    put(uri, nasty(), trial(status="raised", reason="it raised"))
    _, (run,) = runs(uri, "task _")
    assert run.data.tags["normsmith.status"] == "diverged"
    assert "validation" in run.data.metrics


def test_where_there_is_no_mlflow_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with pytest.raises(
        ReportError, match="expected an MLflow that takes runs at mlflow:nonsense://\\*\\*\\*@here"
    ):
        MLflow("nonsense://me:secret@here")
    with pytest.raises(ReportError, match="; name a database, such as mlflow:sqlite:"):
        MLflow(str(tmp_path / "mlruns"))


def test_a_server_that_is_not_there_is_refused_in_seconds(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    started = time.monotonic()
    with pytest.raises(
        ReportError, match=r"takes runs at mlflow:http://localhost:1, got .*Connection refused"
    ):
        MLflow("http://localhost:1")
    assert time.monotonic() - started < 60
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_without_an_address_runs_go_where_mlflow_itself_puts_them(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert str(MLflow()) == f"mlflow:{uri}"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "alembic", None)  # as if it were not installed
    with pytest.raises(
        MissingExtraError,
        match=r"MLflow in a database needs alembic, which is not installed: pip install 'normsmith\[mlflow\]'",
    ):
        MLflow()
    assert not (tmp_path / "mlflow.db").exists()
