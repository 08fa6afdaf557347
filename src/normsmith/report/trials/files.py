"""Tables of stored trials as files: CSV, and Parquet with the extra `parquet`; written whole or not at all."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from normsmith._choices import did_you_mean
from normsmith._extras import imports_of_extra
from normsmith._files import Failure, replacing
from normsmith.errors import ReportError
from normsmith.report.data import inert
from normsmith.report.trials.rows import Row, Rows, Value
from normsmith.report.write import check_writable
from normsmith.studies.named_trials import NamedTrial

ROWS_AT_ONCE = 1000
"""So many rows are a group of a Parquet file, and in memory at once."""

Write = Callable[[Rows, Iterator[Row], Path], int]


def check_table(path: str | os.PathLike[str], *, force: bool) -> None:
    """Refuse a path at which no table can be written, before anything is read for it.

    Raises:
        ReportError: another ending than `.csv` or `.parquet`, a folder that is not there, or a file that is and
            `force` is not given.
        MissingExtraError: it is a Parquet file, and the extra is not installed.
    """
    target = Path(path)
    ending = target.suffix.lower()
    if ending not in _WRITERS:
        hint = did_you_mean(ending, _WRITERS)
        raise ReportError(f"expected a file name that ends in {' or '.join(_WRITERS)}, got {target}{hint}")
    if ending == ".parquet":
        with imports_of_extra("parquet", "a Parquet file"):
            import pyarrow  # noqa: F401
    check_writable(target, "table", ending)
    if target.exists() and not force:
        raise ReportError(
            f"expected the path of a new file, got {target}, which exists; --force overwrites it"
        )


def write_table(
    trials: Iterable[NamedTrial], table: Rows, path: str | os.PathLike[str], *, force: bool = False
) -> int:
    """Write the rows of trials, as they are read, to a `.csv` or `.parquet` file; returns how many there are.

    CSV has a header; what was not measured is empty, NaN and infinities are `nan`, `inf` and `-inf`, times are in
    ISO 8601, and text that a spreadsheet would run as a formula is preceded by an apostrophe. Parquet has 64-bit
    integers and floats, UTF-8 text, times in UTC, and null for what was not measured.

    Raises:
        ReportError, MissingExtraError: as `check_table`, or the disk is full: what was at `path` is as it was.
    """
    check_table(path, force=force)
    rows = (row for trial in trials for row in table.of(trial))
    with replacing(path, _failure(path)) as temporary:
        return _WRITERS[Path(path).suffix.lower()](table, rows, temporary)


def _to_csv(table: Rows, rows: Iterator[Row], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
        writer.writerow(table.columns)
        for row in rows:
            writer.writerow(map(_cell, row))
            count += 1
    return count


def _cell(value: Value) -> str | int:
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return "" if value is None else inert(value) if isinstance(value, str) else value


def _to_parquet(table: Rows, rows: Iterator[Row], path: Path) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    types: dict[str, Any] = {
        "text": pa.string(),
        "whole": pa.int64(),
        "number": pa.float64(),
        "time": pa.timestamp("us", tz="UTC"),
    }
    schema = pa.schema([(name, types[kind]) for name, kind in table.columns.items()])
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        while some := list(islice(rows, ROWS_AT_ONCE)):
            columns = zip(*some, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            count += len(some)
    return count


_WRITERS: dict[str, Write] = {".csv": _to_csv, ".parquet": _to_parquet}


def _failure(path: str | os.PathLike[str]) -> Failure:
    return lambda reason: ReportError(
        f"expected to write the table at {os.fspath(path)}, got {reason}; name another path"
    )
