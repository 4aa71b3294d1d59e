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
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import LakeError, ReconciliationError
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Color
from nyc_tlc.warehouse.lake_file import LakeFile

log = logging.getLogger(__name__)

#: Increase it when the same clean file would give another summary.
SUMMARY_VERSION = "1"
#: Rows counted at once: few enough for the memory, enough for polars to be fast.
SUMMARY_CHUNK_ROWS = 1 << 18
#: Miles; a longer trip is counted, but adds no distance (the rule long_distance warns of it).
LONGEST_TRIP = 100
#: Rejected rows kept for each rule as examples.
EXAMPLES_PER_RULE = 2
#: Small files read in parallel: a bucket needs some 50 milliseconds for each.
PARALLEL_READS = 16

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
class Key:
    """The key that trips are grouped by.

    Attributes:
        value: A number or a date: grouping by text would take most of the time.
        to_text: Turns it into the text in the summary.
    """

    value: pl.Expr
    to_text: Callable[[pl.Expr], pl.Expr] = lambda key: key.cast(pl.String)


@dataclass(frozen=True)
class Histogram:
    """Bins of equal width from 0 up, one bin for smaller and one for larger values.

    Attributes:
        title: The name of the value.
        unit: Its unit.
        width: The width of a bin.
        bins: The number of bins of that width.
    """

    title: str
    unit: str
    width: int
    bins: int

    @property
    def labels(self) -> list[str]:
        """The keys in order: ``<0``, ``0``, ``5``, … and ``60+`` for larger values."""
        edges = [str(self.width * index) for index in range(self.bins)]
        return ["<0", *edges, f"{self.width * self.bins}+"]

    def key(self, value: pl.Expr) -> Key:
        """Return the key of a value: the index of its bin among the labels; null for a null."""
        place = (value / self.width).floor().clip(-1, self.bins).cast(pl.Int16, strict=False) + 1
        return Key(place, lambda key: key.replace_strict(dict(enumerate(self.labels)), return_dtype=pl.String))


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
MEASURES: dict[Color, Measures] = {
    "yellow": TAXI,
    "green": TAXI,
    "fhv": Measures(),
    "fhvhv": Measures(
        "trip_miles",
        "base_passenger_fare",
        "tips",
        (
            "base_passenger_fare",
            "tolls",
            "bcf",
            "sales_tax",
            "congestion_surcharge",
            "airport_fee",
            "tips",
            "cbd_congestion_fee",
        ),
    ),
}


def summary_key(manifest: Manifest) -> str:
    """Return the key of a month's summary."""
    return f"summary/{manifest.color}/{manifest.month}.parquet"


def read_summary(lake: Lake, manifest: Manifest) -> pl.DataFrame:
    """Read a month's summary. If there is none for the month's clean file, count it and write it.

    Args:
        lake: The lake.
        manifest: The month.

    Raises:
        ReconciliationError: when the clean file has another number of rows than the manifest says.
    """
    content = lake.read(summary_key(manifest))
    if content is not None:
        table = pq.read_table(io.BytesIO(content))
        if _read_metadata(table.schema) == (manifest.clean.sha256, SUMMARY_VERSION):
            return _to_frame(table)
    return write_summary(lake, manifest)


def read_summaries(lake: Lake, manifests: Sequence[Manifest]) -> pl.DataFrame:
    """Read the summaries of many months as one table, with the columns ``color`` and ``month`` in front."""
    with ThreadPoolExecutor(PARALLEL_READS, thread_name_prefix="summary") as pool:
        tables = list(pool.map(partial(read_summary, lake), manifests))
    named = [
        table.select(pl.lit(manifest.color).alias("color"), pl.lit(manifest.month).alias("month"), pl.all())
        for manifest, table in zip(manifests, tables, strict=True)
    ]
    return pl.concat(named) if named else pl.DataFrame(schema={"color": pl.String, "month": pl.String, **SCHEMA})


