"""`normsmith compare`: two stores, their trials and their verdicts."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from normsmith.cli.output import write_out
from normsmith.cli.stores import StoreName, check_filled, existing_store
from normsmith.errors import StoreError
from normsmith.report.comparison import comparison_to_json, comparison_to_text
from normsmith.studies.comparison import compare_stores


class Format(StrEnum):
    """How a comparison is written."""

    TEXT = "text"
    JSON = "json"


def compare(
    first: StoreName,
    second: StoreName,
    form: Annotated[Format, typer.Option("--format", help="Standard output.")] = Format.TEXT,
) -> None:
    """Compare two stores: trials that both have, trials that other versions computed, and verdicts side by side.

    Exit code 0: they agree; 1: a verdict contradicts another, a trial has other results under the same key, or they
    have nothing in common; 2: wrong usage, or one of them is no store.
    """
    with existing_store(first) as one, existing_store(second) as two:
        if one.is_same(two):
            raise StoreError(f"expected two stores to compare, got {one.url} twice; name another one")
        check_filled(one)
        check_filled(two)
        comparison = compare_stores(one, two)
    text = comparison_to_json(comparison) if form is Format.JSON else comparison_to_text(comparison)
    write_out(f"{text}\n")
    if comparison.is_empty or not comparison.agree:
        raise typer.Exit(1)
