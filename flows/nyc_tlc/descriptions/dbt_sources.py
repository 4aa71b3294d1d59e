"""dbt's description of the tables its models read, written from the contracts: ``dbt/models/staging/sources.yml``."""

from __future__ import annotations

from typing import Any

import yaml

from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.month import COLORS
from nyc_tlc.warehouse.lookups import read_lookups
from nyc_tlc.warehouse.tables import LOADS, SCHEMA, Table, quarantine_table, trip_table

HEADER = "# Written by `make docs` from flows/nyc_tlc/contract/; change the contracts, not this file.\n"

#: A catch-up loads new months each month; a month is published some two months after its end.
FRESHNESS = {
    "loaded_at_field": "loaded_at",
    "freshness": {"warn_after": {"count": 45, "period": "day"}, "error_after": {"count": 75, "period": "day"}},
}


def describe_sources() -> str:
    """Return the file's text."""
    contracts = [read_contract(color) for color in COLORS]
    tables = [
        *map(trip_table, contracts),
        *map(quarantine_table, contracts),
        *(lookup.table for lookup in read_lookups()),
        LOADS,
    ]
    described = [_describe(table) for table in tables]
    described[-1]["config"] = FRESHNESS
    source = {"name": SCHEMA, "schema": SCHEMA, "tables": described}
    text = yaml.safe_dump({"version": 2, "sources": [source]}, sort_keys=False, allow_unicode=True, width=116)
    return HEADER + text


def _describe(table: Table) -> dict[str, Any]:
    columns = [{"name": field.name, "description": field.description} for field in table.fields]
    return {"name": table.name, "description": table.description, "columns": columns}
