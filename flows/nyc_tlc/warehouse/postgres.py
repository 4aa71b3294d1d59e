"""Postgres: a month is a partition. A new table is filled by binary COPY and replaces it, in one transaction.

COPY writes the rows FREEZE: after the commit every transaction sees them. Without that, a transaction that began
before the swap and reads the month after it would find an empty month.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar

import psycopg2
import pyarrow as pa
from psycopg2 import errors, extensions

from nyc_tlc.contract.types import TYPES
from nyc_tlc.errors import BusyError
from nyc_tlc.settings import DEFAULT_SCHEMA
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.postgres_connection import connect, explain
from nyc_tlc.warehouse.postgres_tables import copy, drop_views
from nyc_tlc.warehouse.protocol import Kind, Load, Lookup, Patience, reconcile
from nyc_tlc.warehouse.sql_warehouse import SqlWarehouse
from nyc_tlc.warehouse.tables import TRIP_KEY, Table, View, missing_fields

#: How long a statement waits for a table's lock; queries that queue behind it can then continue. It is less than the
#: second after which Postgres looks for deadlocks, so no reader is ever cancelled because of a load.
SWAP_LOCK_TIMEOUT = "500ms"
#: Seconds between two attempts at a lock, at least and at most.
LOCK_PAUSE = (0.5, 2.0)
BUSY = "is busy: other transactions hold locks; nothing was changed"
END_OTHERS = "end their transactions, or run this again later"


class PostgresWarehouse(SqlWarehouse):
    """A warehouse in a Postgres database."""

    kind: Kind = "postgres"
    types: ClassVar = {kind: names.postgres for kind, names in TYPES.items()}

    def __init__(self, parameters: Mapping[str, Any], schema: str = DEFAULT_SCHEMA) -> None:
        """Use a schema of a database."""
        self.schema, self._parameters, self._patience = schema, dict(parameters), Patience()
        host, port = parameters.get("host", "localhost"), parameters.get("port") or 5432
        self.place = f"postgresql://{host}:{port}/{parameters.get('dbname', '')}"

    def prepare(self, tables: Sequence[Table], lookups: Sequence[Lookup], views: Sequence[View]) -> None:
        """Create missing tables, columns, lookup tables and views.

        Trip tables are partitioned by month, with a BRIN index on the pick-up time. If nothing is missing, nothing is
        locked. A change waits for other transactions for TLC_WAREHOUSE_WAIT at most.
        """
        with self._transaction("the tables") as cursor:
            if not self._is_complete(cursor, [*tables, *(lookup.table for lookup in lookups)], views):
                create = partial(self._create, cursor, tables, lookups, views)
                self._wait_for_locks(cursor, f"the tables: {self.place}: {self.schema} {BUSY}", END_OTHERS, create)

    def replace_month(self, file: LakeFile, flow_run_id: str | None, *, force: bool = False) -> tuple[Load, bool]:
        files = (file, file.quarantine)
        with self._transaction(file.name, kept="the old rows stay") as cursor:
            self._lock_month(cursor, file)
            cursor.execute("SAVEPOINT look")
            if not force and (known := self._find_load(cursor, file)):
                return known, False
            # The counts locked the table, which would block the swaps of other months until the commit.
            cursor.execute("ROLLBACK TO SAVEPOINT look")
            filled = [self._fill_and_check(cursor, each) for each in files]
            self._lock_for_swap(cursor, file)
            for each, name in zip(files, filled, strict=True):
                self._swap(cursor, each, name)
            load = Load.of(file, datetime.now(UTC), flow_run_id)
            self._write_load(cursor, load)
        return load, True

    def _fill_and_check(self, cursor: extensions.cursor, file: LakeFile) -> str:
        """Fill a new table with the file's rows, and check their number. Return the table's name."""
        # An unusual name, and nothing with that name is dropped: it may be a table of the user.
        filled = f"{_name_partition(file)}_filling"
        # The CHECK spares ATTACH a scan. The partitioned table is not read: that would block the swaps of other months.
        check = f"CONSTRAINT is_its_month CHECK (file_month = '{file.month.first_day}')"
        cursor.execute(f"CREATE TABLE {self._qualify(filled)} ({self._define_columns(file.table)}, {check})")
        copied = copy(cursor, self._qualify(filled), file.schema, file.batches(), frozen=True)
        self._create_index(cursor, filled)
        ((found,),) = self._execute(cursor, f"SELECT count(*) FROM {self._qualify(filled)}")
        reconcile(file, self.place, copied=copied, found=found)
        return filled

    def _is_complete(self, cursor: extensions.cursor, tables: Sequence[Table], views: Sequence[View]) -> bool:
        for table in tables:
            found = self._find_columns(cursor, table.name)
            if not found or missing_fields(table, found, self.types, self.place):
                return False
        return all(tuple(self._find_columns(cursor, view.name)) == view.columns for view in views)

    def _create(
        self, cursor: extensions.cursor, tables: Sequence[Table], lookups: Sequence[Lookup], views: Sequence[View]
    ) -> None:
        # Without the lock, two transactions that create the same object would fail.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"nyc_tlc {self.schema}"])
        self._create_schema(cursor)
        self._create_missing(cursor, tables, lookups)
        found = {view.name: tuple(self._find_columns(cursor, view.name)) for view in views}
        changed = [view for view in views if found[view.name] != view.columns]
        # Postgres replaces a view that gains columns at its end. For any other change all views are created again.
        if any(view.columns[: len(found[view.name])] != found[view.name] for view in changed):
            drop_views(cursor, [self._qualify(name) for name, columns in found.items() if columns], self.place)
            changed = list(views)
        for view in changed:
            self._replace_view(cursor, view)

    def _execute(self, session: extensions.cursor, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        session.execute(sql.replace("?", "%s") if values else sql, values or None)
        return session.fetchall() if session.description else []

    def _find_columns(self, session: extensions.cursor, table: str) -> dict[str, str]:
        sql = (
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = to_regclass(?) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        )
        return dict(self._execute(session, sql, [self._qualify(table)]))

    def _create_table(self, session: extensions.cursor, table: Table) -> None:
        """Create a table; one of trips is partitioned by month."""
        name, columns = self._qualify(table.name), self._define_columns(table)
        if table.key == TRIP_KEY:
            session.execute(f"CREATE TABLE {name} ({columns}) PARTITION BY RANGE (file_month)")
            self._create_index(session, table.name)
        else:
            session.execute(f"CREATE TABLE {name} ({columns}, PRIMARY KEY ({', '.join(table.key)}))")

    def _insert(self, session: extensions.cursor, table: Table, rows: pa.Table) -> None:
        copy(session, self._qualify(table.name), rows.schema, iter(rows.to_batches()), frozen=False)

    def _lock_month(self, cursor: extensions.cursor, file: LakeFile) -> None:

        def lock() -> None:
            month = f"nyc_tlc {self.schema}.{file.name}"
            cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [month])

        busy = f"{file.name}: another load of this month into {self.place} is still running"
        self._wait_for_locks(cursor, busy, "run this again later", lock)

    def _lock_for_swap(self, cursor: extensions.cursor, file: LakeFile) -> None:
        """Lock the tables for the swap. Readers are blocked only if an old partition must be dropped."""
        files = (file, file.quarantine)

        def lock() -> None:
            for each in files:
                mode = "ACCESS EXCLUSIVE" if self._find_partition(cursor, each) else "SHARE UPDATE EXCLUSIVE"
                cursor.execute(f"LOCK TABLE {self._qualify(each.table.name)} IN {mode} MODE")

        tables = " and ".join(self._qualify(each.table.name) for each in files)
        self._wait_for_locks(cursor, f"{file.name}: {self.place}: {tables} {BUSY}", END_OTHERS, lock)

    def _wait_for_locks(self, cursor: extensions.cursor, busy: str, fix: str, act: Callable[[], None]) -> None:
        """Run ``act``, which needs locks; try again after a pause while other transactions hold them.

        A statement that waits for a lock blocks all later ones, so an attempt is short and then releases its locks.
        """

        def attempt() -> None:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [SWAP_LOCK_TIMEOUT])
            try:
                act()
            except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
                cursor.execute("ROLLBACK TO SAVEPOINT locks")
                raise BusyError(busy, fix=fix) from error

        cursor.execute("SAVEPOINT locks")
        self._patience.repeat(attempt, LOCK_PAUSE)
        cursor.execute("SET LOCAL lock_timeout = 0")

    def _swap(self, cursor: extensions.cursor, file: LakeFile, filled: str) -> None:
        """Replace the old partition by the filled table. The caller holds the locks."""
        whole, name, month = self._qualify(file.table.name), _name_partition(file), file.month
        if old := self._find_partition(cursor, file):
            cursor.execute(f"ALTER TABLE {whole} DETACH PARTITION {old}")
            cursor.execute(f"DROP TABLE {old}")
        cursor.execute(f"ALTER TABLE {self._qualify(filled)} RENAME TO {name}")
        self._rename_index_and_constraints(cursor, filled, name)
        bounds = f"FROM ('{month.first_day}') TO ('{month.plus(1).first_day}')"
        cursor.execute(f"ALTER TABLE {whole} ATTACH PARTITION {self._qualify(name)} FOR VALUES {bounds}")
        cursor.execute(f"ALTER TABLE {self._qualify(name)} DROP CONSTRAINT is_its_month")
        comment = f"{file.name}: the partition of {whole} for {month}; every load replaces it whole"
        self._comment(cursor, f"TABLE {self._qualify(name)}", comment)

    def _find_partition(self, cursor: extensions.cursor, file: LakeFile) -> str | None:
        """Return the partition that has the file's month, whatever its name; None if there is none."""
        sql = (
            "SELECT inhrelid::regclass::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
            " WHERE inhparent = to_regclass(?) AND pg_get_expr(relpartbound, inhrelid) LIKE ?"
        )
        bounds = f"FOR VALUES FROM ('{file.month.first_day}') TO %"
        found = self._execute(cursor, sql, [self._qualify(file.table.name), bounds])
        return found[0][0] if found else None

    @contextlib.contextmanager
    def _transaction(self, what: str, *, read_only: bool = False, kept: str = "") -> Iterator[extensions.cursor]:
        """Open a transaction on a new connection.

        Args:
            what: What it is for; ``pg_stat_activity`` shows it too.
            kept: The state of the data if it fails before the commit.
        """
        connection = connect(self._parameters, self.place, what)
        try:
            with connection.cursor() as cursor:
                yield cursor
            kept = "it is not known whether the commit succeeded, run this again to find out" if kept else ""
            connection.commit()
        except psycopg2.Error as error:
            raise explain(error, what, self.place, kept, lost=bool(connection.closed)) from error
        finally:
            connection.close()

    def _create_index(self, cursor: extensions.cursor, table: str) -> None:
        cursor.execute(
            f"CREATE INDEX {table}_pickup_datetime_brin ON {self._qualify(table)} USING brin (pickup_datetime)"
        )

    def _rename_index_and_constraints(self, cursor: extensions.cursor, filled: str, partition: str) -> None:
        """Name a filled table's index and constraints after its partition."""
        index = f"{filled}_pickup_datetime_brin"
        cursor.execute(f"ALTER INDEX {self._qualify(index)} RENAME TO {index.replace(filled, partition)}")
        # Since version 18, NOT NULL is a constraint with a name.
        cursor.execute(
            "SELECT conname FROM pg_constraint WHERE conrelid = to_regclass(%s) AND starts_with(conname, %s)",
            [self._qualify(partition), filled],
        )
        for (name,) in cursor.fetchall():
            new = name.replace(filled, partition)
            cursor.execute(f"ALTER TABLE {self._qualify(partition)} RENAME CONSTRAINT {name} TO {new}")


def _name_partition(file: LakeFile) -> str:
    return f"{file.table.name}_{file.month.year:04d}_{file.month.month:02d}"
