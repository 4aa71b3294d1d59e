"""The functions for notebooks: ``from nyc_tlc import trips, zones, codes, months``.

DuckDB passes the filter and the columns to the Parquet reader, so only the footers and the needed row groups and
columns are read from a bucket. The profile ``local`` works without Prefect; any other profile is a set of Prefect
blocks and needs a Prefect server.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds

from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import ArgumentError, LakeError
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import COLORS, Color, Month
from nyc_tlc.pages.coverage import read_coverage
from nyc_tlc.profiles.opening import choose_warehouses, open_lake, open_warehouse
from nyc_tlc.settings import read_settings
from nyc_tlc.warehouse.lookups import read_lookups
from nyc_tlc.warehouse.protocol import Kind

Shape = Literal["pandas", "arrow", "polars", "batches"]

#: Rows of a batch: what a notebook that reads batch by batch holds at once.
NOTEBOOK_BATCH_ROWS = 1 << 17


def trips(
    color: Color,
    start: str,
    end: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    profile: str | None = None,
    as_: Shape = "pandas",
) -> Any:
    """Read the clean trips of some months from the lake, in the order of months and source rows.

    Args:
        color: ``yellow``, ``green``, ``fhv`` or ``fhvhv``.
        start: The first month, ``2023-01``.
        end: The last month; the first if left out.
        columns: The columns wanted; all if left out. Only these are read.
        where: Which trips, as SQL: ``trip_distance > 10 AND payment_type = 1``.
        profile: Where the lake is; TLC_PROFILE or local if left out.
        as_: ``pandas`` (with Arrow types), ``arrow``, ``polars``, or ``batches``: an iterator of Arrow batches, for
            what does not fit into memory.

    Returns:
        A ``pandas.DataFrame``, a ``pyarrow.Table``, a ``polars.DataFrame`` or an iterator of ``pyarrow.RecordBatch``.

    Raises:
        ArgumentError: for an unknown colour, month or column, or an expression that is not valid SQL.
        LakeError: when a month is not in the lake; it names the command that fetches it.
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
    batches = _read(lake, _manifests(lake, color, start, end, profile), schema, wanted, where)
    if as_ == "batches":
        return batches
    table = pa.Table.from_batches(batches, schema=wanted)
    if as_ == "polars":
        return pl.from_arrow(table)
    return table if as_ == "arrow" else table.to_pandas(types_mapper=pd.ArrowDtype)


def zones() -> pd.DataFrame:
    """Return TLC's taxi zones: ``location_id``, ``borough``, ``zone``, ``service_zone``. Join on a location id."""
    return codes("zones")


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
    color: Color | None = None, *, warehouses: Sequence[Kind] | None = None, profile: str | None = None
) -> pd.DataFrame:
    """Return all known months: one row per colour and month, with its source, its file and its loads.

    Args:
        color: One colour; all if left out.
        warehouses: The warehouses to ask, a column each; all that the profile has if left out.
        profile: Where the lake is; TLC_PROFILE or local if left out.

    Raises:
        ConfigurationError: when the profile can't be used.
    """
    profile, kinds = choose_warehouses(profile, warehouses)
    lake = open_lake(profile)
    loads = {kind: open_warehouse(profile, kind).loads() for kind in kinds}
    found = read_coverage(lake, loads, colors=COLORS if color is None else (color,))
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


def _manifests(lake: Lake, color: Color, start: str, end: str | None, profile: str) -> list[Manifest]:
    """Read the manifests of all months from start to end.

    Raises:
        ArgumentError: when the months are not valid, or end is before start.
        LakeError: when a month is not in the lake.
    """
    first, last = Month.parse(start), Month.parse(end or start)
    if last < first:
        raise ArgumentError(f"there are no months from {first} to {last}")
    found, month = {}, first
    while month <= last:
        found[month] = lake.manifest(Keys(color, month))
        month = month.plus(1)
    if missing := [month for month, manifest in found.items() if manifest is None]:
        named = ", ".join(map(str, missing[:3])) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise LakeError(
            f"{color} {named}: not in the lake {lake.url('')}",
            fix=f"bring what is missing: python flows/backfill.py --colors {color} --start {missing[0]}"
            f" --end {missing[-1]} --profile {profile}",
        )
    return [manifest for manifest in found.values() if manifest]


def _read(
    lake: Lake, manifests: Sequence[Manifest], schema: pa.Schema, wanted: pa.Schema, where: str | None
) -> Iterator[pa.RecordBatch]:
    """Read the rows, month by month.

    Raises:
        ArgumentError: when ``where`` is not valid SQL or names an unknown column.
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


def _select(dataset: ds.Dataset, wanted: pa.Schema, where: str | None) -> pa.RecordBatchReader:
    relation = duckdb.connect().from_arrow(dataset)
    try:
        if where:
            relation = relation.filter(where)
        names = ", ".join(f'"{name}"' for name in wanted.names)
        return relation.project(names).to_arrow_reader(NOTEBOOK_BATCH_ROWS)
    except duckdb.Error as error:
        raise ArgumentError(f"where={where!r} can't be used", got=str(error).partition("\n")[0]) from None
