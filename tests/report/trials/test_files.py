"""Files of trials: read back as they were, by what others read them with; the old file or the new one, whole."""

from __future__ import annotations

import csv
import math
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.report.trials.made import nasty, trial

from normsmith.errors import ReportError
from normsmith.report.trials.files import ROWS_AT_ONCE, check_table, write_table
from normsmith.report.trials.rows import TABLES, Rows

TRIALS = TABLES["trials"]
TYPES = {
    "text": pa.string(),
    "whole": pa.int64(),
    "number": pa.float64(),
    "time": pa.timestamp("us", tz="UTC"),
}


def test_csv_is_read_back(tmp_path):
    path = tmp_path / "trials.csv"
    assert write_table([trial(3), nasty()], TRIALS, path) == 2
    csv.field_size_limit(10_000_000)
    with path.open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert list(first) == list(TRIALS.columns)
    assert (first["arm"], first["numpy"], first["seed"]) == ("no norm", "", "3")
    assert float(first["loss"]) == 0.1 + 0.2
    assert datetime.fromisoformat(first["stored"]) == datetime(2026, 2, 3, 10, 15, 42, tzinfo=UTC)
    assert second["arm"] == "'@arm"
    assert second["reason"] == next(TRIALS.of(nasty()))[8].replace("=", "'=", 1)
    assert (second["loss"], second["validation"]) == ("inf", "-inf")


def test_parquet_is_read_back_with_its_types(tmp_path):
    path = tmp_path / "trials.parquet"
    assert write_table([trial(3), nasty()], TRIALS, path) == 2
    table = parquet.read_table(path)
    assert {field.name: field.type for field in table.schema} == {
        name: TYPES[kind] for name, kind in TRIALS.columns.items()
    }
    for made, row in zip((trial(3), nasty()), table.to_pylist(), strict=True):
        assert tuple(row.values()) == next(TRIALS.of(made))


def test_curves_and_probes_have_their_nan(tmp_path):
    write_table([trial()], TABLES["evaluations"], tmp_path / "curves.parquet")
    rows = parquet.read_table(tmp_path / "curves.parquet").to_pylist()
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert math.isnan(rows[0]["loss"])
    write_table([trial()], TABLES["probes"], tmp_path / "probes.csv")
    assert (tmp_path / "probes.csv").read_text(encoding="utf-8").splitlines()[1:] == [
        f"{trial().record.key},σ′,0,2,0.25",
        f"{trial().record.key},σ′,1,4,0.125",
    ]


def test_trials_are_read_as_they_are_written(tmp_path):
    read = []
    made = trial()

    def trials():
        for number in range(2 * ROWS_AT_ONCE + 1):
            read.append(number)
            yield made

    def counted(one):
        rows_waiting.append(len(read) - len(given))
        given.append(one)
        yield from TRIALS.of(one)

    given, rows_waiting = [], []
    assert write_table(trials(), Rows(TRIALS.columns, counted), tmp_path / "t.csv") == 2 * ROWS_AT_ONCE + 1
    assert max(rows_waiting) == 1
    write_table(trials(), TRIALS, tmp_path / "t.parquet")
    assert parquet.ParquetFile(tmp_path / "t.parquet").num_row_groups == 3


@pytest.mark.parametrize("name", ["trials.csv", "trials.parquet"])
def test_a_file_stays_unless_forced_and_where_writing_fails(tmp_path, name):
    path = tmp_path / name
    path.write_text("my thesis")
    with pytest.raises(ReportError, match="which exists; --force overwrites it"):
        write_table([trial()], TRIALS, path)

    def failing():
        yield trial()
        raise OSError("the store is gone")

    with pytest.raises(ReportError, match="the store is gone"):
        write_table(failing(), TRIALS, path, force=True)
    assert path.read_text() == "my thesis"
    assert [file.name for file in tmp_path.iterdir()] == [name]
    write_table([trial()], TRIALS, path, force=True)
    assert path.read_bytes() != b"my thesis"


def test_no_trials_are_a_table_without_rows(tmp_path):
    assert write_table([], TRIALS, tmp_path / "t.parquet") == 0
    assert parquet.read_table(tmp_path / "t.parquet").column_names == list(TRIALS.columns)


@pytest.mark.parametrize(
    ("path", "said"), [("trials.xlsx", "ends in .csv or .parquet"), ("no/such/trials.csv", "does not exist")]
)
def test_paths_that_cannot_be_are_refused(tmp_path, path, said):
    with pytest.raises(ReportError, match=said):
        check_table(tmp_path / path, force=False)
