"""What can be asked: the warehouse's tables with their columns, and questions to try (``questions.yaml``)."""

from __future__ import annotations

from pathlib import Path

import yaml

from nyc_tlc.warehouse.lookups import read_lookups
from nyc_tlc.warehouse.tables import LOADS, SCHEMA, Table, list_views, month_tables, trip_tables

Columns = tuple[tuple[str, str], ...]

#: The columns of views that no table has.
OF_VIEWS = {
    "color": "string: The colour, yellow or green",
    "is_quarantined": "boolean: Whether the row was rejected",
    **{
        f"{end}_{name}": f"string: The {name} of the {end} location"
        for end in ("pickup", "dropoff")
        for name in ("borough", "zone")
    },
}


def describe_tables() -> str:
    """Return the tables and views with their columns as Markdown. Columns of an earlier table are named by it."""
    own = [each for each in month_tables() if each != LOADS]
    tables = [(each.name, each.description, _describe_columns(each)) for each in own]
    loads = (LOADS.name, LOADS.description, _describe_columns(LOADS))
    known = {name: about for _, _, columns in (loads, *reversed(tables)) for name, about in columns} | OF_VIEWS
    for view in list_views(trip_tables()):
        tables.append((view.name, view.description, tuple((name, known[name]) for name in view.columns)))
    tables.append(loads)
    tables += [(each.table.name, each.table.description, _describe_columns(each.table)) for each in read_lookups()]
    parts, earlier = list[str](), dict[str, Columns]()
    for table, about_table, columns in tables:
        bases = [name for name, theirs in earlier.items() if dict(theirs).keys() <= dict(columns).keys()]
        base = max(bases, key=lambda name: len(earlier[name]), default="")
        lines = [f"* all columns of {base}"] if base else []
        lines += [f"* {name} {about}" for name, about in columns if name not in dict(earlier.get(base, ()))]
        parts.append("\n".join([f"## {SCHEMA}.{table}", f"{about_table}.", *lines]))
        earlier[table] = columns
    return "\n\n".join(parts)


def _describe_columns(table: Table) -> Columns:
    return tuple((field.name, f"{field.type}: {field.description}") for field in table.fields)


def list_questions() -> list[dict[str, str]]:
    """Return the questions to try: ``question`` and ``sql``."""
    found: list[dict[str, str]] = yaml.safe_load((Path(__file__).parent / "questions.yaml").read_text(encoding="utf-8"))
    return found


def describe_questions() -> str:
    """Return the questions to try as Markdown."""
    return "\n\n".join(f"## {each['question']}\n\n```sql\n{each['sql']}```" for each in list_questions())
