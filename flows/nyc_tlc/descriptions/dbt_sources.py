"""What dbt's models know from the contracts: the tables that they read, and which values are plausible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from nyc_tlc.contract.dataset import plausible_ranges, read_contract
from nyc_tlc.month import COLORS
from nyc_tlc.settings import DEFAULT_SCHEMA
from nyc_tlc.warehouse.lookups import read_lookups
from nyc_tlc.warehouse.tables import LOADS, Table, quarantine_table, trip_table

#: Columns that the models call otherwise, that no model has, and those of all colours.
RENAMED = {"rate_code": "rate_code_id"}
LEFT_OUT = (
    *(f"{end}_{axis}" for end in ("pickup", "dropoff") for axis in ("longitude", "latitude")),
    *("access_a_ride_flag", "wav_request_flag", "wav_match_flag"),
)
COMMON = ("file_month", "pickup_datetime", "dropoff_datetime", "pickup_location_id")
MEASURED = {
    "trip_distance": "Distance (miles); null for fhv",
    "total_amount": "What the passenger paid, all fees and the recorded tip included (USD); null for fhv",
    "payment_type": "How the passenger paid; taxis only",
}
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


def describe_models() -> str:
    """Return the text of ``dbt/models/described.yml``: the columns of the models that only pass trips on."""
    of = {color: trip_table(read_contract(color)).comments for color in COLORS}
    color = {"color": "The colour"}
    taxi = color | {RENAMED.get(name, name): text for name, text in (of["yellow"] | of["green"]).items()}
    common = {name: of["fhv"][name] for name in COMMON}
    models = {
        "stg_yellow_tripdata": ("Clean trips of yellow taxis", taxi),
        "stg_green_tripdata": ("Clean trips of green taxis", taxi),
        "stg_fhv_tripdata": ("Clean trips of for-hire vehicles", color | of["fhv"]),
        "stg_fhvhv_tripdata": (
            "Clean trips of high-volume for-hire vehicles",
            color | {name: text for name, text in of["fhvhv"].items() if name != "sr_flag"},
        ),
        "int_trips_unioned": ("Clean trips of yellow and green taxis", {"service_type": "Yellow or Green"} | taxi),
        "int_all_trips": ("What the clean trips of all four colours have in common", color | common | MEASURED),
    }
    described = [
        {
            "name": model,
            "description": text,
            "columns": _columns({name: holds for name, holds in columns.items() if name not in LEFT_OUT}),
        }
        for model, (text, columns) in models.items()
    ]
    return _write_yaml({"version": 2, "models": described})


#: A catch-up loads new months each month; a month is published some two months after its end.
FRESHNESS = {
    "loaded_at_field": "loaded_at",
    "freshness": {"warn_after": {"count": 45, "period": "day"}, "error_after": {"count": 75, "period": "day"}},
}


def describe_sources() -> str:
    """Return the text of ``dbt/models/staging/sources.yml``."""
    contracts = [read_contract(color) for color in COLORS]
    tables = [
        *map(trip_table, contracts),
        *map(quarantine_table, contracts),
        *(lookup.table for lookup in read_lookups()),
        LOADS,
    ]
    described = [_describe(table) for table in tables]
    described[-1]["config"] = FRESHNESS
    schema = f"{{{{ env_var('TLC_SCHEMA', '{DEFAULT_SCHEMA}') }}}}"
    return _write_yaml({"version": 2, "sources": [{"name": DEFAULT_SCHEMA, "schema": schema, "tables": described}]})


def _describe(table: Table) -> dict[str, Any]:
    return {"name": table.name, "description": table.description, "columns": _columns(table.comments)}


def _columns(comments: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "description": text} for name, text in comments.items()]


def _write_yaml(content: object) -> str:
    return f"# {WRITTEN}\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=116)}"
