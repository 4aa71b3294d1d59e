"""The real dbt builds the models of the months that are due."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from factories import JANUARY, green_parquet, make_month, trip
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.month import Month
from nyc_tlc.runs import dbt
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.protocol import Kind, Warehouse
from waiting import eventually

FEBRUARY = Month(2024, 2)
MODELS = "ny_taxi_models"
DAYS = f"SELECT file_month, trips, total_amount FROM {MODELS}.fct_daily_trips ORDER BY 1"


@pytest.fixture
def build(
    kind: Kind, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[dbt.NodeResult]]:
    """Return a function that runs a dbt command on the test's warehouse."""
    if not dbt.COMMAND.exists():
        pytest.skip("dbt is not installed: make dbt")
    output: dict[str, Any] = {"type": kind, "path": str(tmp_path / "warehouse.duckdb")}
    if kind == "postgres":
        known = request.getfixturevalue("postgres")
        named = {name: known[name] for name in ("host", "user", "dbname")}
        output = {"type": kind, "port": int(known.get("port", 5432)), "password": known.get("password", "")} | named
    if kind == "bigquery":
        url = request.getfixturevalue("big_query").url
        output = {"type": kind, "method": "oauth-secrets", "token": "any", "project": "test", "api_endpoint": url}
    monkeypatch.setattr(dbt, "open_dbt_target", lambda *_: (dict(output), {}))
    return lambda *arguments: dbt.run_dbt("local", kind, *arguments)


@pytest.fixture
def load(lake: FolderLake, warehouse: Warehouse, tmp_path: Path) -> Callable[..., None]:
    """Return a function that loads a green month with a number of trips, each for 14.50 dollars."""

    def run(month: Month, trips: int, fare: float = 14.5) -> None:
        at = datetime(month.year, month.month, 15, 12)
        body = green_parquet(*(trip(lpep_pickup_datetime=at, total_amount=fare) for _ in range(trips)))
        manifest = make_month(lake, body, tmp_path, month)
        load_month(LakeFile(manifest, lake), warehouse)

    return run


@pytest.mark.torture
def test_models_follow_what_is_loaded(
    kind: Kind,
    build: Callable[..., list[dbt.NodeResult]],
    load: Callable[..., None],
    warehouse: Warehouse,
    execute: Callable[[str], None],
) -> None:
    load(JANUARY, 2)
    load(FEBRUARY, 3)
    assert not dbt.find_failed(build("run"))
    if kind == "duckdb":
        every = (
            f"SELECT table_name, column_name FROM duckdb_columns() WHERE schema_name = '{MODELS}' AND comment IS NULL"
        )
        assert warehouse.query(every) == []
    first = [(JANUARY.first_day, 2, 29.0), (FEBRUARY.first_day, 3, 43.5)]
    assert warehouse.query(DAYS) == first

    # Nothing is due: nothing twice. What is not due is not touched either, which a mark shows.
    execute(f"UPDATE {MODELS}.fct_daily_trips SET share_cash = 9 WHERE file_month = DATE '2024-02-01'")
    assert not dbt.find_failed(build("run"))
    assert warehouse.query(DAYS) == first

    load(JANUARY, 5, fare=10.0)
    assert not dbt.find_failed(build("run"))
    assert warehouse.query(DAYS) == [(JANUARY.first_day, 5, 50.0), (FEBRUARY.first_day, 3, 43.5)]
    assert warehouse.query(f"SELECT file_month, share_cash FROM {MODELS}.fct_daily_trips WHERE share_cash = 9") == [
        (FEBRUARY.first_day, 9.0)
    ]

    ledger = "green_loads" if kind == "bigquery" else "loads"
    execute(f"DELETE FROM ny_taxi.{ledger} WHERE file_month = DATE '2024-01-01'")
    execute("DELETE FROM ny_taxi.green_trip_data WHERE file_month = DATE '2024-01-01'")
    assert not dbt.find_failed(build("run"))
    assert warehouse.query(DAYS) == [(FEBRUARY.first_day, 3, 43.5)]
    for model in ("fct_monthly_zone_revenue", "fct_hourly_zone_demand"):
        assert warehouse.query(f"SELECT DISTINCT file_month FROM {MODELS}.{model}") == [(FEBRUARY.first_day,)]


@pytest.mark.torture
@pytest.mark.parametrize("kind", ["postgres"])
def test_of_two_runs_that_find_a_month_due_one_adds_it(
    build: Callable[..., list[dbt.NodeResult]],
    load: Callable[..., None],
    warehouse: Warehouse,
    postgres: dict[str, str],
) -> None:
    load(JANUARY, 2)
    assert not dbt.find_failed(build("run"))
    load(FEBRUARY, 3)
    held = f'SELECT pg_advisory_xact_lock(hashtext(\'"{postgres["dbname"]}"."{MODELS}"."fct_daily_trips"\'))'
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    select = ("run", "--select", "fct_daily_trips")
    with closing(psycopg2.connect(**postgres)) as connection, connection.cursor() as cursor:
        cursor.execute(held)
        with ThreadPoolExecutor() as side_by_side:
            runs = [side_by_side.submit(build, *select) for _ in range(2)]
            # Both have read what is due, and wait.
            eventually(lambda: warehouse.query(waiting) == [(2,)], 120)
            connection.commit()
        assert [dbt.find_failed(run.result()) for run in runs] == [[], []]
    assert warehouse.query(DAYS) == [(JANUARY.first_day, 2, 29.0), (FEBRUARY.first_day, 3, 43.5)]


@pytest.mark.torture
@pytest.mark.parametrize("kind", ["duckdb", "postgres"])
def test_the_models_of_a_schema_of_ones_own_stand_beside_it(
    build: Callable[..., list[dbt.NodeResult]],
    reopen: Callable[..., Warehouse],
    lake: FolderLake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TLC_SCHEMA", "my_taxi")
    mine = reopen(schema="my_taxi")
    load_month(LakeFile(make_month(lake, green_parquet(trip(), trip()), tmp_path), lake), mine)
    assert not dbt.find_failed(build("run"))
    assert mine.query("SELECT file_month, trips FROM my_taxi_models.fct_daily_trips") == [(JANUARY.first_day, 2)]


@pytest.mark.torture
def test_the_documentation_can_be_made(build: Callable[..., list[dbt.NodeResult]], load: Callable[..., None]) -> None:
    load(JANUARY, 2)
    build("run")
    assert {"fct_trips", "dim_zones"} <= {result.name for result in build("docs", "generate")}


@pytest.mark.torture
def test_a_model_that_lacks_trips_fails_the_tests_with_their_sql(
    build: Callable[..., list[dbt.NodeResult]], load: Callable[..., None], execute: Callable[[str], None]
) -> None:
    load(JANUARY, 2)
    assert not dbt.find_failed(build("run"))
    assert not dbt.find_failed(build("test"))
    execute(f"UPDATE {MODELS}.fct_daily_trips SET trips = 1 WHERE trips > 1")
    failed = dbt.find_failed(build("test"))
    assert [result.name for result in failed] == ["daily_trips_are_the_loads"]
    assert "full outer join" in dbt.format_results(failed)
