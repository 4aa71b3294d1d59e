"""What can be asked: the warehouse's tables with their columns, and questions to try (``questions.yaml``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from nyc_tlc.warehouse.lookups import read_lookups
from nyc_tlc.warehouse.tables import list_views, month_tables


def describe_tables(schema: str) -> str:
    """Return the tables with their columns as Markdown, and the names of the views' columns, which are the tables'."""
    tables = (*month_tables(), *(lookup.table for lookup in read_lookups()))
    parts = list[str]()
    for table in tables:
        base = next((each for each in tables if set(each.fields) < set(table.fields)), None)
        lines = [f"* all columns of {base.name}"] if base else []
        own = (field for field in table.fields if not base or field not in base.fields)
        lines += [f"* {field.name} ({field.type}): {field.description}" for field in own]
        parts.append("\n".join([f"## {schema}.{table.name}", f"{table.description}.", *lines]))
    for view in list_views(schema):
        parts.append(f"## {schema}.{view.name}\n{view.description}.\n* {', '.join(view.columns)}")
    return "\n\n".join(parts)


def describe_questions(schema: str) -> str:
    """Return the questions to try, with their SQL, as Markdown."""
    return "\n\n".join(f"## {each['question']}\n\n```sql\n{each['sql']}```" for each in list_questions(schema))


def list_questions(schema: str) -> list[dict[str, Any]]:
    """Return the questions to try: ``question`` and ``sql``, which names the tables of a schema."""
    text = (Path(__file__).parent / "questions.yaml").read_text(encoding="utf-8")
    return list(yaml.safe_load(text.replace("{schema}", schema)))
