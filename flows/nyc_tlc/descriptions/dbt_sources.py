"""What dbt's models know from the contracts: the tables that they read, and which values are plausible."""

from __future__ import annotations

from typing import Any

import yaml

from nyc_tlc.contract.dataset import plausible_ranges, read_contract
from nyc_tlc.month import COLORS
from nyc_tlc.warehouse.lookups import read_lookups
from nyc_tlc.warehouse.tables import LOADS, SCHEMA, Table, quarantine_table, trip_table

WRITTEN = "Written by `make docs` from flows/nyc_tlc/contract/; change the contracts, not this file."


def describe_plausible() -> str:
    """Return the text of ``dbt/macros/plausible.sql``."""
    ranges = "".join(f"        '{name}': [{each.min:g}, {each.max:g}],\n" for name, each in plausible_ranges().items())
    return f"""\
{{# {WRITTEN} #}}

{{# Whether a sum or an average can bear a value; the name says what it is. #}}
{{% macro plausible(name, value) -%}}
    {{%- set ranges = {{
{ranges}    }} -%}}
    {{{{ value }}}} between {{{{ ranges[name][0] }}}} and {{{{ ranges[name][1] }}}}
{{%- endmacro %}}
"""


def describe_sources() -> str:
    """Return the text of ``dbt/models/staging/sources.yml``."""
    contracts = [read_contract(color) for color in COLORS]
    tables = [
        *map(trip_table, contracts),
        *map(quarantine_table, contracts),
        *(lookup.table for lookup in read_lookups()),
        LOADS,
    ]
    source = {"name": SCHEMA, "schema": SCHEMA, "tables": [_describe(table) for table in tables]}
    text = yaml.safe_dump({"version": 2, "sources": [source]}, sort_keys=False, allow_unicode=True, width=116)
    return f"# {WRITTEN}\n{text}"


def _describe(table: Table) -> dict[str, Any]:
    columns = [{"name": field.name, "description": field.description} for field in table.fields]
    return {"name": table.name, "description": table.description, "columns": columns}
