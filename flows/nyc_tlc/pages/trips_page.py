"""Write a page about each colour's trips: the months' summaries, and the script that draws them.

The numbers of all months are in the page, those of the newest ZONE_MONTHS by zone too. Whoever reads it chooses months
and a zone, and the script adds the numbers up. Beside each chart is the SQL that gives its figures in a warehouse.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import date
from functools import partial
from typing import Any

import polars as pl

from nyc_tlc.contract.dataset import code_tables, read_contract
from nyc_tlc.contract.zone_shapes import read_zone_paths
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Color, Month
from nyc_tlc.pages.figures import HISTOGRAMS, ZONE, figures_of, keys_of, select_sums, select_values
from nyc_tlc.pages.rendering import to_json, trips_page, write_page
from nyc_tlc.pages.summary import SUMS, read_summaries
from nyc_tlc.settings import DEFAULT_SCHEMA
from nyc_tlc.warehouse.lookups import read_lookups

#: The number of newest months whose distributions the page has by zone; those of all would make it too large to mail.
ZONE_MONTHS = 12
CODE_TABLES = {"payment": "payment_types", "rate": "rate_codes"}


def write_trips_page(lake: Lake, color: Color, schema: str = DEFAULT_SCHEMA) -> str | None:
    """Write a colour's page into the lake; its queries are for tables in a schema.

    Return the page's address, for people; None when the lake has no month of the colour.
    """
    manifests = lake.read_all_manifests([color])
    if not manifests:
        return None
    by_zone = {each.month for each in manifests[-ZONE_MONTHS:]}
    summaries = read_summaries(lake, manifests, partial(_reduce, by_zone=by_zone))
    keys = _list_keys(color, summaries)
    data = {
        "color": color,
        "figures": {name: figure.title for name, figure in figures_of(color).items()},
        "keys": keys,
        "histograms": {
            part: {"title": each.title, "unit": each.unit, "width": each.width}
            for part, each in HISTOGRAMS.items()
            if part in keys
        },
        "codes": _list_codes(keys),
        "zones": _list_zones(),
        "shapes": read_zone_paths(),
        "by_zone": sorted(by_zone),
        "months": {
            each.month: _describe_month(each, table, keys) for each, table in zip(manifests, summaries, strict=True)
        },
    }
    packed = gzip.compress(json.dumps(data, separators=(",", ":")).encode(), mtime=0)
    return write_page(
        lake,
        trips_page(color),
        "trips.html",
        read_contract(color).title,
        manifests,
        about=read_contract(color).about,
        histograms=data["histograms"],
        codes={part: code_tables()[table].title for part, table in CODE_TABLES.items() if part in keys},
        figures=figures_of(color),
        queries=to_json(chart_queries(color, schema)),
        data=base64.b64encode(packed).decode(),
    )


def chart_queries(color: Color, schema: str) -> dict[str, str]:
    """Return part -> the SQL that gives its figures. ``{where}`` stands for the months and the zone that are chosen."""
    trips = f"{schema}.{color}_trip_data"

    def sums(key: str, name: str) -> str:
        return (
            f"SELECT {name}, count(*) AS trips,\n    {select_sums(color)}\n"
            f"FROM (\n    SELECT {key} AS {name}, {select_values(color)}\n    FROM {trips}\n    WHERE {{where}}\n"
            f") AS trip\nGROUP BY {name}\nORDER BY {name};"
        )

    queries = {
        part: f"SELECT {key} AS {part}, count(*) AS trips\nFROM {trips}\nWHERE {{where}}\nGROUP BY 1\nORDER BY 1;"
        for part, (key, _) in keys_of(color).items()
    }
    queries["day"] = queries["day"].replace(
        "{where}",
        "{where}\n    AND pickup_datetime >= file_month AND pickup_datetime < file_month + INTERVAL '1 month'",
    )
    return queries | {"month": sums("file_month", "file_month"), "zone": sums(ZONE, "zone")}


def _reduce(manifest: Manifest, table: pl.DataFrame, by_zone: Iterable[str]) -> pl.DataFrame:
    """Return the counts of trips; of a month that is not shown by zone, the distributions of all zones together."""
    table = table.filter(~pl.col("part").is_in(["rejected", "warned", "example"]))
    if manifest.month in by_zone:
        return table
    is_zone = pl.col("part") == "zone"
    rest = table.filter(~is_zone).group_by("part", "key", maintain_order=True).agg(pl.col("trips").sum())
    return pl.concat([table.filter(is_zone), rest], how="diagonal")


def _list_keys(color: Color, summaries: Iterable[pl.DataFrame]) -> dict[str, list[str]]:
    """Return part -> its keys in the order of its chart."""
    keys = {"hour": [f"{day} {hour:02d}" for day in range(1, 8) for hour in range(24)]}
    keys |= {part: [*each.labels, "unknown"] for part, each in HISTOGRAMS.items() if part in keys_of(color)}
    for part in [part for part in CODE_TABLES if part in keys_of(color)]:
        keys[part] = sorted({key for table in summaries for key in table.filter(pl.col("part") == part)["key"]})
    return keys


def _describe_month(manifest: Manifest, table: pl.DataFrame, keys: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return a month's numbers for the page's script.

    ``days`` are the trips of each day of the month, ``spill`` those of other days. ``zones`` has for each zone its
    trips and the columns of its figures, ``dropoffs`` its drop-offs. ``parts`` has for each part and zone (0 for all)
    a flat list of positions in ``keys`` and trips.
    """
    places = {part: {key: place for place, key in enumerate(each)} for part, each in keys.items()}
    month = Month.parse(manifest.month)
    days, spill = [0] * (month.end - month.start).days, 0
    zones: dict[int, list[float]] = {}
    dropoffs: dict[str, int] = {}
    parts: defaultdict[str, defaultdict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    sums = [name for name in SUMS if name.partition("_")[0] in figures_of(manifest.color)]
    for part, zone, key, trips, *values in table.select("part", "zone", "key", "trips", *sums).iter_rows():
        if part == "zone":
            zones[zone] = [trips, *(round(value or 0, 2) for value in values)]
        elif part == "dropoff":
            dropoffs["0" if key == "unknown" else key] = trips
        elif part == "day":
            day = date.fromisoformat(key)
            if day.replace(day=1) == month.first_day:
                days[day.day - 1] = trips
            else:
                spill += trips
        else:
            parts[part][zone or 0] += [places[part][key], trips]
    return {"days": days, "spill": spill, "zones": zones, "dropoffs": dropoffs, "parts": parts}


def _list_codes(keys: Mapping[str, list[str]]) -> dict[str, dict[str, str]]:
    """Return part -> code -> its meaning."""
    codes = {}
    for part in [part for part in CODE_TABLES if part in keys]:
        known = {str(code): entry.name for code, entry in code_tables()[CODE_TABLES[part]].codes.items()}
        known["unknown"] = "Not given"
        codes[part] = {key: known.get(key, "Not in TLC's data dictionary") for key in keys[part]}
    return codes


def _list_zones() -> dict[int, tuple[str, str]]:
    """Return location id -> the zone's name and borough."""
    (zones,) = (lookup.rows for lookup in read_lookups() if lookup.table.name == "zones")
    return {row["location_id"]: (row["zone"], row["borough"]) for row in zones.to_pylist()}
