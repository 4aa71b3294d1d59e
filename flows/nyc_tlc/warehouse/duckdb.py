"""DuckDB, the embedded warehouse: delete and insert in one transaction, in a file that one process at a time writes."""

from __future__ import annotations

import contextlib
import re
import threading
import weakref
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from nyc_tlc.contract.types import TYPES
from nyc_tlc.errors import BusyError, ConfigurationError, TlcError, first_line
from nyc_tlc.month import Color, Month
from nyc_tlc.settings import DEFAULT_SCHEMA
from nyc_tlc.shown import short_path
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.protocol import Kind, Load, Lookup, Patience, reconcile
from nyc_tlc.warehouse.sql_warehouse import SqlWarehouse
from nyc_tlc.warehouse.tables import Table, View

#: A view in a file from elsewhere could read the files of this machine: rows come as Arrow batches, and DuckDB opens
#: nothing but its own file.
CONFIGURATION: dict[str, Any] = {"enable_external_access": False, "autoinstall_known_extensions": False}
#: Seconds between two attempts to open a file, at least and at most.
LOCK_PAUSE = (0.1, 0.1)

#: One lock for each file: DuckDB lets the threads of one process share a file, and two writers would conflict.
_write_locks: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)


class DuckDbWarehouse(SqlWarehouse):
    """A warehouse in a DuckDB file."""

    kind: Kind = "duckdb"
    types: ClassVar = {kind: names.duckdb for kind, names in TYPES.items()}

    def __init__(self, path: Path, schema: str = DEFAULT_SCHEMA) -> None:
        """Use a DuckDB file; the first write creates it."""
        self.schema, self._path, self._patience = schema, path.absolute(), Patience()
        self.place = str(short_path(path))

    def loads(self) -> dict[tuple[Color, Month], Load]:
        return super().loads() if self._path.exists() else {}

    def prepare(self, tables: Sequence[Table], lookups: Sequence[Lookup], views: Sequence[View]) -> None:
        with self._transaction("the tables") as connection:
            self._create_schema(connection)
            changed = self._create_missing(connection, tables, lookups)
            for view in views:
                if changed or tuple(self._find_columns(connection, view.name)) != view.columns:
                    self._replace_view(connection, view)

    def replace_month(self, file: LakeFile, flow_run_id: str | None, *, force: bool = False) -> tuple[Load, bool]:
        with self._transaction(file.name) as connection:
            if not force and (known := self._find_load(connection, file)):
                return known, False
            for each in (file, file.quarantine):
                name = self._qualify(each.table.name)
                connection.execute(f"DELETE FROM {name} WHERE file_month = ?", [file.month.first_day])
                connection.register("file_rows", read_rows(each))
                ((rows,),) = self._execute(connection, f"INSERT INTO {name} BY NAME SELECT * FROM file_rows")
                connection.unregister("file_rows")
                reconcile(each, self.place, inserted=rows, found=self._count(connection, each))
            load = Load.of(file, datetime.now(UTC), flow_run_id)
            self._write_load(connection, load)
        return load, True

    def _execute(
        self, session: duckdb.DuckDBPyConnection, sql: str, values: Sequence[object] = ()
    ) -> list[tuple[Any, ...]]:
        # The columns have no time zone: values are stored in UTC.
        naive = [value.replace(tzinfo=None) if isinstance(value, datetime) else value for value in values]
        return session.execute(sql, naive).fetchall()

    def _find_columns(self, session: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
        sql = (
            "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = current_database()"
            " AND schema_name = ? AND table_name = ? ORDER BY column_index"
        )
        return dict(self._execute(session, sql, [self.schema, table]))

    def _find_table(self, session: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
        """Return the columns of a table.

        Raises:
            ConfigurationError: when a view has its name.
        """
        views = "duckdb_views() WHERE database_name = current_database() AND schema_name = ? AND view_name = ?"
        if self._execute(session, f"SELECT 1 FROM {views}", [self.schema, table]):
            name = self._qualify(table)
            raise ConfigurationError(f"{name} is a view and not a table", fix=f"look at it, then DROP VIEW {name}")
        return self._find_columns(session, table)

    def _create_table(self, session: duckdb.DuckDBPyConnection, table: Table) -> None:
        self._execute(session, f"CREATE TABLE {self._qualify(table.name)} ({self._define_columns(table)})")

    def _insert(self, session: duckdb.DuckDBPyConnection, table: Table, rows: pa.Table) -> None:
        session.register("new_rows", rows)
        session.execute(f"INSERT INTO {self._qualify(table.name)} BY NAME SELECT * FROM new_rows")
        session.unregister("new_rows")

    @contextlib.contextmanager
    def _transaction(self, what: str, *, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a transaction; one that writes, while no other thread of this process does."""
        if not read_only:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.nullcontext() if read_only else _write_locks[self._path]:
            connection = self._patience.repeat(partial(self._connect, what, read_only), LOCK_PAUSE)
            try:
                connection.begin()
                # An error's traceback keeps what its functions knew. A connection that it kept until the end of the
                # process would make DuckDB print that it is leaked.
                yield weakref.proxy(connection)
                connection.commit()
            except duckdb.Error as error:
                raise TlcError(f"{what}: {self.place} failed", got=first_line(error)) from error
            finally:
                connection.close()
                del connection

    def _connect(self, what: str, read_only: bool) -> duckdb.DuckDBPyConnection:
        """Open the file.

        Raises:
            BusyError: when another process, or another connection of this one, has it open in another way.
            ConfigurationError: when it can't be opened.
        """
        try:
            return self._open(read_only)
        except duckdb.Error as error:
            holder, fix = _find_holder(error)
            if holder:
                raise BusyError(f"{what}: {self.place} is locked by {holder}", fix=fix) from error
            raise ConfigurationError(f"{what}: cannot open {self.place}", got=first_line(error)) from error

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


def read_rows(file: LakeFile) -> Any:
    """Return a file's rows for DuckDB: a local file as a dataset that several threads read, else its batches."""
    if file.path:
        return ds.dataset(file.path, format="parquet")
    return pa.RecordBatchReader.from_batches(file.schema, file.batches())
