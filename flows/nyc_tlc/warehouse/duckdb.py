"""DuckDB, the embedded warehouse: delete and insert in one transaction, in a file that one process at a time writes."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from nyc_tlc.contract import types
from nyc_tlc.errors import BusyError, ConfigurationError, TlcError, first_line
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Color, Month
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.ledger import Execute, read_loads, write_load
from nyc_tlc.warehouse.protocol import Kind, Load, Lookup, Patience, reconcile
from nyc_tlc.warehouse.tables import (
    LOADS,
    SCHEMA,
    Table,
    View,
    missing_fields,
    quarantine_table,
    trip_table,
)

log = logging.getLogger(__name__)

TYPES = {kind: names.duckdb for kind, names in types.TYPES.items()}
#: A view in a file from elsewhere could read the files of this machine: rows come as Arrow batches, and DuckDB opens
#: nothing but its own file.
CONFIGURATION: dict[str, Any] = {"enable_external_access": False, "autoinstall_known_extensions": False}

#: One lock for each file: DuckDB lets the threads of one process share a file, and two writers would conflict.
_write_locks: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)


class DuckDbWarehouse:
    """A warehouse in a DuckDB file."""

    kind: Kind = "duckdb"

    def __init__(self, path: Path) -> None:
        """Use a DuckDB file; the first write creates it."""
        self._path, self._patience = path.absolute(), Patience()
        here = Path.cwd()
        self.place = str(self._path.relative_to(here) if self._path.is_relative_to(here) else self._path)

    def loads(self) -> dict[tuple[Color, Month], Load]:
        """Return the loaded months."""
        if not self._path.exists():
            return {}
        with self._connected("the list of loads", read_only=True) as connection:
            _require_table(connection, LOADS.name)
            return read_loads(_make_execute(connection)) if _columns(connection, LOADS.name) else {}

    def prepare(self, tables: Sequence[Table], lookups: Sequence[Lookup], views: Sequence[View]) -> None:
        """Create missing tables, columns, lookup tables and views."""
        with self._transaction("the tables") as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            changed = [self._prepare(connection, table) for table in tables]
            for lookup in lookups:
                _require_table(connection, lookup.table.name)
                if not _columns(connection, lookup.table.name):
                    self._replace_lookup(connection, lookup)
            for view in views:
                if any(changed) or tuple(_columns(connection, view.name)) != view.columns:
                    connection.execute(f"CREATE OR REPLACE VIEW {_qualify(view.name)} AS {view.sql(_qualify)}")
                    connection.execute(f"COMMENT ON VIEW {_qualify(view.name)} IS {_quote(view.description)}")
                    for column, comment in view.comments.items():
                        connection.execute(f"COMMENT ON COLUMN {_qualify(view.name)}.{column} IS {_quote(comment)}")

    def replace_month(self, file: LakeFile, flow_run_id: str | None, *, force: bool = False) -> tuple[Load, bool]:
        """Replace the month's rows by those of the files."""
        tables = (trip_table(file.contract), file), (quarantine_table(file.contract), file.quarantine)
        with self._transaction(file.name) as connection:
            known = read_loads(_make_execute(connection)).get((file.manifest.color, file.month))
            if known and known.is_of(file.manifest) and not force:
                counts = [_count(connection, table, file.month) for table, _ in tables]
                if counts == [known.row_count, known.quarantine_rows]:
                    return known, False
            for table, rows in tables:
                self._replace_rows(connection, table, rows)
            load = Load.of(file, datetime.now(UTC), flow_run_id)
            write_load(_make_execute(connection), load)
        return load, True

    def _replace_rows(self, connection: duckdb.DuckDBPyConnection, table: Table, file: LakeFile) -> None:
        name = _qualify(table.name)
        connection.execute(f"DELETE FROM {name} WHERE file_month = ?", [file.month.first_day])
        connection.register("file_rows", read_rows(file))
        rows = _fetch_number(connection, f"INSERT INTO {name} BY NAME SELECT * FROM file_rows")
        connection.unregister("file_rows")
        reconcile(file, self.place, inserted=rows, found=_count(connection, table, file.month))

    def replace_lookups(self, lookups: Sequence[Lookup]) -> None:
        """Replace all rows of the lookup tables."""
        with self._transaction("the lookups") as connection:
            for lookup in lookups:
                self._replace_lookup(connection, lookup)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a SELECT."""
        with self._connected("a query", read_only=True) as connection:
            return connection.execute(sql).fetchall()

    def check(self, lake: Lake) -> str:
        """Check that the file can be written."""
        with self._transaction("a check") as connection:
            connection.execute("SELECT 1")
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            connection.execute(f"CREATE TABLE {_qualify('connection_check')} (one INTEGER)")
            connection.execute(f"DROP TABLE {_qualify('connection_check')}")
        return "answers, and tables can be made"

    def _prepare(self, connection: duckdb.DuckDBPyConnection, table: Table) -> bool:
        """Create a table, or add its missing columns. Return whether the table changed."""
        _require_table(connection, table.name)
        name, found = _qualify(table.name), _columns(connection, table.name)
        if not found:
            fields = (f"{each.name} {TYPES[each.type]}{' NOT NULL' * each.required}" for each in table.fields)
            connection.execute(f"CREATE TABLE {name} ({', '.join(fields)})")
            connection.execute(f"COMMENT ON TABLE {name} IS {_quote(table.description)}")
        gained = missing_fields(table, found, TYPES, self.place)
        for field in gained:
            if found:
                connection.execute(f"ALTER TABLE {name} ADD COLUMN {field.name} {TYPES[field.type]}")
            connection.execute(f"COMMENT ON COLUMN {name}.{field.name} IS {_quote(field.description)}")
        return bool(gained)

    def _replace_lookup(self, connection: duckdb.DuckDBPyConnection, lookup: Lookup) -> None:
        self._prepare(connection, lookup.table)
        connection.execute(f"DELETE FROM {_qualify(lookup.table.name)}")
        connection.register("lookup_rows", lookup.rows)
        connection.execute(f"INSERT INTO {_qualify(lookup.table.name)} BY NAME SELECT * FROM lookup_rows")
        connection.unregister("lookup_rows")

    @contextlib.contextmanager
    def _transaction(self, what: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a transaction, while no other thread of this process writes."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with _write_locks[self._path], self._connected(what) as connection:
            connection.begin()
            try:
                yield connection
                connection.commit()
            except BaseException:
                with contextlib.suppress(duckdb.Error):
                    connection.rollback()
                raise

    @contextlib.contextmanager
    def _connected(self, what: str, *, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        connection = self._connect(what, read_only)
        try:
            # An error's traceback keeps what its functions knew. A connection that it kept until the end of the process
            # would make DuckDB print that it is leaked.
            yield weakref.proxy(connection)
        except duckdb.Error as error:
            raise TlcError(f"{what}: {self.place} failed", got=first_line(error)) from error
        finally:
            connection.close()
            del connection

    def _connect(self, what: str, read_only: bool) -> duckdb.DuckDBPyConnection:
        """Open the file; wait while another process, or another connection of this one, has it open in another way."""
        warned = False
        with self._patience.waiting() as seconds:
            deadline = time.monotonic() + seconds
            while True:
                try:
                    return self._open(read_only)
                except duckdb.Error as error:
                    holder, fix = _find_holder(error)
                    if not holder:
                        raise ConfigurationError(f"{what}: cannot open {self.place}", got=first_line(error)) from error
                    if time.monotonic() > deadline:
                        raise BusyError(
                            f"{what}: {self.place} is locked by {holder}", got=self._patience.spent, fix=fix
                        ) from error
                    if not warned:
                        log.warning("%s: waiting for %s to close %s", what, holder, self.place)
                    warned = True
                    time.sleep(0.1)

    def _open(self, read_only: bool) -> duckdb.DuckDBPyConnection:
        """Open the file. All connections of a process have one configuration: a reader joins a writer of this process.

        Raises:
            duckdb.ConnectionException: when another connection of this process has another configuration.
            duckdb.IOException: when another process has a lock on the file, or it can't be opened.
        """
        for writes in (not read_only, True):
            with contextlib.suppress(duckdb.ConnectionException):
                return duckdb.connect(self._path, read_only=not writes, config=CONFIGURATION)
        # A connection of a notebook's own.
        return duckdb.connect(self._path)


def _qualify(name: str) -> str:
    return f"{SCHEMA}.{name}"


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _find_holder(error: duckdb.Error) -> tuple[str, str]:
    """Return who else has the file open, and what to do about it, from DuckDB's error; empty if it is another error."""
    if isinstance(error, duckdb.ConnectionException):
        holder = "another connection of this process, which is read-only or has a configuration"
        return holder, "close that connection (in a notebook: restart the kernel), or run this again later"
    if not str(error).startswith("IO Error: Could not set lock on file"):
        return "", ""
    found = re.search(r"held in (.+?) \(PID (\d+)\)", str(error))
    holder = f"process {found[2]} ({found[1]})" if found else "another process"
    return holder, "end that process, or run this again later"


