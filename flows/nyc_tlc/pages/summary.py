"""A month's summary: a small Parquet file that the pages read instead of the trips.

It is in the lake under ``summary/{color}/{YYYY-MM}.parquet`` and has the digest of the clean file that it was counted
from; if the clean file has changed, the month is counted again when the summary is next read. It is a long table:

========== =================================== =================================================================
part       key                                 the row counts
========== =================================== =================================================================
zone                                           trips by pick-up zone, with the sums of their figures
dropoff    ``74``                              trips by drop-off zone
day        ``2024-01-15``                      trips by pick-up day
hour       ``1 08``: Monday, 8 o'clock         trips by pick-up zone, weekday (1 is Monday) and hour
distance   a bin of HISTOGRAMS                 trips by zone and distance; also duration, fare and tip_share
payment    a payment type                      trips by zone and payment type, and the same for rate
rejected   a rule                              rejected rows by the first rule they break
warned     a rule                              rows of the source that a warning counts
example    a rule                              ``text`` is a rejected row as JSON
========== =================================== =================================================================

A figure has three columns: the sum of its plausible values, their number, and the number of values left out.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from nyc_tlc.errors import LakeError, ReconciliationError, first_line
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import PARALLEL_READS, Lake
from nyc_tlc.month import Color
from nyc_tlc.pages.figures import FIGURES, NOT_BY_ZONE, ZONE, keys_of, select_sums, select_values
from nyc_tlc.warehouse.duckdb import read_rows
from nyc_tlc.warehouse.lake_file import LakeFile

#: Increase it when the same clean file would give another summary.
SUMMARY_VERSION = "3"
#: Rejected rows kept for each rule as examples.
EXAMPLES_PER_RULE = 2

T = TypeVar("T")

SUMS = {
    f"{figure}_{column}": kind
    for figure in FIGURES
    for column, kind in (("sum", pl.Float64()), ("trips", pl.Int64()), ("left_out", pl.Int64()))
}
SCHEMA = pl.Schema(
    {"part": pl.String(), "zone": pl.Int16(), "key": pl.String(), "trips": pl.Int64(), **SUMS, "text": pl.String()}
)


def summary_key(manifest: Manifest) -> str:
    """Return the key of a month's summary."""
    return f"summary/{manifest.color}/{manifest.month}.parquet"


def read_summary(lake: Lake, manifest: Manifest) -> pl.DataFrame:
    """Read a month's summary. If there is none for the month's clean file, count it and write it.

    Raises:
        LakeError: when the clean file can't be read.
        ReconciliationError: when the clean file has another number of rows than the manifest says.
    """
    labels = {"nyc_tlc.clean_sha256": manifest.clean.sha256, "nyc_tlc.summary_version": SUMMARY_VERSION}
    content = lake.read(summary_key(manifest))
    if content is not None:
        table = pq.read_table(io.BytesIO(content))
        found = table.schema.metadata or {}
        if all(found.get(name.encode()) == value.encode() for name, value in labels.items()):
            return pl.DataFrame(table, SCHEMA)
    summary, sink = count_month(lake, manifest), io.BytesIO()
    pq.write_table(summary.to_arrow().replace_schema_metadata(labels), sink, compression="zstd")
    lake.write(summary_key(manifest), sink.getvalue())
    return summary


def read_summaries(lake: Lake, manifests: Sequence[Manifest], take: Callable[[Manifest, pl.DataFrame], T]) -> list[T]:
    """Read the summaries of many months at the same time, and return what is taken of each."""
    with ThreadPoolExecutor(PARALLEL_READS, thread_name_prefix="summary") as pool:
        return list(pool.map(lambda manifest: take(manifest, read_summary(lake, manifest)), manifests))


