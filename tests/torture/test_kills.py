"""A run is killed at a random moment: the old or the new month is complete, and a new run repairs everything."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from attacked import bring_month, open_lake, open_warehouse

from factories import JANUARY, green_parquet, trip
from nyc_tlc.errors import ConflictError
from nyc_tlc.lake.keys import Keys
from stand_ins.bigquery import BigQuery
from stand_ins.gcs import Gcs

KEYS = Keys("green", JANUARY)
#: The seed of the moments; TLC_TEST_SEED takes another one.
SEED = int(os.environ.get("TLC_TEST_SEED", "20240101"))
OLD = [trip(fare_amount=float(number)) for number in range(10_000)]
NEW = [trip(fare_amount=float(number) / 2) for number in range(15_000)]

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["attacked"])


@pytest.fixture(autouse=True)
def path_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes import from the same folders as this one."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1] / "integration"), *sys.path]))


@pytest.fixture
def big_query(gcs: Gcs) -> Iterator[BigQuery]:
    """Serve BigQuery, which reads the bucket."""

    def read(bucket: str, name: str) -> bytes | None:
        return gcs.read(bucket, name) if name in gcs.names(bucket) else None

    with BigQuery("test", read).running() as big_query:
        yield big_query


def run(source: str, lake_at: str, warehouse_at: dict[str, str] | None, day: bool, after: float, how: int) -> float:
    """Bring the month in a separate process; send it a signal after some seconds. Return how many seconds it lived."""
    process = PROCESSES.Process(target=bring_month, args=(source, lake_at, warehouse_at), kwargs={"day": day})
    began = time.monotonic()
    process.start()
    process.join(after)
    # It may end by itself between the look and the signal.
    with contextlib.suppress(ProcessLookupError):
        if process.is_alive():
            os.kill(process.pid or 0, how)
    process.join(5)
    assert not process.is_alive(), "it has to be gone five seconds after the signal"
    return time.monotonic() - began


def check_lake(lake_at: str, digests: set[str]) -> None:
    """Check that the month is complete, and made from one of the expected sources."""
    lake = open_lake(lake_at)
    manifest = lake.manifest(KEYS)
    assert manifest is not None, "the lake never is without the month"
    assert manifest.source.sha256 in digests
    for file in manifest.files:
        with lake.open(file.key) as opened:
            assert hashlib.sha256(opened.read()).hexdigest() == file.sha256


def attack(
    tmp_path: Path, lake_at: str, warehouse_at: dict[str, str] | None, kills: int, day: bool, seed: int
) -> dict[str, int]:
    """Kill runs that replace one month by the other, and back, at random moments."""
    chance = random.Random(seed)
    sources = []
    for number, trips in enumerate((OLD, NEW)):
        folder = tmp_path / f"source{number}"
        folder.mkdir()
        (folder / "green_2024-01").write_bytes(green_parquet(*trips))
        sources.append((f"file://{folder}/{{color}}_{{year}}-{{month:02d}}", len(trips)))
    digests = {
        hashlib.sha256((tmp_path / f"source{number}" / "green_2024-01").read_bytes()).hexdigest() for number in (0, 1)
    }
    run(sources[0][0], lake_at, warehouse_at, day, 60, 0)
    whole = run(sources[1][0], lake_at, warehouse_at, day, 60, 0)
    seen: dict[str, int] = {"killed": 0, "ended before": 0}
    for number in range(kills):
        source, _ = sources[number % 2]
        how = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        after = chance.uniform(0, 1.1 * whole)
        seen["ended before" if run(source, lake_at, warehouse_at, day, after, how) < after else "killed"] += 1
        check_lake(lake_at, digests)
        if warehouse_at:
            rows = open_warehouse(warehouse_at).query("SELECT COUNT(*) FROM ny_taxi.green_trip_data")[0][0]
            assert rows in (len(OLD), len(NEW)), "a warehouse never has half a month or two"
        if chance.random() < 0.3:
            source, count = sources[(number + 1) % 2]
            run(source, lake_at, warehouse_at, day, 60, 0)
            check_lake(lake_at, digests)
            lake, manifest = open_lake(lake_at), open_lake(lake_at).manifest(KEYS)
            assert manifest and manifest.source.rows == count
            left = {key for prefix in KEYS.prefixes for key in lake.list_keys(prefix) if KEYS.owns(key)}
            assert left == manifest.file_keys, "the rerun leaves nothing else"
            if warehouse_at:
                loaded = open_warehouse(warehouse_at).query("SELECT COUNT(*) FROM ny_taxi.green_trip_data")
                assert loaded == [(manifest.clean.rows,)]
    scratch = Path(os.environ["TLC_HOME"]) / "nyc-tlc-scratch"
    run(sources[0][0], lake_at, warehouse_at, day, 60, 0)
    run(sources[1][0], lake_at, warehouse_at, day, 60, 0)
    assert not list(scratch.iterdir()) if scratch.exists() else True, "the next run clears what a killed one left"
    return seen


def lake_at(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    return str(tmp_path / "lake") if where == "folder" else request.getfixturevalue("gcs").url


def warehouse_at(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, str] | None:
    if kind == "none":
        return None
    if kind == "duckdb":
        return {"path": str(tmp_path / "warehouse.duckdb")}
    return (
        request.getfixturevalue("postgres") if kind == "postgres" else {"url": request.getfixturevalue("big_query").url}
    )


CASES = [("folder", "none"), ("bucket", "none"), ("folder", "duckdb"), ("folder", "postgres"), ("bucket", "bigquery")]


@pytest.mark.torture
@pytest.mark.timeout(900)
@pytest.mark.parametrize("day", [False, True], ids=["month", "day"])
@pytest.mark.parametrize(("where", "kind"), CASES)
def test_many_kills(
    where: str, kind: str, day: bool, tmp_path: Path, request: pytest.FixtureRequest, record_property: Any
) -> None:
    seen = attack(
        tmp_path, lake_at(where, tmp_path, request), warehouse_at(kind, tmp_path, request), 25, day, SEED + day
    )
    record_property("attacked", seen["killed"])
    assert seen["killed"] > 5


def bring_or_conflict(source: str, lake_at: str, warehouse_at: dict[str, str], number: int) -> str:
    """Bring a month. Return how the run ended: ``done`` or ``refused``."""
    try:
        bring_month(source, lake_at, warehouse_at, month=JANUARY.plus(-number))
    except ConflictError:
        return "refused"
    return "done"


def bring_many(
    tmp_path: Path, postgres: dict[str, str], months: int, runs: int, monkeypatch: pytest.MonkeyPatch
) -> Counter[str]:
    """Run more runs than months at the same time, in a folder and Postgres; check that no row is lost or doubled."""
    monkeypatch.setenv("TLC_SAMPLE_ROWS", "2000")
    lake_at, chance = str(tmp_path / "lake"), random.Random(SEED)
    numbers = [number % months for number in range(runs)]
    chance.shuffle(numbers)
    with ProcessPoolExecutor(8, PROCESSES) as pool:
        outcomes = [pool.submit(bring_or_conflict, "sample", lake_at, postgres, number) for number in numbers]
        ended = Counter(outcome.result(120) for outcome in outcomes)
    assert ended["done"] >= months
    lake, warehouse = open_lake(lake_at), open_warehouse(postgres)
    manifests = [lake.manifest(Keys("green", JANUARY.plus(-number))) for number in range(months)]
    for manifest in manifests:
        assert manifest is not None
        for file in manifest.files:
            with lake.open(file.key) as opened:
                assert hashlib.sha256(opened.read()).hexdigest() == file.sha256
    counted = warehouse.query("SELECT file_month, COUNT(*) FROM ny_taxi.green_trip_data GROUP BY file_month")
    assert dict(counted) == {
        manifest.month_keys.month.first_day: manifest.clean.rows for manifest in manifests if manifest
    }
    assert len(warehouse.loads()) == months
    return ended


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_a_hundred_runs_at_once_over_forty_months(
    tmp_path: Path, postgres: dict[str, str], monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    record_property("attacked", bring_many(tmp_path, postgres, 40, 100, monkeypatch).total())
