"""Postgres as a warehouse: behaviour that the other warehouses do not have."""

from __future__ import annotations

import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg2
import pytest

from nyc_tlc.errors import TlcError, TransientError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.postgres import PostgresWarehouse
from waiting import eventually
from warehouse_cases import (
    FEBRUARY,
    OLD_LEDGER,
    OLD_LOAD,
    HalfOf,
    check_renamed,
    fares,
    half_way,
    in_february,
    in_lake,
    trips,
)


def test_a_ledger_with_the_old_column_rows_is_renamed_and_loses_nothing(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    with contextlib.closing(psycopg2.connect(**postgres)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA ny_taxi")
        cursor.execute(OLD_LEDGER.format(text="text", instant="timestamptz"))
        cursor.execute(OLD_LOAD.format(now="2024-01-05T06:07:08Z"))
    check_renamed(PostgresWarehouse(postgres), in_lake(lake, tmp_path, *trips(3)))


def test_a_reader_whose_snapshot_is_older_never_finds_the_month_empty(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    warehouse = PostgresWarehouse(postgres)
    load_month(in_lake(lake, tmp_path, *trips(30)), warehouse)
    file = in_lake(lake, tmp_path, *trips(50))
    reader = psycopg2.connect(**postgres)
    reader.set_session(isolation_level="REPEATABLE READ")
    with reader.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_class LIMIT 1")
        load_month(file, warehouse)
        cursor.execute("SELECT count(*) FROM ny_taxi.green_trip_data")
        assert cursor.fetchone() == (50,)
    reader.close()


def test_a_month_does_not_wait_for_another_ones_load(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    warehouse = PostgresWarehouse(postgres)
    february = in_lake(lake, tmp_path, *in_february(10), month=FEBRUARY)
    with half_way(in_lake(lake, tmp_path, *trips(20)), warehouse, None):
        load_month(february, PostgresWarehouse(postgres))
    assert (len(fares(warehouse)), len(fares(warehouse, FEBRUARY))) == (20, 10)


def test_a_server_that_dies_in_a_copy_leaves_the_old_month(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    warehouse = PostgresWarehouse(postgres)
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    file = in_lake(lake, tmp_path, *trips(40))
    half = HalfOf(file.manifest, file.lake, file.contract)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load_month, half, warehouse)
        assert half.reached.wait(30)
        (pid,) = warehouse.query(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'nyc-tlc-flows: green 2024-01'"
            " AND datname = current_database()"
        )[0]
        # A backend that dies of SIGKILL makes the server end all others, and recover from its log.
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pytest.skip("the PostgreSQL server is not on this machine")
        half.go_on.set()
        with pytest.raises(TransientError, match="green 2024-01"):
            loading.result(60)
    eventually(lambda: answers(postgres))
    assert fares(warehouse) == [0, 1, 2]
    load_month(file, warehouse)
    assert len(fares(warehouse)) == 40


def answers(parameters: dict[str, str]) -> bool:
    """Return whether the server accepts connections again."""
    with contextlib.suppress(psycopg2.OperationalError):
        psycopg2.connect(**parameters).close()
        return True
    return False


def test_there_is_a_primary_key_where_one_is_asked_for(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = PostgresWarehouse(postgres)
    keys = "SELECT count(*) FROM pg_index WHERE indisprimary AND indrelid::regclass::text LIKE '%green_trip_data%'"
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    assert warehouse.query(keys) == [(0,)]
    monkeypatch.setenv("TLC_POSTGRES_PRIMARY_KEY", "true")
    load_month(in_lake(lake, tmp_path, *in_february(3), month=FEBRUARY), warehouse)
    assert warehouse.query(keys) == [(3,)]
    load_month(in_lake(lake, tmp_path, *trips(4)), warehouse)
    assert warehouse.query(keys) == [(3,)]
    assert (len(fares(warehouse)), len(fares(warehouse, FEBRUARY))) == (4, 3)


def test_a_busy_reader_delays_a_swap_but_not_the_readers_behind_it(
    postgres: dict[str, str],
    lake: FolderLake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    warehouse = PostgresWarehouse(postgres)
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    file = in_lake(lake, tmp_path, *trips(5))
    busy = psycopg2.connect(**postgres)
    with busy.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute("SELECT count(*) FROM ny_taxi.green_trip_data")
        loading = pool.submit(load_month, file, warehouse)
        eventually(lambda: loading.done() or "waiting for a lock" in caplog.text)
        assert len(fares(warehouse)) == 3
        busy.rollback()
        assert loading.result(30)[0].row_count == 5
    busy.close()
    monkeypatch.setenv("TLC_WAREHOUSE_WAIT", "0")
    busy = psycopg2.connect(**postgres)
    with busy.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM ny_taxi.green_trip_data")
        with pytest.raises(TransientError, match="busy"):
            load_month(in_lake(lake, tmp_path, *trips(6)), warehouse)
    busy.close()
    assert len(fares(warehouse)) == 5


def test_no_error_shows_the_password(postgres: dict[str, str]) -> None:
    warehouse = PostgresWarehouse(postgres | {"password": "planted-secret", "port": "1", "host": "127.0.0.1"})
    with pytest.raises(TlcError) as caught:
        warehouse.loads()
    shown = f"{caught.value!r} {caught.value.__cause__!r} {warehouse!r} {warehouse.place}"
    assert "planted-secret" not in shown


def test_tables_and_columns_say_what_they_hold(postgres: dict[str, str], lake: FolderLake, tmp_path: Path) -> None:
    warehouse = PostgresWarehouse(postgres)
    load_month(in_lake(lake, tmp_path, *trips(1)), warehouse)
    sql = (
        "SELECT attname, col_description(attrelid, attnum) FROM pg_attribute"
        " WHERE attrelid = 'ny_taxi.green_trip_data'::regclass AND attnum > 0"
    )
    comments = dict(warehouse.query(sql))
    assert comments["trip_distance"] == "Distance the taximeter reported (miles)"
    assert comments["source_row"] == "The row's ordinal in the source file, from 0"
