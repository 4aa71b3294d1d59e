"""A month's summary: a Parquet file of a few kilobytes that the pages read instead of the trips.

It is in the lake under ``summary/{color}/{YYYY-MM}.parquet`` and has the digest of the clean file that it was counted
from; if the clean file has changed, the month is counted again when the summary is next read. It is a long table:

========== =================================== =================================================================
part       key                                 the row counts
========== =================================== =================================================================
day        ``2024-01-15``                      trips by pick-up day, with their revenue and distance
hour       ``1 08``: Monday, 8 o'clock         trips by weekday (1 is Monday) and hour
zone       ``74``                              trips by pick-up zone
distance   a bin of HISTOGRAMS                 trips by distance, and the same for duration, fare and tip_share
payment    a payment type                      trips by payment type, and the same for rate
rejected   a rule                              rejected rows by the first rule they break
warned     a rule                              rows of the source that a warning counts
example    a rule                              ``text`` is a rejected row as JSON
========== =================================== =================================================================

Revenue is all that passengers paid, in US dollars. Distance is in miles, without trips longer than LONGEST_TRIP: the
one of 259,777 miles that a sensor reported would outweigh a month of others. A colour without them has nulls.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from nyc_tlc.errors import LakeError, ReconciliationError, first_line
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import PARALLEL_READS, Lake
from nyc_tlc.month import Color
from nyc_tlc.warehouse.duckdb import read_rows
from nyc_tlc.warehouse.lake_file import LakeFile

#: Increase it when the same clean file would give another summary.
SUMMARY_VERSION = "2"
#: Miles; a longer trip is counted, but adds no distance (the rule long_distance warns of it).
LONGEST_TRIP = 100
#: Rejected rows kept for each rule as examples.
EXAMPLES_PER_RULE = 2

SCHEMA = pl.Schema(
    {
        "part": pl.String(),
        "key": pl.String(),
        "trips": pl.Int64(),
        "revenue": pl.Float64(),
        "distance": pl.Float64(),
        "text": pl.String(),
    }
)


@dataclass(frozen=True)
class Histogram:
    """Bins of equal width from 0 up, one bin for smaller and one for larger values."""

    title: str
    unit: str
    width: int
    bins: int

    @property
    def labels(self) -> list[str]:
        """The keys in order: ``<0``, ``0``, ``5``, … and ``60+`` for larger values."""
        edges = [str(self.width * index) for index in range(self.bins)]
        return ["<0", *edges, f"{self.width * self.bins}+"]

    def bin_of(self, value: str) -> str:
        """Return the SQL of a value's bin, from -1 for a negative value to the number of bins."""
        scaled = f"({value}) / {self.width}"
        index = f"CASE WHEN {scaled} < 0 THEN -1 WHEN {scaled} >= {self.bins} THEN {self.bins} ELSE floor({scaled}) END"
        return f"CAST({index} AS TINYINT)"


HISTOGRAMS = {
    "distance": Histogram("Distance", "miles", 1, 20),
    "duration": Histogram("Duration", "minutes", 5, 12),
    "fare": Histogram("Fare", "dollars", 5, 16),
    "tip_share": Histogram("Tip as a share of the fare", "percent", 5, 10),
}


@dataclass(frozen=True)
class Measures:
    """The columns of a colour that a summary uses; empty where the colour has none."""

    distance: str = ""
    fare: str = ""
    tip: str = ""
    revenue: tuple[str, ...] = ()
    payment: str = ""
    rate: str = ""


TAXI = Measures("trip_distance", "fare_amount", "tip_amount", ("total_amount",), "payment_type", "rate_code")
#: What passengers of high-volume services pay.
FARE_AND_FEES = "base_passenger_fare tolls bcf sales_tax congestion_surcharge airport_fee tips cbd_congestion_fee"
MEASURES: dict[Color, Measures] = {
    "yellow": TAXI,
    "green": TAXI,
    "fhv": Measures(),
    "fhvhv": Measures("trip_miles", "base_passenger_fare", "tips", tuple(FARE_AND_FEES.split())),
}


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


