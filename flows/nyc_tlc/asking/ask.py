"""Ask a profile's warehouse with one SELECT, or show what can be asked."""

from __future__ import annotations

import nyc_tlc.runs.script  # noqa: F401

import csv
import io
import sys
from decimal import Decimal
from typing import Annotated, Any

import pydantic_core
from cyclopts import Parameter

from nyc_tlc.asking import door
from nyc_tlc.asking.describe import describe_questions, describe_tables
from nyc_tlc.errors import ArgumentError
from nyc_tlc.profiles.opening import LOCAL, find_schema, list_warehouses
from nyc_tlc.runs.command_line import find_server
from nyc_tlc.runs.options import Profile
from nyc_tlc.settings import read_settings
from nyc_tlc.shown import shown
from nyc_tlc.text_tables import format_table
from nyc_tlc.warehouse.protocol import Kind


def ask(
    query: str | None = None,
    /,
    *,
    as_csv: Annotated[bool, Parameter("--csv", negative="")] = False,
    as_json: Annotated[bool, Parameter("--json", negative="")] = False,
    warehouse: Kind | None = None,
    profile: Profile = None,
) -> int:
    """Run one SELECT over the warehouse. Without one: show the tables, their columns, and five questions to try.

    Nothing can be changed. An answer has at most 1,000 rows, and a query has 30 seconds.

    Args:
        query: The SELECT, as one argument in quotes. Tables are named with their schema: ny_taxi.loads (TLC_SCHEMA).
        as_csv: Print the answer as CSV.
        as_json: Print the answer as a list of JSON objects.
        warehouse: Which warehouse of the profile; the first if left out.
    """
    if as_csv and as_json:
        raise ArgumentError("an answer is CSV or JSON", fix="leave out --csv or --json")
    profile, kind = choose(profile, warehouse)
    if query is None:
        schema = find_schema(profile)
        sys.stdout.write(f"{describe_tables(schema)}\n\n# Questions to try\n\n{describe_questions(schema)}\n")
        return 0
    answer = door.ask(query, profile, kind)
    write = format_csv if as_csv else format_json if as_json else format_lines
    sys.stdout.write(write(answer))
    if answer.is_cut:
        sys.stderr.write(f"only the first {len(answer.rows):,} rows are shown: ask for sums, or add LIMIT\n")
    return 0


def choose(profile: str | None, warehouse: Kind | None) -> tuple[str, Kind]:
    """Return the profile and its warehouse to ask. Blocks are in a Prefect server, which is started if none is set."""
    profile = profile or read_settings().profile
    if profile != LOCAL:
        find_server()
    return profile, warehouse or list_warehouses(profile)[0]


def to_json(value: Any) -> str:
    """Return a value as JSON. Numbers that JSON does not have are null; dates and decimals are texts."""
    return pydantic_core.to_json(value, inf_nan_mode="null", bytes_mode="base64", fallback=str).decode()


def format_json(answer: door.Answer) -> str:
    """Return an answer as a list of JSON objects, one a line."""
    rows = (to_json(dict(zip(answer.columns, row, strict=True))) for row in answer.rows)
    return "[" + ",\n ".join(rows) + "]\n"


def format_csv(answer: door.Answer) -> str:
    """Return an answer as CSV; null is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([answer.columns, *answer.rows])
    return text.getvalue()


def format_lines(answer: door.Answer) -> str:
    """Return an answer as a table for a terminal."""
    columns = [shown(name) for name in answer.columns]
    first = answer.rows[0] if answer.rows else ()
    numbers = {name for name, cell in zip(columns, first, strict=False) if isinstance(cell, int | float | Decimal)}
    rows = [["" if cell is None else shown(str(cell)) for cell in row] for row in answer.rows]
    return "\n".join(format_table(columns, rows, right=numbers, pad=True)) + "\n"