def count_month(lake: Lake, manifest: Manifest) -> pl.DataFrame:
    """Count a month's clean rows; add the manifest's counts of rules, and examples from quarantine.

    Raises:
        LakeError: when the clean file can't be read.
        ReconciliationError: when the clean file has another number of rows than the manifest says.
    """
    counted = _count_clean_rows(LakeFile(manifest, lake))
    rows = counted.filter(pl.col("part") == "day")["trips"].sum()
    if rows != manifest.clean.rows:
        raise ReconciliationError(
            f"{manifest.name}: the clean file and its manifest don't agree",
            expected=f"{manifest.clean.rows:,} rows",
            got=f"{rows:,}",
            fix="make the month again with --force",
        )
    rules = [
        {"part": part, "key": rule, "trips": rows}
        for part, counts in (("rejected", manifest.quarantine.rules), ("warned", manifest.warnings))
        for rule, rows in counts.items()
    ]
    return pl.concat([counted, pl.DataFrame([*rules, *_examples(lake, manifest)], schema=SCHEMA)])


def _count_clean_rows(file: LakeFile) -> pl.DataFrame:
    """Group the clean rows by every part's key in one pass, and sum their figures by zone in another."""
    color = file.manifest.color
    try:
        with duckdb.connect() as connection:
            tables = [SCHEMA.to_frame()]
            for select in (_select_counts, _select_sums):
                connection.register("clean_rows", read_rows(file))
                tables.append(pl.DataFrame(connection.sql(select(color)).to_arrow_table()))
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise LakeError(f"{file.name}: {file.url} can't be counted", got=first_line(error)) from error
    return pl.concat(tables, how="diagonal_relaxed").cast(SCHEMA)


def _select_counts(color: Color) -> str:
    """Return the SQL that counts a colour's trips; a null key is ``unknown``, a null zone 0."""
    keys = keys_of(color)
    sets = [f"({part})" if part in NOT_BY_ZONE else f"(zone, {part})" for part in keys]
    return f"""
        SELECT
            CASE {" ".join(f"WHEN GROUPING({part}) = 0 THEN '{part}'" for part in keys)} END AS part,
            CASE WHEN GROUPING(zone) = 0 THEN zone END AS zone,
            coalesce(CASE {" ".join(f"WHEN GROUPING({part}) = 0 THEN {text}" for part, (_, text) in keys.items())} END,
                'unknown') AS key,
            count(*) AS trips
        FROM (
            SELECT {ZONE} AS zone, {", ".join(f"{key} AS {part}" for part, (key, _) in keys.items())} FROM clean_rows
        )
        GROUP BY GROUPING SETS ({", ".join(sets)})
        ORDER BY part, zone, key
    """


def _select_sums(color: Color) -> str:
    """Return the SQL that sums the figures of a colour's trips by zone."""
    return f"""
        SELECT 'zone' AS part, zone, count(*) AS trips, {select_sums(color)}
        FROM (SELECT {ZONE} AS zone, {select_values(color)} FROM clean_rows)
        GROUP BY zone
        ORDER BY zone
    """


def _examples(lake: Lake, manifest: Manifest) -> list[dict[str, Any]]:
    """Return the first rejected rows of each rule."""
    wanted = Counter({rule: min(EXAMPLES_PER_RULE, rows) for rule, rows in manifest.quarantine.rules.items() if rows})
    rows: list[dict[str, Any]] = []
    if wanted:
        with lake.open(manifest.quarantine.key) as source, pq.ParquetFile(source) as file:
            for batch in file.iter_batches(1 << 12):
                rows += _take_examples(batch, wanted)
                if not +wanted:
                    break
    return rows


def _take_examples(batch: pa.RecordBatch, wanted: Counter[str]) -> Iterator[dict[str, Any]]:
    for index, rule in enumerate(batch["rejection_rule"].to_pylist()):
        if wanted[rule] > 0:
            wanted[rule] -= 1
            (row,) = batch.slice(index, 1).to_pylist()
            values = {name: value for name, value in row.items() if value is not None and name != "rejection_rule"}
            yield {"part": "example", "key": rule, "text": json.dumps(values, default=str)}
