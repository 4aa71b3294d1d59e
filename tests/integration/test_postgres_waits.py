"""Postgres left alone: nobody waits without a limit, readers go on, and what others have made is kept."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from nyc_tlc.errors import ConfigurationError, TransientError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.postgres import PostgresWarehouse
from waiting import eventually
from warehouse_cases import FEBRUARY, HalfOf, fares, in_february, in_lake, trips


@pytest.fixture
def warehouse(postgres: dict[str, str]) -> PostgresWarehouse:
    """A warehouse of the test's own."""
    return PostgresWarehouse(postgres)


@contextmanager
def session(postgres: dict[str, str]) -> Iterator[Any]:
    """Someone else's open transaction."""
    connection = psycopg2.connect(**postgres)
    try:
        yield connection.cursor()
    finally:
        connection.close()


def run(postgres: dict[str, str], *statements: str) -> list[tuple[Any, ...]]:
    """Statements of someone else, committed; the rows of the last one."""
    connection = psycopg2.connect(**postgres)
    with connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        rows = cursor.fetchall() if cursor.description else []
    connection.close()
    return rows


def test_a_new_month_does_not_wait_for_readers(
    warehouse: PostgresWarehouse, postgres: dict[str, str], lake: FolderLake, tmp_path: Path, monkeypatch: Any
) -> None:
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    monkeypatch.setenv("TLC_WAREHOUSE_WAIT", "0")
    with session(postgres) as reader:
        reader.execute("SELECT count(*) FROM ny_taxi.green_trip_data")
        load_month(in_lake(lake, tmp_path, *in_february(2), month=FEBRUARY), warehouse)
        reader.execute("SELECT count(*) FROM ny_taxi.green_trip_data")
        assert reader.fetchone() == (5,)


def test_readers_of_another_month_go_on_while_a_swap_waits(
    warehouse: PostgresWarehouse,
    postgres: dict[str, str],
    lake: FolderLake,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    file = in_lake(lake, tmp_path, *trips(5))
    with session(postgres) as busy, ThreadPoolExecutor(1) as pool:
        busy.execute("SELECT count(*) FROM ny_taxi.green_trip_data")
        loading = pool.submit(load_month, file, warehouse)
        eventually(lambda: "waiting for the readers" in caplog.text)
        # The swap has given its place in the queue up, for longer than it has waited.
        assert len(fares(warehouse)) == 3
        busy.connection.rollback()
        assert loading.result(60)[0].row_count == 5


def test_nothing_is_locked_when_nothing_is_missing(
    warehouse: PostgresWarehouse, postgres: dict[str, str], lake: FolderLake, tmp_path: Path, monkeypatch: Any
) -> None:
    file = in_lake(lake, tmp_path, *trips(3))
    load_month(file, warehouse)
    monkeypatch.setenv("TLC_WAREHOUSE_WAIT", "0")
    with session(postgres) as other:
        # As a migration of someone else holds them.
        other.execute("LOCK TABLE ny_taxi.zones, ny_taxi.yellow_trip_data IN SHARE UPDATE EXCLUSIVE MODE")
        other.execute("SELECT pg_advisory_xact_lock(hashtext('nyc_tlc ny_taxi'))")
        assert load_month(file, warehouse) == (warehouse.loads()["green", file.month], False)


def test_tables_that_others_keep_are_waited_for_and_then_named(
    warehouse: PostgresWarehouse, postgres: dict[str, str], lake: FolderLake, tmp_path: Path, monkeypatch: Any
) -> None:
    file = in_lake(lake, tmp_path, *trips(3))
    monkeypatch.setenv("TLC_WAREHOUSE_WAIT", "0")
    with session(postgres) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtext('nyc_tlc ny_taxi'))")
        with pytest.raises(TransientError, match="others keep the tables of ny_taxi busy; nothing was changed"):
            load_month(file, warehouse)
    assert load_month(file, warehouse)[1]


