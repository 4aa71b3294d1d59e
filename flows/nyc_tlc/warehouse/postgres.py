"""Postgres: a month is a partition. A new table is filled by binary COPY and replaces it, in one transaction.

COPY writes the rows FREEZE: after the commit every transaction sees them. Without that, a transaction that began
before the swap and reads the month after it would find an empty month.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import psycopg2
from psycopg2 import errors, extensions

from nyc_tlc.errors import BusyError, ConfigurationError
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Color, Month
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.ledger import Execute, read_loads, write_load
from nyc_tlc.warehouse.postgres_connection import connect, explain
from nyc_tlc.warehouse.postgres_tables import (
    copy,
    create_index,
    create_missing,
    define_columns,
    find_columns,
    is_complete,
    qualify,
    replace_lookup,
)
from nyc_tlc.warehouse.protocol import Kind, Load, Lookup, Patience, reconcile
from nyc_tlc.warehouse.tables import LOADS, SCHEMA, Table, View, quarantine_table, trip_table

log = logging.getLogger(__name__)

#: How long a statement waits for a table's lock; queries that queue behind it can then continue. It is less than the
#: second after which Postgres looks for deadlocks, so no reader is ever cancelled because of a load.
SWAP_LOCK_TIMEOUT = "500ms"
#: Seconds between two attempts at a lock, at least and at most.
LOCK_PAUSE = (0.5, 2.0)


class PostgresWarehouse:
    """A warehouse in a Postgres database."""

    kind: Kind = "postgres"

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        """Use a database.

        Args:
            parameters: libpq's connection parameters by name, including the password.
        """
        self._parameters, self._patience = dict(parameters), Patience()
        host, port = parameters.get("host", "localhost"), parameters.get("port") or 5432
        self.place = f"postgresql://{host}:{port}/{parameters.get('dbname', '')}"

    def loads(self) -> dict[tuple[Color, Month], Load]:
        """Return the loaded months."""
        with self._transaction("the list of loads") as cursor:
            return read_loads(_make_execute(cursor)) if find_columns(cursor, LOADS.name) else {}

    def prepare(self, tables: Sequence[Table], lookups: Sequence[Lookup], views: Sequence[View]) -> None:
        """Create missing tables, columns, lookup tables and views.

        Trip tables are partitioned by month, with a BRIN index on the pick-up time. If nothing is missing, nothing is
        locked. A change waits for other transactions for TLC_WAREHOUSE_WAIT at most.
        """
        with self._transaction("the tables") as cursor:
            if not is_complete(cursor, tables, lookups, views, self.place):
                create = partial(create_missing, cursor, tables, lookups, views, self.place)
                self._wait_for_locks(cursor, "the tables", SCHEMA, create)

    def replace_month(self, file: LakeFile, flow_run_id: str | None, *, force: bool = False) -> tuple[Load, bool]:
        """Replace the month's rows by those of the files."""
        tables = (trip_table(file.contract), file), (quarantine_table(file.contract), file.quarantine)
        of_month = f"file_month = '{file.month.first_day}'"
        with self._transaction(file.name, kept="the old rows stay") as cursor:
            self._lock_month(cursor, file)
            known = read_loads(_make_execute(cursor)).get((file.manifest.color, file.month))
            if known and known.is_of(file.manifest) and not force:
                cursor.execute("SAVEPOINT look")
                counts = [_count(cursor, f"{qualify(table.name)} WHERE {of_month}") for table, _ in tables]
                if counts == [known.row_count, known.quarantine_rows]:
                    return known, False
                # The counts locked the table, which would block the swaps of other months until the commit.
                cursor.execute("ROLLBACK TO SAVEPOINT look")
            filled = [self._fill_and_check(cursor, rows, table) for table, rows in tables]
            self._lock_for_swap(cursor, file, [table for table, _ in tables])
            for (table, rows), name in zip(tables, filled, strict=True):
                self._swap(cursor, rows, table, name)
            load = Load.of(file, datetime.now(UTC), flow_run_id)
            write_load(_make_execute(cursor), load)
        return load, True

    def _fill_and_check(self, cursor: extensions.cursor, file: LakeFile, table: Table) -> str:
        """Fill a new table with the file's rows, and check their number. Return the table's name."""
        # An unusual name, and nothing with that name is dropped: it may be a table of the user.
        filled = f"{_partition(table, file.month)}_filling"
        # The CHECK spares ATTACH a scan. The partitioned table is not read: that would block the swaps of other months.
        check = f"CONSTRAINT is_its_month CHECK (file_month = '{file.month.first_day}')"
        cursor.execute(f"CREATE TABLE {qualify(filled)} ({define_columns(table)}, {check})")
        copied = copy(cursor, filled, file.schema, file.batches(), frozen=True)
        create_index(cursor, filled)
        reconcile(file, self.place, copied=copied, found=_count(cursor, qualify(filled)))
        return filled

    def replace_lookups(self, lookups: Sequence[Lookup]) -> None:
        """Replace all rows of the lookup tables."""
        with self._transaction("the lookups") as cursor:
            for lookup in lookups:
                replace_lookup(cursor, lookup, self.place)

    def query(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a SELECT."""
        with self._transaction("a query") as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def check(self, lake: Lake) -> str:
        """Check that the server answers and that the user may create tables in the schema."""
        with self._transaction("a check") as cursor:
            cursor.execute("SELECT 1")
            cursor.execute(
                "SELECT current_user, current_database(), to_regnamespace(%s) IS NOT NULL,"
                " CASE WHEN to_regnamespace(%s) IS NULL THEN has_database_privilege(current_database(), 'CREATE')"
                " ELSE has_schema_privilege(%s, 'CREATE') END",
                [SCHEMA] * 3,
            )
            user, database, exists, may = cursor.fetchone() or ("", "", False, False)
            # A read-only database refuses this.
            cursor.execute("DROP TABLE IF EXISTS pg_temp.connection_check")
        if not may:
            right = f"CREATE ON SCHEMA {SCHEMA}" if exists else f"CREATE ON DATABASE {database}"
            raise ConfigurationError(
                f"{self.place}: {user} may not create {'tables' if exists else f'the schema {SCHEMA}'}",
                fix=f"as its owner: GRANT {right} TO {user}",
            )
        return f"answers, and {user} may make tables"

    def _lock_month(self, cursor: extensions.cursor, file: LakeFile) -> None:
        """Lock the month against other loads of it; wait while one is running."""
        lock = [f"nyc_tlc {SCHEMA}.{file.name}"]
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", lock)
        if cursor.fetchone() == (True,):
            return
        log.warning("%s: waiting for another load of this month into %s", file.name, self.place)
        with self._patience.waiting() as seconds:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{max(1, int(1000 * seconds))}ms"])
            try:
                cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", lock)
            except errors.LockNotAvailable as error:
                raise BusyError(
                    f"{file.name}: another load of this month into {self.place} is still running",
                    got=self._patience.spent,
                    fix="run this again later",
                ) from error
        cursor.execute("SET LOCAL lock_timeout = 0")

    def _lock_for_swap(self, cursor: extensions.cursor, file: LakeFile, tables: Sequence[Table]) -> None:
        """Lock the tables for the swap. Readers are blocked only if an old partition must be dropped."""

        def lock() -> None:
            for table in tables:
                old = _find_partition(cursor, table, file.month)
                mode = "ACCESS EXCLUSIVE" if old else "SHARE UPDATE EXCLUSIVE"
                cursor.execute(f"LOCK TABLE {qualify(table.name)} IN {mode} MODE")

        self._wait_for_locks(cursor, file.name, " and ".join(qualify(table.name) for table in tables), lock)

    def _wait_for_locks(self, cursor: extensions.cursor, what: str, busy: str, act: Callable[[], None]) -> None:
        """Run ``act``, which needs locks; try again after a pause while other transactions hold them.

        A statement that waits for a lock blocks all later ones, so an attempt is short and then releases its locks.
        """
        warned = False
        cursor.execute("SAVEPOINT locks")
        with self._patience.waiting() as seconds:
            deadline = time.monotonic() + seconds
            while True:
                try:
                    cursor.execute("SELECT set_config('lock_timeout', %s, true)", [SWAP_LOCK_TIMEOUT])
                    act()
                    break
                except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
                    cursor.execute("ROLLBACK TO SAVEPOINT locks")
                    pause = random.uniform(*LOCK_PAUSE)  # noqa: S311  nothing secret
                    if time.monotonic() + pause > deadline:
                        raise BusyError(
                            f"{what}: {self.place}: {busy} is busy: other transactions hold locks; nothing was changed",
                            got=self._patience.spent,
                            fix="end their transactions, or run this again later",
                        ) from error
                    if not warned:
                        log.warning("%s: waiting for a lock on %s", what, busy)
                    warned = True
                    time.sleep(pause)
        cursor.execute("SET LOCAL lock_timeout = 0")

    def _swap(self, cursor: extensions.cursor, file: LakeFile, table: Table, filled: str) -> None:
        """Replace the old partition by the filled table. The caller holds the locks."""
        whole, name, month = qualify(table.name), _partition(table, file.month), file.month
        if old := _find_partition(cursor, table, month):
            cursor.execute(f"ALTER TABLE {whole} DETACH PARTITION {old}")
            cursor.execute(f"DROP TABLE {old}")
        cursor.execute(f"ALTER TABLE {qualify(filled)} RENAME TO {name}")
        _rename_index_and_constraints(cursor, filled, name)
        bounds = f"FROM ('{month.first_day}') TO ('{month.plus(1).first_day}')"
        cursor.execute(f"ALTER TABLE {whole} ATTACH PARTITION {qualify(name)} FOR VALUES {bounds}")
        cursor.execute(f"ALTER TABLE {qualify(name)} DROP CONSTRAINT is_its_month")
        comment = f"{file.name}: the partition of {whole} for {month}; every load replaces it whole"
        cursor.execute(f"COMMENT ON TABLE {qualify(name)} IS %s", [comment])

    @contextlib.contextmanager
    def _transaction(self, what: str, kept: str = "") -> Iterator[extensions.cursor]:
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


def _count(cursor: extensions.cursor, rows: str) -> int:
    """Return the number of rows FROM a table, with a condition or without."""
    cursor.execute(f"SELECT count(*) FROM {rows}")
    return int((cursor.fetchone() or [0])[0])


def _partition(table: Table, month: Month) -> str:
    return f"{table.name}_{month.year:04d}_{month.month:02d}"


def _find_partition(cursor: extensions.cursor, table: Table, month: Month) -> str | None:
    """Return the partition that has a month, whatever its name; None if there is none."""
    cursor.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
        " WHERE inhparent = to_regclass(%s) AND pg_get_expr(relpartbound, inhrelid) LIKE %s",
        [qualify(table.name), f"FOR VALUES FROM ('{month.first_day}') TO %"],
    )
    row = cursor.fetchone()
    return row[0] if row else None


def _rename_index_and_constraints(cursor: extensions.cursor, filled: str, partition: str) -> None:
    """Name a filled table's index and constraints after its partition."""
    index = f"{filled}_pickup_datetime_brin"
    cursor.execute(f"ALTER INDEX {qualify(index)} RENAME TO {index.replace(filled, partition)}")
    # Since version 18, NOT NULL is a constraint with a name.
    cursor.execute(
        "SELECT conname FROM pg_constraint WHERE conrelid = to_regclass(%s) AND starts_with(conname, %s)",
        [qualify(partition), filled],
    )
    for (name,) in cursor.fetchall():
        new = name.replace(filled, partition)
        cursor.execute(f"ALTER TABLE {qualify(partition)} RENAME CONSTRAINT {name} TO {new}")


def _make_execute(cursor: extensions.cursor) -> Execute:
    def execute(query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        cursor.execute(query.replace("?", "%s"), values)
        return cursor.fetchall() if cursor.description else []

    return execute
