"""TensorBoard's own reader finds the curves of every trial, once."""

from __future__ import annotations

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.report.trials.made import nasty, trial

from normsmith.errors import ReportError
from normsmith.report.trials.tensorboard_sink import TensorBoard
from normsmith.studies.sinks import Sink


def runs(folder):
    """What TensorBoard reads, by the path of each run."""
    paths = sorted({file.parent for file in folder.rglob("events.*")})
    return {str(path.relative_to(folder)): EventAccumulator(str(path)).Reload() for path in paths}


def test_a_trial_is_a_run_with_curves_probes_and_settings(tmp_path):
    sink = TensorBoard(tmp_path / "runs")
    assert isinstance(sink, Sink)
    assert str(sink) == f"tensorboard:{tmp_path / 'runs'}"
    sink.put(trial(3))
    sink.close()
    ((path, run),) = runs(tmp_path / "runs").items()
    assert path == f"digits/no norm, rate 0.1, seed 3, {trial(3).record.key[:12]}"
    points = {tag: [(each.step, each.value) for each in run.Scalars(tag)] for tag in run.Tags()["scalars"]}
    assert points["metric/test"] == [(0, 0.125), (2, 0.5), (4, pytest.approx(0.7))]
    assert points["loss"] == [(2, 1.5), (4, pytest.approx(0.3))]
    assert points["probes/σ′"] == [(2, 0.25), (4, 0.125)]
    assert points["final/metric/validation"] == [(0, 0.75)]
    assert run.Scalars("loss")[0].wall_time == 1770113742
    settings = run.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"learning_rate" in settings
    assert b"no norm" in settings


def test_nothing_is_added_twice(tmp_path):
    for _ in range(2):
        sink = TensorBoard(tmp_path)
        for made in (trial(1), trial(2), trial(1)):
            sink.put(made)
        sink.close()
    assert len(runs(tmp_path)) == 2
    assert all(len(run.Scalars("loss")) == 2 for run in runs(tmp_path).values())


def test_trials_without_a_result_are_left_out_and_hostile_names_stay_in_the_folder(tmp_path):
    sink = TensorBoard(tmp_path / "runs")
    sink.put(trial(status="killed", reason="it was killed"))
    assert runs(tmp_path / "runs") == {}
    made = nasty()
    sink.put(type(made)(made.record, "../../task\0 \ud800", "..", made.stored))
    ((path, run),) = runs(tmp_path / "runs").items()
    assert path.startswith("_.._task_ _/unnamed, rate 0.1, seed 7")
    assert [each.step for each in run.Scalars("metric/test")] == [0]
    assert [file.name for file in tmp_path.iterdir()] == ["runs"]


def test_a_trial_whose_writing_fails_leaves_no_run(tmp_path, monkeypatch):
    sink = TensorBoard(tmp_path)

    def failing(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sink, "_write", failing)
    with pytest.raises(ReportError, match="No space left on device; name another one"):
        sink.put(trial())
    assert [file for file in tmp_path.rglob("*") if file.is_file() or "tmp" in file.name] == []


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "runs").write_text("my thesis")
    with pytest.raises(ReportError, match="expected a folder for TensorBoard"):
        TensorBoard(tmp_path / "runs")