def write_summary(lake: Lake, manifest: Manifest) -> pl.DataFrame:
    """Count a month's clean rows and write the summary into the lake.

    Args:
        lake: The lake.
        manifest: The month.

    Raises:
        ReconciliationError: when the clean file has another number of rows than the manifest says.
    """
    summary = count_month(lake, manifest)
    labels = {"nyc_tlc.clean_sha256": manifest.clean.sha256, "nyc_tlc.summary_version": SUMMARY_VERSION}
    table = summary.to_arrow().replace_schema_metadata(labels)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    lake.write(summary_key(manifest), sink.getvalue())
    return summary


def count_month(lake: Lake, manifest: Manifest) -> pl.DataFrame:
    """Count a month's clean rows, chunk by chunk, so that memory does not grow with the month.

    Raises:
        ReconciliationError: when the clean file has another number of rows than the manifest says.
    """
    keys = _keys_of(MEASURES[manifest.color])
    sums = _sums_of(MEASURES[manifest.color])
    counted, rows = [], 0
    for chunk in _chunks(LakeFile(manifest, lake, read_contract(manifest.color)).batches()):
        rows += chunk.height
        derived = chunk.select(*(key.value.alias(part) for part, key in keys.items()), *sums)
        counted += [_count(derived, part, key) for part, key in keys.items()]
    if rows != manifest.clean.rows:
        raise ReconciliationError(
            f"{manifest.name}: the clean file and its manifest don't agree",
            expected=f"{manifest.clean.rows:,} rows",
            got=f"{rows:,}",
            fix="make the month again with --force",
        )
    parts = [
        *([_add_up(counted)] if counted else []),
        _rules("rejected", manifest.quarantine.rules),
        _rules("warned", manifest.warnings),
        _examples(lake, manifest),
    ]
    return pl.concat(parts)


def _chunks(batches: Iterable[pa.RecordBatch]) -> Iterator[pl.DataFrame]:
    """Join batches into chunks that polars counts fast."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(each.num_rows for each in held) >= SUMMARY_CHUNK_ROWS:
            yield _frame(held)
            held = []
    if held:
        yield _frame(held)


def _frame(batches: list[pa.RecordBatch]) -> pl.DataFrame:
    frame = pl.from_arrow(pa.Table.from_batches(batches))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _keys_of(measures: Measures) -> dict[str, Key]:
    """Return part -> the key that trips are grouped by."""
    pickup, dropoff = pl.col("pickup_datetime"), pl.col("dropoff_datetime")
    minutes = (dropoff - pickup).dt.total_seconds() / 60
    keys = {
        "day": Key(pickup.dt.date()),
        "hour": Key(pickup.dt.weekday().cast(pl.Int16) * 100 + pickup.dt.hour(), _weekday_and_hour),
        "zone": Key(pl.col("pickup_location_id")),
        "duration": HISTOGRAMS["duration"].key(minutes),
    }
    if measures.distance:
        keys["distance"] = HISTOGRAMS["distance"].key(pl.col(measures.distance))
    if measures.fare:
        fare, tip = pl.col(measures.fare), pl.col(measures.tip)
        keys["fare"] = HISTOGRAMS["fare"].key(fare)
        keys["tip_share"] = HISTOGRAMS["tip_share"].key(pl.when(fare > 0).then(100 * tip / fare))
    if measures.payment:
        keys["payment"] = Key(pl.col(measures.payment))
        keys["rate"] = Key(pl.col(measures.rate))
    return keys


def _weekday_and_hour(key: pl.Expr) -> pl.Expr:
    return pl.concat_str((key // 100).cast(pl.String), (key % 100).cast(pl.String).str.zfill(2), separator=" ")


def _sums_of(measures: Measures) -> tuple[pl.Expr, pl.Expr]:
    """Return the expressions for a trip's revenue and distance; the distance is null if it is too long."""
    revenue = pl.sum_horizontal(measures.revenue) if measures.revenue else pl.lit(None, pl.Float64)
    miles = pl.col(measures.distance) if measures.distance else pl.lit(None, pl.Float64)
    distance = pl.when(miles <= LONGEST_TRIP).then(miles)
    return revenue.alias("revenue_of_trip"), distance.alias("distance_of_trip")


