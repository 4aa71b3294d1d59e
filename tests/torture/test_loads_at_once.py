"""Loads of several months into one Postgres at the same time: what the limit of loads should be, measured.

Takes minutes: ``make torture``.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psycopg2
import pytest

from factories import make_month
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.month import Month
from nyc_tlc.source.sample import write_sample
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.postgres import PostgresWarehouse

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]

MONTHS = [Month(2022, 1).plus(number) for number in range(16)]
ROWS = 100_000
#: A swap's locks are held for as long as a catalogue's rows take, not a month's.
LONGEST_LOCK_WAIT = 2.0


def load(manifest: Manifest, lake: Path, parameters: dict[str, str]) -> None:
    load_month(LakeFile(manifest, FolderLake(lake)), PostgresWarehouse(parameters), force=True)


@contextlib.contextmanager
def watched_locks(parameters: dict[str, str]) -> Iterator[list[float]]:
    """Yield a list that gets the seconds for which somebody has waited for a lock, ten times a second."""
    waits, ended = [0.0], threading.Event()
    waited = "COALESCE(MAX(EXTRACT(EPOCH FROM clock_timestamp() - waitstart)), 0)"

    def watch() -> None:
        with contextlib.closing(psycopg2.connect(**parameters)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            while not ended.wait(0.1):
                cursor.execute(f"SELECT {waited} FROM pg_locks WHERE NOT granted")
                waits.extend(float(seconds) for (seconds,) in cursor.fetchall())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield waits
    finally:
        ended.set()
        watcher.join()


def test_sixteen_loads_at_once_wait_for_no_lock(
    lake: FolderLake, tmp_path: Path, postgres: dict[str, str], record_property: Callable[[str, object], None]
) -> None:
    manifests = []
    for month in MONTHS:
        file = tmp_path / "month.parquet"
        write_sample("green", month, ROWS, file)
        manifests.append(make_month(lake, file.read_bytes(), tmp_path, month))
    load(manifests[0], lake.root, postgres)
    took: dict[int, float] = {}
    # Processes, as workers are.
    with (
        watched_locks(postgres) as waits,
        ProcessPoolExecutor(16, multiprocessing.get_context("spawn")) as pool,
    ):
        list(pool.map(time.sleep, [0.1] * 64))
        for at_once in (1, 2, 4, 8, 16):
            began = time.monotonic()
            for first in range(0, len(manifests), at_once):
                some = manifests[first : first + at_once]
                list(pool.map(load, some, [lake.root] * len(some), [postgres] * len(some)))
            took[at_once] = time.monotonic() - began
    with contextlib.closing(psycopg2.connect(**postgres)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*), COUNT(DISTINCT file_month) FROM ny_taxi.green_trip_data")
        assert cursor.fetchone() == (sum(manifest.clean.rows for manifest in manifests), 16)
    assert max(waits) < LONGEST_LOCK_WAIT
    figures = ", ".join(f"{at_once} at once {seconds:.1f} s" for at_once, seconds in took.items())
    record_property("attacked", 16)
    record_property(
        "measured",
        f"16 loads of {ROWS:,} rows into Postgres: {figures}; the longest wait for a lock {max(waits):.2f} s",
    )
