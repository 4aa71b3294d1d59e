"""The table ``loads`` in DuckDB and Postgres: the same SQL for both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nyc_tlc.month import Color, Month
from nyc_tlc.warehouse.protocol import Load
from nyc_tlc.warehouse.tables import LOADS, SCHEMA

#: Runs a statement with a ``?`` for each value, in the caller's transaction; returns the rows of a SELECT.
Execute = Callable[[str, Sequence[object]], list[tuple[Any, ...]]]


def read_loads(execute: Execute) -> dict[tuple[Color, Month], Load]:
    """Return all loads."""
    rows = execute(f"SELECT {', '.join(LOADS.names)} FROM {SCHEMA}.{LOADS.name}", [])
    return {(load.color, load.month): load for load in map(Load.from_row, rows)}


def write_load(execute: Execute, load: Load) -> None:
    """Replace a month's row of ``loads``."""
    row = load.to_row()
    execute(f"DELETE FROM {SCHEMA}.{LOADS.name} WHERE color = ? AND file_month = ?", row[:2])
    names, marks = ", ".join(LOADS.names), ", ".join("?" * len(row))
    execute(f"INSERT INTO {SCHEMA}.{LOADS.name} ({names}) VALUES ({marks})", row)