def _count(derived: pl.DataFrame, part: str, key: Key) -> pl.DataFrame:
    counted = derived.group_by(pl.col(part).alias("key")).agg(
        pl.lit(part).alias("part"),
        pl.len().cast(pl.Int64).alias("trips"),
        # A colour without amounts has none: null, not 0.
        _sum_or_null("revenue_of_trip").alias("revenue"),
        _sum_or_null("distance_of_trip").alias("distance"),
    )
    return counted.with_columns(key.to_text(pl.col("key")).alias("key"))


def _sum_or_null(name: str) -> pl.Expr:
    return pl.when(pl.col(name).is_not_null().any()).then(pl.col(name).sum())


def _add_up(counted: list[pl.DataFrame]) -> pl.DataFrame:
    """Sum up all chunks, in the order of parts and keys; a null key is ``unknown``."""
    return (
        pl.concat(counted)
        .group_by("part", "key")
        .agg(pl.col("trips").sum(), _sum_or_null("revenue"), _sum_or_null("distance"))
        .with_columns(pl.col("key").fill_null("unknown"), pl.lit(None, pl.String).alias("text"))
        .sort("part", "key")
        .select(list(SCHEMA))
    )


def _rules(part: str, rules: dict[str, int]) -> pl.DataFrame:
    return pl.DataFrame(
        [{"part": part, "key": rule, "trips": rows} for rule, rows in rules.items()], schema=SCHEMA, orient="row"
    )


def _examples(lake: Lake, manifest: Manifest) -> pl.DataFrame:
    """Return the first rejected rows of each rule."""
    wanted = Counter({rule: min(EXAMPLES_PER_RULE, rows) for rule, rows in manifest.quarantine.rules.items() if rows})
    rows: list[dict[str, Any]] = []
    if wanted:
        with lake.open(manifest.quarantine.key) as source, pq.ParquetFile(source) as file:
            for batch in file.iter_batches(1 << 12):
                rows += _take_examples(batch, wanted)
                if not +wanted:
                    break
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _take_examples(batch: pa.RecordBatch, wanted: Counter[str]) -> Iterator[dict[str, Any]]:
    rules = batch["rejection_rule"].to_pylist()
    for index, rule in enumerate(rules):
        if wanted[rule] > 0:
            wanted[rule] -= 1
            (row,) = batch.slice(index, 1).to_pylist()
            values = {name: value for name, value in row.items() if value is not None and name != "rejection_rule"}
            yield {"part": "example", "key": rule, "text": json.dumps(values, default=str)}


def _read_metadata(schema: pa.Schema) -> tuple[str, str]:
    """Return the clean file's digest and the summary version from a summary file's metadata."""
    labels = schema.metadata or {}
    names = (b"nyc_tlc.clean_sha256", b"nyc_tlc.summary_version")
    sha256, version = (labels.get(name, b"").decode() for name in names)
    return sha256, version


def _to_frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())


def read_manifests(lake: Lake, colors: Iterable[Color]) -> list[Manifest]:
    """Read the manifests of all months of the colours, by colour and month."""
    return read_each(lake, [Keys(color, month) for color in colors for month in lake.months(color)])


def read_each(lake: Lake, keys: Sequence[Keys]) -> list[Manifest]:
    """Read manifests in parallel. Months that are not in the lake are left out.

    So is a manifest that can't be read, with a warning in the log.
    """

    def read(month: Keys) -> Manifest | None:
        try:
            return lake.manifest(month)
        except LakeError as error:
            log.warning("%s", error)
            return None

    with ThreadPoolExecutor(PARALLEL_READS, thread_name_prefix="manifest") as pool:
        return [manifest for manifest in pool.map(read, keys) if manifest]