def test_grants_on_a_view_that_is_made_again_are_kept_and_a_view_on_it_is_named(
    warehouse: PostgresWarehouse, postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    file = in_lake(lake, tmp_path, *trips(3))
    load_month(file, warehouse)
    reader = f"reader_{os.getpid()}"
    run(
        postgres,
        f"CREATE ROLE {reader}",
        f"GRANT SELECT ON ny_taxi.trips TO {reader}",
        "DROP VIEW ny_taxi.trips_by_zone",
        # As an earlier version of the contract had it: a column fewer, in the middle.
        "CREATE TABLE kept AS SELECT * FROM ny_taxi.trips",
        "DROP VIEW ny_taxi.trips",
        "CREATE VIEW ny_taxi.trips AS SELECT color, pickup_datetime FROM kept",
        f"GRANT SELECT ON ny_taxi.trips TO {reader}",
        "CREATE VIEW public.mine AS SELECT * FROM ny_taxi.trips",
    )
    with pytest.raises(ConfigurationError, match="mine") as caught:
        load_month(file, warehouse)
    assert "\n" not in str(caught.value)
    run(postgres, "DROP VIEW public.mine")
    load_month(file, warehouse)
    granted = run(
        postgres,
        "SELECT privilege_type FROM information_schema.role_table_grants"
        f" WHERE table_name = 'trips' AND grantee = '{reader}'",
    )
    assert granted == [("SELECT",)]
    run(postgres, f"DROP OWNED BY {reader}", f"DROP ROLE {reader}")


def test_partitions_and_indexes_have_names_and_comments_that_say_what_they_are(
    warehouse: PostgresWarehouse, postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse, "the first run")
    load_month(in_lake(lake, tmp_path, *trips(4)), warehouse, "the second run")
    indexes = run(postgres, "SELECT indexname FROM pg_indexes WHERE tablename ~ '^green_trip_data' ORDER BY 1")
    assert indexes == [
        ("green_trip_data_2024_01_pickup_datetime_brin",),
        ("green_trip_data_pickup_datetime_brin",),
    ]
    (comment,) = run(postgres, "SELECT obj_description('ny_taxi.green_trip_data_2024_01'::regclass)")[0]
    assert comment.startswith("green 2024-01 from file://")
    assert comment.endswith("loaded by the flow run the second run")


def test_what_the_profile_says_of_the_connection_counts(postgres: dict[str, str]) -> None:
    asked = PostgresWarehouse(postgres | {"application_name": "ours", "connect_timeout": "3"})
    assert asked.query("SELECT current_setting('application_name')") == [("ours",)]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"host": "127.0.0.1", "port": "1"}, TransientError),
        ({"dbname": "there_is_none"}, ConfigurationError),
        ({"user": "nobody"}, ConfigurationError),
    ],
)
def test_a_connection_that_is_refused_is_told_by_its_code_in_any_language(
    postgres: dict[str, str], changes: dict[str, str], kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        PostgresWarehouse(postgres | changes).loads()
    assert "\n" not in str(caught.value)


def test_a_connection_that_is_cut_in_a_copy_leaves_the_old_month(
    warehouse: PostgresWarehouse, postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    file = in_lake(lake, tmp_path, *trips(40))
    half = HalfOf(file.manifest, file.lake, file.contract)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load_month, half, warehouse)
        assert half.reached.wait(30)
        terminated = run(
            postgres,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'nyc-tlc-flows: green 2024-01'",
        )
        assert terminated == [(True,)]
        half.go_on.set()
        with pytest.raises(TransientError, match="the old rows stay"):
            loading.result(60)
    assert fares(warehouse) == [0, 1, 2]
    load_month(file, warehouse)
    assert len(fares(warehouse)) == 40


@pytest.mark.torture
@pytest.mark.timeout(300)
def test_a_reader_for_a_minute_delays_a_load_and_stalls_no_other_reader(
    warehouse: PostgresWarehouse, postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    file = in_lake(lake, tmp_path, *trips(5))
    stop, counted = threading.Event(), 0
    with session(postgres) as busy, ThreadPoolExecutor(1) as pool:
        busy.execute("SELECT count(*), pg_sleep(60) FROM ny_taxi.green_trip_data LIMIT 0")
        loading = pool.submit(load_month, file, warehouse)
        while not stop.wait(0.5) and counted < 100:
            assert len(fares(warehouse)) == 3
            counted += 1
        busy.connection.rollback()
        assert loading.result(60)[0].row_count == 5
    assert counted == 100


def test_a_server_that_is_killed_is_a_failure_that_time_can_heal(
    warehouse: PostgresWarehouse, postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    """A backend that dies of SIGKILL makes the server end all others, and recover from its log."""
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    (pid,) = run(postgres, "SELECT pg_backend_pid()")[0]
    with session(postgres) as victim:
        victim.execute("SELECT pg_backend_pid()")
        (pid,) = victim.fetchone()
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pytest.skip("the PostgreSQL server is not on this machine")

        def ended() -> bool:
            try:
                warehouse.loads()
            except TransientError:
                return False
            return True

        eventually(ended)
    assert fares(warehouse) == [0, 1, 2]
