"""Postgres as a warehouse: behaviour that the other warehouses do not have."""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg2
import pytest

from nyc_tlc.errors import ConfigurationError, TlcError, TransientError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.postgres import PostgresWarehouse
from nyc_tlc.warehouse.protocol import Lookup
from nyc_tlc.warehouse.tables import Field, Table, month_tables, to_arrow
from waiting import eventually
from warehouse_cases import (
    FEBRUARY,
    HalfOf,
    fares,
    half_way,
    in_february,
    in_lake,
    ready,
    trips,
)


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
        cursor.execute("SELECT row_count FROM ny_taxi.loads")
        assert cursor.fetchone() == (30,), "its row of loads is an old one, as the description of loads says"
        reader.rollback()
        cursor.execute("SELECT obj_description('ny_taxi.loads'::regclass)")
        assert "REPEATABLE READ" in str(cursor.fetchone())
    reader.close()


@pytest.fixture
def encoded(postgres_server: dict[str, str], request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Create a database with an encoding for the test."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with contextlib.closing(psycopg2.connect(**postgres_server)) as admin, admin.cursor() as cursor:
        admin.autocommit = True
        how = f"ENCODING '{request.param}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        cursor.execute(f"CREATE DATABASE {name} {how}")
        yield postgres_server | {"dbname": name}
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("encoded", ["UTF8", "LATIN1", "SQL_ASCII"], indirect=True)
def test_texts_are_the_same_in_a_database_of_any_encoding_and_for_any_client(
    encoded: dict[str, str], lake: FolderLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    warehouse = PostgresWarehouse(encoded)
    file = in_lake(lake, tmp_path, *trips(3))
    url = "file:///donn\u00e9es/green.parquet"
    source = file.manifest.source.model_copy(update={"url": url})
    load_month(ready(lake, file.manifest.model_copy(update={"source": source})), warehouse)
    table = Table(
        "places", "Places", (Field("id", "int16", "Id", required=True), Field("name", "string", "Name")), ("id",)
    )
    warehouse.replace_lookups([Lookup(table, to_arrow([[1, "Caf\u00e9"]], table))])
    assert [load.source_url for load in warehouse.loads().values()] == [url]
    assert warehouse.query("SELECT name FROM ny_taxi.places") == [("Caf\u00e9",)]
    bytes_of_it = 4 if warehouse.query("SHOW server_encoding") == [("LATIN1",)] else 5
    assert warehouse.query("SELECT octet_length(name) FROM ny_taxi.places") == [(bytes_of_it,)]


@pytest.mark.parametrize("encoded", ["LATIN1"], indirect=True)
def test_a_text_that_the_database_cannot_hold_is_an_error_that_says_so(encoded: dict[str, str]) -> None:
    warehouse = PostgresWarehouse(encoded)
    warehouse.prepare(month_tables(), [], [])
    table = Table("places", "Places", (Field("name", "string", "Name"),), ("name",))
    with pytest.raises(
        ConfigurationError, match=r"encoding lacks a character; got .*LATIN1.*; use a database with ENC"
    ):
        warehouse.replace_lookups([Lookup(table, to_arrow([["\u6771\u4eac"]], table))])


#: What a user can add, what the error says of it, and what removes it.
ADDED = [
    (
        "CREATE VIEW mine AS SELECT * FROM ny_taxi.green_trip_data_2024_01",
        r"uses the month's partition.*view public\.mine depends on table ny_taxi\.green_trip_data_2024_01; keep",
        "DROP VIEW mine",
    ),
    (
        "CREATE UNIQUE INDEX own ON ny_taxi.green_trip_data_2024_01 (source_row);"
        "CREATE TABLE tips (trip int REFERENCES ny_taxi.green_trip_data_2024_01 (source_row))",
        r"uses the month's partition.*constraint tips_trip_fkey on table public\.tips depends on .*; keep",
        "DROP TABLE tips",
    ),
    (
        "ALTER TABLE ny_taxi.green_trip_data ADD CONSTRAINT is_paid CHECK (fare_amount >= 0)",
        r"a constraint of yours.*is_paid.*; drop it",
        "ALTER TABLE ny_taxi.green_trip_data DROP CONSTRAINT is_paid",
    ),
    (
        "ALTER TABLE ny_taxi.green_trip_data ALTER fare_amount SET NOT NULL",
        r"a constraint of yours.*fare_amount.*; drop it",
        "ALTER TABLE ny_taxi.green_trip_data ALTER fare_amount DROP NOT NULL",
    ),
    (
        "CREATE TABLE fares (fare float8 PRIMARY KEY); INSERT INTO fares VALUES (0), (1), (2);"
        "ALTER TABLE ny_taxi.green_trip_data ADD CONSTRAINT known FOREIGN KEY (fare_amount) REFERENCES fares",
        r"break a constraint of yours.*known.*; drop it",
        "ALTER TABLE ny_taxi.green_trip_data DROP CONSTRAINT known",
    ),
    (
        "ALTER TABLE ny_taxi.green_trip_data DETACH PARTITION ny_taxi.green_trip_data_2024_01",
        r"has the name of the month's partition; .*green_trip_data_2024_01.*; rename or drop it",
        "DROP TABLE ny_taxi.green_trip_data_2024_01",
    ),
    (
        "ALTER TABLE ny_taxi.green_trip_data DETACH PARTITION ny_taxi.green_trip_data_2024_01;"
        "CREATE TABLE year PARTITION OF ny_taxi.green_trip_data FOR VALUES FROM ('2023-06-01') TO ('2024-06-01');"
        "ALTER TABLE ny_taxi.green_trip_data_2024_01 RENAME TO old; ALTER INDEX"
        " ny_taxi.green_trip_data_2024_01_pickup_datetime_brin RENAME TO old_index",
        r"another partition has the month and others; .*year.*; detach it",
        "ALTER TABLE ny_taxi.green_trip_data DETACH PARTITION year",
    ),
]


def test_what_a_user_added_is_named_with_the_way_out(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    def run(statements: str) -> None:
        with contextlib.closing(psycopg2.connect(**postgres)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statements)

    warehouse = PostgresWarehouse(postgres)
    for added, says, removed in ADDED:
        load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
        run(added)
        file = in_lake(lake, tmp_path, *trips(5))
        with pytest.raises(ConfigurationError, match="green 2024-01: .*" + says) as caught:
            load_month(file, warehouse)
        assert "the old rows stay" in str(caught.value)
        run(removed)
        load_month(file, warehouse)
        assert len(fares(warehouse)) == 5


def test_a_month_whose_partition_was_renamed_or_moved_is_replaced_all_the_same(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    warehouse = PostgresWarehouse(postgres)
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    with contextlib.closing(psycopg2.connect(**postgres)) as connection, connection, connection.cursor() as cursor:
        cursor.execute('CREATE SCHEMA "My own"; ALTER TABLE ny_taxi.green_trip_data_2024_01 SET SCHEMA "My own"')
        cursor.execute('ALTER TABLE "My own".green_trip_data_2024_01 RENAME TO "January!"')
    load_month(in_lake(lake, tmp_path, *trips(5)), warehouse)
    partitions = (
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'ny_taxi.green_trip_data'::regclass"
    )
    assert (len(fares(warehouse)), warehouse.query(partitions)) == (5, [("ny_taxi.green_trip_data_2024_01",)])


def test_a_read_only_database_is_named_by_a_check_and_by_a_load(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    warehouse = PostgresWarehouse(postgres | {"options": "-c default_transaction_read_only=on"})
    for ask in (lambda: warehouse.check(lake), lambda: load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)):
        with pytest.raises(ConfigurationError, match=r"the database is read-only; .*name the server that takes writes"):
            ask()


def test_a_month_does_not_wait_for_another_ones_load(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    warehouse = PostgresWarehouse(postgres)
    february = in_lake(lake, tmp_path, *in_february(10), month=FEBRUARY)
    with half_way(in_lake(lake, tmp_path, *trips(20)), warehouse, None):
        load_month(february, PostgresWarehouse(postgres))
    assert (len(fares(warehouse)), len(fares(warehouse, FEBRUARY))) == (20, 10)


@pytest.mark.torture
def test_a_server_that_dies_in_a_copy_leaves_the_old_month(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    warehouse = PostgresWarehouse(postgres)
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    file = in_lake(lake, tmp_path, *trips(40))
    half = HalfOf(file.manifest, file.lake)
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
        eventually(lambda: loading.done() or "; waiting for up to" in caplog.text)
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
    every = (
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'ny_taxi'"
        " AND NOT table_name ~ '_[0-9]{4}_?[0-9]{2}'"
        " AND col_description(to_regclass('ny_taxi.' || table_name), ordinal_position::int) IS NULL"
    )
    assert warehouse.query(every) == []
    assert comments["trip_distance"] == "Distance the taximeter reported (miles)"
    assert comments["source_row"] == "The row's ordinal in the source file, from 0"
