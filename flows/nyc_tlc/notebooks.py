"""The functions for notebooks: ``from nyc_tlc import trips, plausible, zones, codes, months``.

DuckDB passes the filter and the columns to the Parquet reader, so only the footers and the needed row groups and
columns are read from a bucket. The profile ``local`` works without Prefect; any other profile is a set of Prefect
blocks and needs a Prefect server.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, Literal, get_args, overload

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds

from nyc_tlc.contract.dataset import plausible_ranges, read_contract
from nyc_tlc.contract.zone_shapes import read_polygons, read_zone_paths
from nyc_tlc.errors import ArgumentError, LakeError
from nyc_tlc.lake.history import find_version
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import PARALLEL_READS, Lake
from nyc_tlc.month import COLORS, Color, Month
from nyc_tlc.pages.coverage import describe_generated, read_coverage
from nyc_tlc.profiles.opening import choose_warehouses, open_lake, open_warehouse
from nyc_tlc.settings import read_settings
from nyc_tlc.warehouse.lookups import read_lookups
from nyc_tlc.warehouse.protocol import Kind

log = logging.getLogger(__name__)

Shape = Literal["pandas", "arrow", "polars", "batches"]

#: Rows of a batch: what a notebook that reads batch by batch holds at once.
NOTEBOOK_BATCH_ROWS = 1 << 17


def trips(
    color: Color,
    start: str | date,
    end: str | date | None = None,
    *,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    missing: Literal["error", "skip"] = "error",
    as_of: str | date | None = None,
    profile: str | None = None,
    as_: Shape = "pandas",
) -> Any:
    """Read the clean trips of some months or days from the lake, in the order of months and source rows.

    Months are those of the files; a file has some trips of the days before and after its month. Days are those of the
    pick-up, whatever file has the trip. A log line names months that are this project's sample.

    Args:
        color: ``yellow``, ``green``, ``fhv`` or ``fhvhv``.
        start: The first month, ``2023-01``, or day, ``2023-01-15``.
        end: The last month or day; the first if left out.
        columns: The columns wanted; all if left out. Only these are read.
        where: Which trips, as SQL: ``trip_distance > 10 AND payment_type = 1``.
        missing: ``skip`` leaves out months that are not in the lake.
        as_of: The months as they were at the end of a day, ``2024-06-01``, or at a time, in UTC.
        profile: Where the lake is; TLC_PROFILE or local if left out.
        as_: ``pandas`` (with Arrow types), ``arrow``, ``polars``, or ``batches``: an iterator of Arrow batches, for
            what does not fit into memory.

    Returns:
        A ``pandas.DataFrame``, a ``pyarrow.Table``, a ``polars.DataFrame`` or an iterator of ``pyarrow.RecordBatch``.

    Raises:
        ArgumentError: for an unknown colour, month or column, or an expression that is not valid SQL.
        LakeError: when a month is not in the lake, it names the command that fetches it, or not as it was then.
    """
    if as_ not in get_args(Shape):
        raise ArgumentError(f"as_ can't be {as_!r}", expected=", ".join(get_args(Shape)))
    if color not in COLORS:
        raise ArgumentError(f"there is no colour {color!r}", expected=", ".join(COLORS))
    profile = profile or read_settings().profile
    schema, lake = read_contract(color).clean_schema, open_lake(profile)
    if unknown := [name for name in columns or () if name not in schema.names]:
        raise ArgumentError(f"{color} trips have no column {', '.join(unknown)}", expected=", ".join(schema.names))
    wanted = pa.schema([schema.field(name) for name in columns]) if columns else schema
    first, last, days = _read_span(start, end)
    manifests = _manifests(lake, color, first, last, profile, as_of, missing == "skip")
    if days:
        near = [find_version(lake, Keys(color, month), as_of) for month in (first.plus(-1), last.plus(1))]
        manifests = [each for each in (near[0], *manifests, near[1]) if each]
    if generated := describe_generated(manifests):
        log.warning(generated)
    batches = _read(lake, manifests, schema, wanted, [each for each in (days, where) if each])
    if as_ == "batches":
        return batches
    table = pa.Table.from_batches(batches, schema=wanted)
    if as_ == "polars":
        return pl.from_arrow(table)
    return table if as_ == "arrow" else table.to_pandas(types_mapper=pd.ArrowDtype)


def plausible(values: pd.Series, name: str | None = None) -> pd.Series:
    """Return a column without the values that a sum or an average can't bear: these are missing.

    Args:
        values: A column of trips, or ``trip_duration_minutes`` or ``trip_speed_mph`` computed from some.
        name: What it is; the column's name if left out.

    Raises:
        ArgumentError: when the contract has no plausible values of that name.
    """
    ranges = plausible_ranges()
    if (name := name or str(values.name)) not in ranges:
        raise ArgumentError(f"there are no plausible values of {name}", expected=", ".join(ranges))
    return values.where(values.between(ranges[name].min, ranges[name].max))


@overload
def zones(*, shapes: Literal[False] = False) -> pd.DataFrame: ...
@overload
def zones(*, shapes: Literal[True]) -> dict[str, Any]: ...
def zones(*, shapes: bool = False) -> pd.DataFrame | dict[str, Any]:
    """Return TLC's taxi zones: ``location_id``, ``borough``, ``zone``, ``service_zone``. Join on a location id.

    Args:
        shapes: Return them as GeoJSON: simplified shapes, whose id is the location id.
    """
    table = codes("zones")
    if not shapes:
        return table
    names = {row["location_id"]: row for row in table.to_dict("records")}
    features = [
        {
            "type": "Feature",
            "id": zone,
            "properties": names[zone],
            "geometry": {"type": "MultiPolygon", "coordinates": read_polygons(path)},
        }
        for zone, path in read_zone_paths().items()
    ]
    return {"type": "FeatureCollection", "features": features}


def codes(table: str) -> pd.DataFrame:
    """Return a code table: what the codes of a column mean.

    Args:
        table: ``vendors``, ``rate_codes``, ``payment_types``, ``trip_types``, ``hvfhs_licenses`` or ``zones``.

    Raises:
        ArgumentError: for another name.
    """
    tables = {lookup.table.name: lookup.rows for lookup in read_lookups()}
    if table not in tables:
        raise ArgumentError(f"there is no code table {table!r}", expected=", ".join(tables))
    return tables[table].to_pandas(types_mapper=pd.ArrowDtype)


def months(
    color: Color | None = None,
    *,
    as_of: str | date | None = None,
    warehouses: Sequence[Kind] | None = None,
    profile: str | None = None,
) -> pd.DataFrame:
    """Return all known months: one row per colour and month, with its source, its file and its loads.

    Args:
        color: One colour; all if left out.
        as_of: The months as they were at the end of a day, ``2024-06-01``, or at a time, in UTC.
        warehouses: The warehouses to ask, a column each; all that the profile has if left out.
        profile: Where the lake is; TLC_PROFILE or local if left out.

    Raises:
        ConfigurationError: when the profile can't be used.
        LakeError: when a month as it was then is not kept.
    """
    profile, kinds = choose_warehouses(profile, warehouses)
    lake = open_lake(profile)
    loads = {kind: open_warehouse(profile, kind).loads() for kind in kinds}
    found = read_coverage(lake, loads, colors=COLORS if color is None else (color,))
    if as_of:
        with ThreadPoolExecutor(PARALLEL_READS) as pool:
            then = pool.map(lambda each: find_version(lake, Keys(each.color, each.month), as_of), found)
            found = [replace(each, manifest=manifest) for each, manifest in zip(found, then, strict=True) if manifest]
    rows = [
        {
            "color": each.color,
            "month": str(each.month),
            "rows": each.manifest.clean.rows if each.manifest else None,
            "rejected_share": each.manifest.rejected_share if each.manifest else None,
            "source": each.source or None,
            "made_at": each.manifest.finished_at if each.manifest else None,
            "lake": lake.url(each.manifest.clean.key) if each.manifest else None,
            **{kind: each.describe_load(kind) or None for kind in loads},
        }
        for each in found
    ]
    schema: dict[str, Any] = {
        "color": pl.String,
        "month": pl.String,
        "rows": pl.Int64,
        "rejected_share": pl.Float64,
        "source": pl.String,
        "made_at": pl.Datetime(time_zone="UTC"),
        "lake": pl.String,
        **dict.fromkeys(map(str, loads), pl.String),
    }
    return pl.DataFrame(rows, schema=schema).to_arrow().to_pandas(types_mapper=pd.ArrowDtype)


def _read_span(start: str | date, end: str | date | None) -> tuple[Month, Month, str]:
    """Return the first and the last month asked for, and the SQL of the days if days are.

    Raises:
        ArgumentError: when they are neither months nor days, or the end is before the start.
    """
    first, last = str(start), str(end or start)
    try:
        from_day = date.fromisoformat(first) if len(first) > 7 else Month.parse(first).first_day
        to_day = date.fromisoformat(last) if len(last) > 7 else Month.parse(last).end.date() - timedelta(days=1)
    except ValueError:
        raise ArgumentError(f"{first} or {last} is no day", expected="2024-01-15, or a month: 2024-01") from None
    if to_day < from_day:
        raise ArgumentError(f"there are no months from {first} to {last}")
    months = Month(from_day.year, from_day.month), Month(to_day.year, to_day.month)
    if len(first) == len(last) == len("2024-01"):
        return *months, ""
    until = to_day + timedelta(days=1)
    return *months, f"pickup_datetime >= DATE '{from_day}' AND pickup_datetime < DATE '{until}'"


def _manifests(
    lake: Lake, color: Color, first: Month, last: Month, profile: str, as_of: str | date | None, skip: bool
) -> list[Manifest]:
    """Read the manifests of all months from the first to the last.

    Raises:
        LakeError: when a month is not in the lake, and it is not to be skipped.
    """
    found = {month: find_version(lake, Keys(color, month), as_of) for month in first.up_to(last)}
    missing = [month for month, manifest in found.items() if manifest is None]
    if missing and not skip:
        named = ", ".join(map(str, missing[:3])) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise LakeError(
            f"{color} {named}: not in the lake {lake.url('')}{f' at {as_of}' if as_of else ''}",
            fix=f"bring what is missing: python flows/backfill.py --colors {color} --start {missing[0]}"
            f" --end {missing[-1]} --profile {profile}",
        )
    return [manifest for manifest in found.values() if manifest]


def _read(
    lake: Lake, manifests: Sequence[Manifest], schema: pa.Schema, wanted: pa.Schema, where: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Read the rows, month by month.

    Raises:
        ArgumentError: when the last condition is not valid SQL or names an unknown column.
    """
    # Check the expression on an empty table, before the first file is read.
    _select(ds.dataset(schema.empty_table()), wanted, where).close()

    def rows() -> Iterator[pa.RecordBatch]:
        file_format = ds.ParquetFileFormat()
        for manifest in manifests:
            with lake.open(manifest.clean.key) as source:
                fragment = file_format.make_fragment(pa.PythonFile(source, mode="r"))
                month = ds.FileSystemDataset([fragment], schema, file_format)
                with contextlib.closing(_select(month, wanted, where)) as reader:
                    yield from (batch.cast(wanted) for batch in reader)

    return rows()


def _select(dataset: ds.Dataset, wanted: pa.Schema, where: Sequence[str]) -> pa.RecordBatchReader:
    relation = duckdb.connect().from_arrow(dataset)
    try:
        for condition in where:
            relation = relation.filter(condition)
        names = ", ".join(f'"{name}"' for name in wanted.names)
        return relation.project(names).to_arrow_reader(NOTEBOOK_BATCH_ROWS)
    except duckdb.Error as error:
        raise ArgumentError(f"where={where[-1]!r} can't be used", got=str(error).partition("\n")[0]) from None
