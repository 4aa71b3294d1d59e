"""The table ``loads`` in DuckDB and Postgres: the same SQL for both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from nyc_tlc.month import Color, Month
from nyc_tlc.warehouse.protocol import Load
from nyc_tlc.warehouse.tables import LOADS, SCHEMA, renamed_fields

#: Runs a statement with a ``?`` for each value, in the caller's transaction; returns the rows of a SELECT.
Execute = Callable[[str, Sequence[object]], list[tuple[Any, ...]]]


def read_loads(execute: Execute, columns: Collection[str]) -> dict[tuple[Color, Month], Load]:
    """Return all loads.

    Args:
        execute: Runs a statement.
        columns: The columns that the table has. An old table lacks some, and has another name for one.
    """
    old_names = {name: old for old, name in renamed_fields(LOADS, columns).items()}
    there = {name: old_names.get(name, name) for name in LOADS.names}
    names = ", ".join(f'"{there[name]}"' if there[name] in columns else "NULL" for name in LOADS.names)
    loads = map(Load.from_row, execute(f"SELECT {names} FROM {SCHEMA}.{LOADS.name}", []))
    return {(load.color, load.month): load for load in loads}


def write_load(execute: Execute, load: Load) -> None:
    """Replace a month's row of ``loads``."""
    row = load.to_row()
    execute(f"DELETE FROM {SCHEMA}.{LOADS.name} WHERE color = ? AND file_month = ?", row[:2])
    names, marks = ", ".join(LOADS.names), ", ".join("?" * len(row))
    execute(f"INSERT INTO {SCHEMA}.{LOADS.name} ({names}) VALUES ({marks})", row)