def read_summaries(lake: Lake, manifests: Sequence[Manifest]) -> pl.DataFrame:
    """Read the summaries of many months as one table, with the columns ``color`` and ``month`` in front."""
    with ThreadPoolExecutor(PARALLEL_READS, thread_name_prefix="summary") as pool:
        tables = list(pool.map(partial(read_summary, lake), manifests))
    named = [
        table.select(pl.lit(manifest.color).alias("color"), pl.lit(manifest.month).alias("month"), pl.all())
        for manifest, table in zip(manifests, tables, strict=True)
    ]
    return pl.concat(named) if named else pl.DataFrame(schema={"color": pl.String, "month": pl.String, **SCHEMA})


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
    return pl.concat([counted, pl.DataFrame([*rules, *_examples(lake, manifest)], schema=SCHEMA, orient="row")])


def _count_clean_rows(file: LakeFile) -> pl.DataFrame:
    """Group the clean rows by every part's key, in one pass."""
    try:
        with duckdb.connect() as connection:
            connection.register("clean_rows", read_rows(file))
            sql = _select_counts(MEASURES[file.manifest.color], "clean_rows")
            return pl.DataFrame(connection.sql(sql).to_arrow_table(), SCHEMA)
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise LakeError(f"{file.name}: {file.url} can't be counted", got=first_line(error)) from error


def _select_counts(measures: Measures, source: str) -> str:
    """Return the SQL that counts a colour's trips; a null key is ``unknown``."""
    keys = _keys_of(measures)
    # A sum is null where all values are: a colour without amounts has no revenue, not 0.
    revenue = " + ".join(f"coalesce({column}, 0)" for column in measures.revenue) or "CAST(NULL AS DOUBLE)"
    miles = measures.distance or "CAST(NULL AS DOUBLE)"
    return f"""
        SELECT
            CASE {" ".join(f"WHEN GROUPING({part}) = 0 THEN '{part}'" for part in keys)} END AS part,
            coalesce(CASE {" ".join(f"WHEN GROUPING({part}) = 0 THEN {text}" for part, (_, text) in keys.items())} END,
                'unknown') AS key,
            count(*) AS trips, sum(revenue) AS revenue, sum(miles) AS distance, NULL AS text
        FROM (
            SELECT {", ".join(f"{key} AS {part}" for part, (key, _) in keys.items())},
                {revenue} AS revenue, CASE WHEN {miles} <= {LONGEST_TRIP} THEN {miles} END AS miles
            FROM {source}
        )
        GROUP BY GROUPING SETS ({", ".join(f"({part})" for part in keys)})
        ORDER BY part, key
    """


def _keys_of(measures: Measures) -> dict[str, tuple[str, str]]:
    """Return part -> the SQL of its key, a number or a date because these group fast, and of the key as text."""
    fare = measures.fare
    keys = {
        "day": ("CAST(pickup_datetime AS DATE)", "CAST(day AS VARCHAR)"),
        "hour": ("100 * isodow(pickup_datetime) + hour(pickup_datetime)", "printf('%d %02d', hour // 100, hour % 100)"),
    }
    codes = {"zone": "pickup_location_id", "payment": measures.payment, "rate": measures.rate}
    keys |= {part: (column, f"CAST({part} AS VARCHAR)") for part, column in codes.items() if column}
    values = {
        "distance": measures.distance,
        "duration": "epoch(dropoff_datetime - pickup_datetime) / 60",
        "fare": fare,
        # Rounded, because 2.55 of 17 dollars are 14.999999999999998 percent.
        "tip_share": f"CASE WHEN {fare} > 0 THEN round(100 * {measures.tip} / {fare}, 6) END" if fare else "",
    }
    for part, value in values.items():
        if value:
            histogram = HISTOGRAMS[part]
            # The list's first element has the index 1.
            keys[part] = (histogram.bin_of(value), f"{histogram.labels}[{part} + 2]")
    return keys


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
