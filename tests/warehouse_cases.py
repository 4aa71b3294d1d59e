"""Months for the tests of warehouses, and loads that stop halfway."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from factories import JANUARY, green_parquet, make_month, trip
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Color, Month
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.protocol import Kind, Warehouse
from stand_ins.bigquery import BigQuery, Job
from waiting import eventually

TESTS = Path(__file__).parent
FEBRUARY = JANUARY.plus(1)


def client(url: str) -> bigquery.Client:
    """Return BigQuery's client, connected to the stand-in."""
    return bigquery.Client("test", AnonymousCredentials(), client_options={"api_endpoint": url})


def in_lake(lake: Lake, folder: Path, *trips: dict[str, Any], month: Month = JANUARY) -> LakeFile:
    """Publish green trips in the lake, and return the month for a load."""
    return ready(lake, make_month(lake, green_parquet(*trips), folder, month))


def ready(lake: Lake, manifest: Manifest) -> LakeFile:
    """Return a month of the lake for a load."""
    return LakeFile(manifest, lake)


def trips(count: int, **changes: Any) -> list[dict[str, Any]]:
    """Return trips of January with the fares 0, 1, 2 and so on."""
    return [trip(fare_amount=float(number), **changes) for number in range(count)]


def in_february(count: int) -> list[dict[str, Any]]:
    """Return such trips of February."""
    return trips(count, lpep_pickup_datetime=FEBRUARY.start.replace(day=10))


def fares(warehouse: Warehouse, month: Month = JANUARY, color: Color = "green") -> list[float]:
    """Query a month's fares in a warehouse, in the file's order."""
    sql = (
        f"SELECT fare_amount FROM ny_taxi.{color}_trip_data WHERE file_month = DATE '{month.first_day}'"
        " ORDER BY source_row"
    )
    return [fare for (fare,) in warehouse.query(sql)]


@dataclass(frozen=True)
class HalfOf(LakeFile):
    """A file that stops after half its rows until the test lets it continue.

    Attributes:
        reached: Set when the load has the first half.
        go_on: The test sets it to release the rest.
    """

    reached: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    @property
    def path(self) -> Path | None:
        """None, so that every warehouse reads the batches."""
        return None

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the first half, wait, yield the rest."""
        whole = pa.Table.from_batches(super().batches())
        half = len(whole) // 2
        yield from whole.slice(0, half).to_batches()
        self.reached.set()
        assert self.go_on.wait(120)
        yield from whole.slice(half).to_batches()


@contextmanager
def half_way(file: LakeFile, warehouse: Warehouse, big_query: BigQuery | None) -> Iterator[None]:
    """Keep a load of the file halfway while the block runs; then let it finish."""
    half = HalfOf(file.manifest, file.lake)
    if big_query:
        big_query.pause = half.go_on
    with ThreadPoolExecutor(1) as loader:
        running = loader.submit(load_month, half, warehouse)
        try:
            if big_query:
                job_at_work(big_query)
            else:
                assert half.reached.wait(30)
            yield
        finally:
            half.go_on.set()
        running.result(60)


def job_at_work(big_query: BigQuery) -> Job:
    """Wait for a running load job, and return it."""
    return eventually(lambda: next((job for job in list(big_query.jobs.values()) if job.state == "RUNNING"), None))


def month_jobs(big_query: BigQuery, table: str = "green_trip_data$202401") -> list[Job]:
    """Return the jobs that loaded a month, oldest first."""
    loads = big_query.jobs_of("load")
    return [job for job in loads if job.configuration["load"]["destinationTable"]["tableId"] == table]


LOADER = """
import json, sys
from pathlib import Path
from factories import JANUARY
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.keys import Keys
from nyc_tlc.warehouse.bigquery import BigQueryWarehouse
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.postgres import PostgresWarehouse
from warehouse_cases import HalfOf, client, ready

class Said:
    def set(self):
        print("half", flush=True)

kind, where, root = sys.argv[1:]
warehouse = {
    "duckdb": lambda: DuckDbWarehouse(Path(where)),
    "postgres": lambda: PostgresWarehouse(json.loads(where)),
    "bigquery": lambda: BigQueryWarehouse(client(where)),
}[kind]()
lake = FolderLake(Path(root))
file = ready(lake, lake.manifest(Keys("green", JANUARY)))
load_month(HalfOf(file.manifest, file.lake, reached=Said()), warehouse)
"""


def start_loader(kind: Kind, where: str, lake: FolderLake) -> subprocess.Popen[str]:
    """Start a process that loads January and prints a line when it has half of it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent / "flows"), str(TESTS)])}
    return subprocess.Popen(
        [sys.executable, "-c", LOADER, kind, where, str(lake.root)], env=environment, stdout=subprocess.PIPE, text=True
    )
