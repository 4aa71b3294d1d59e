"""dbt builds the models for real, in the months that are due."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from backfill import backfill
from conftest import PrefectServer, Profile
from etl_month import etl_month
from factories import JANUARY, green_parquet, make_month, trip
from nyc_tlc.contract.contract import read_contract
from nyc_tlc.errors import ConfigurationError
from nyc_tlc.lake.clean_file import CleanFile
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.months import Month
from nyc_tlc.orchestration import dbt
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.warehouse import Kind, Warehouse

FEBRUARY = Month(2024, 2)
MODELS = dbt.MODELS_SCHEMA
DAYS = f"SELECT file_month, trips, total_amount FROM {MODELS}.fct_daily_trips ORDER BY file_month"


@pytest.fixture
def build(
    kind: Kind, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[dbt.NodeResult]]:
    """Runs a dbt command over the test's warehouse."""
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
    return lambda command: dbt.run_dbt("test", kind, command)


@pytest.fixture
def load(lake: FolderLake, warehouse: Warehouse, tmp_path: Path) -> Callable[..., None]:
    """Loads a green month of so many trips of 14.50."""

    def run(month: Month, trips: int, fare: float = 14.5) -> None:
        at = datetime(month.year, month.month, 15, 12)
        body = green_parquet(*(trip(lpep_pickup_datetime=at, total_amount=fare) for _ in range(trips)))
        manifest = make_month(lake, body, tmp_path, month)
        load_month(CleanFile(manifest, lake, read_contract("green")), warehouse)

    return run


@pytest.mark.torture
def test_models_follow_what_is_loaded(
    build: Callable[..., list[dbt.NodeResult]],
    load: Callable[..., None],
    warehouse: Warehouse,
    execute: Callable[[str], None],
) -> None:
    load(JANUARY, 2)
    load(FEBRUARY, 3)
    assert not dbt.find_bad(build("run"))
    first = [(JANUARY.first_day, 2, 29.0), (FEBRUARY.first_day, 3, 43.5)]
    assert warehouse.query(DAYS) == first

    # Nothing is due: nothing twice. What is not due is not touched either, which a mark shows.
    execute(f"UPDATE {MODELS}.fct_daily_trips SET share_cash = 9 WHERE file_month = DATE '2024-02-01'")
    assert not dbt.find_bad(build("run"))
    assert warehouse.query(DAYS) == first

    load(JANUARY, 5, fare=10.0)
    assert not dbt.find_bad(build("run"))
    assert warehouse.query(DAYS) == [(JANUARY.first_day, 5, 50.0), (FEBRUARY.first_day, 3, 43.5)]
    assert warehouse.query(f"SELECT file_month, share_cash FROM {MODELS}.fct_daily_trips WHERE share_cash = 9") == [
        (FEBRUARY.first_day, 9.0)
    ]

    execute("DELETE FROM ny_taxi.loads WHERE file_month = DATE '2024-01-01'")
    execute("DELETE FROM ny_taxi.green_trip_data WHERE file_month = DATE '2024-01-01'")
    assert not dbt.find_bad(build("run"))
    assert warehouse.query(DAYS) == [(FEBRUARY.first_day, 3, 43.5)]
    for model in ("fct_monthly_zone_revenue", "fct_hourly_zone_demand"):
        assert warehouse.query(f"SELECT DISTINCT file_month FROM {MODELS}.{model}") == [(FEBRUARY.first_day,)]


@pytest.mark.torture
def test_a_model_that_lacks_trips_fails_the_tests_with_their_sql(
    build: Callable[..., list[dbt.NodeResult]], load: Callable[..., None], execute: Callable[[str], None]
) -> None:
    load(JANUARY, 2)
    assert not dbt.find_bad(build("run"))
    assert not dbt.find_bad(build("test"))
    execute(f"UPDATE {MODELS}.fct_daily_trips SET trips = 1 WHERE trips > 1")
    bad = dbt.find_bad(build("test"))
    assert [result.name for result in bad] == ["daily_trips_are_the_loads"]
    assert "full outer join" in dbt.format_results(bad)


def test_without_dbt_a_run_that_is_to_build_models_says_so_before_it_fetches_anything(
    monkeypatch: pytest.MonkeyPatch, prefect_server: PrefectServer, own_environment: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(dbt, "COMMAND", tmp_path / "dbt")
    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        for flow, months in ((etl_month, {"year": 2024, "month": 1}), (backfill, {"last": 1})):
            with pytest.raises(ConfigurationError, match=r"dbt is not installed; .*make dbt"):
                flow(**months, source="sample", models=True)
    assert not (own_environment / "lake").exists()


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_a_month_and_its_models_by_one_command_and_the_password_is_nowhere_to_be_read(dev: Profile) -> None:
    if not dbt.COMMAND.exists():
        pytest.skip("dbt is not installed: make dbt")
    assert dev.register().returncode == 0
    month = ("--source", "sample", "--color", "green", "--year", "2024", "--month", "1", "--models")
    done = dev.run("etl_month", *month, PREFECT_LOGGING_LEVEL="DEBUG")
    assert done.returncode == 0, done.stderr
    count = len(list(dbt.PROJECT.glob("models/**/*.sql")))
    assert f"models      postgres: {count} models are built and " in done.stdout
    connection = {name.removeprefix("POSTGRES_").lower(): value for name, value in dev.variables.items()}
    with (
        contextlib.closing(
            psycopg2.connect(
                host=connection["host"],
                port=connection["port"],
                dbname=connection["db"],
                user=connection["user"],
                password=connection["password"],
            )
        ) as postgres,
        postgres.cursor() as cursor,
    ):
        cursor.execute(f"SELECT sum(trips), (SELECT row_count FROM ny_taxi.loads) FROM {MODELS}.fct_daily_trips")
        built, loaded = cursor.fetchone() or (None, 0)
    assert built == loaded > 0
    with temporary_settings({PREFECT_API_URL: dev.server.url}), get_client(sync_client=True) as client:
        kept = f"{client.read_artifacts()}{client.read_logs()}{client.read_task_runs()}"
    folders = (dbt.PROJECT, Path(tempfile.gettempdir()))
    files = [path for folder in folders for path in folder.glob("nyc-tlc-dbt-*/**/*") if path.is_file()]
    assert not files, "dbt's profiles.yml and target are gone"
    assert dev.variables["POSTGRES_PASSWORD"] not in f"{done.stdout}{done.stderr}{kept}"