def _fetch_number(connection: duckdb.DuckDBPyConnection, sql: str, values: list[Any] | None = None) -> int:
    row = connection.execute(sql, values).fetchone()
    return int(row[0]) if row else 0


def _count(connection: duckdb.DuckDBPyConnection, table: Table, month: Month) -> int:
    return _fetch_number(
        connection, f"SELECT count(*) FROM {_qualify(table.name)} WHERE file_month = ?", [month.first_day]
    )


def _columns(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    """Return the columns of a table or view and their types; empty if it does not exist."""
    sql = (
        "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = current_database()"
        " AND schema_name = ? AND table_name = ? ORDER BY column_index"
    )
    return dict(connection.execute(sql, [SCHEMA, table]).fetchall())


def _require_table(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    """Check that no view has a table's name.

    Raises:
        ConfigurationError: when one has.
    """
    sql = "SELECT 1 FROM duckdb_views() WHERE database_name = current_database() AND schema_name = ? AND view_name = ?"
    if connection.execute(sql, [SCHEMA, table]).fetchone():
        raise ConfigurationError(
            f"{_qualify(table)} is a view and not a table", fix=f"look at it, then DROP VIEW {_qualify(table)}"
        )


def _make_execute(connection: duckdb.DuckDBPyConnection) -> Execute:
    def execute(sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        # The columns have no time zone: values are stored in UTC.
        naive = [value.replace(tzinfo=None) if isinstance(value, datetime) else value for value in values]
        return connection.execute(sql, naive).fetchall()

    return execute


def read_rows(file: LakeFile) -> Any:
    """Return a file's rows for DuckDB: a local file as a dataset that several threads read, else its batches."""
    if file.path:
        return ds.dataset(file.path, format="parquet")
    return pa.RecordBatchReader.from_batches(file.schema, file.batches())
