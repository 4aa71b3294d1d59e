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
from typing import Any

import psycopg2
import pyarrow as pa
from psycopg2 import errors, extensions, sql

from nyc_tlc.errors import BusyError, ConfigurationError
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Color, Month
from nyc_tlc.settings import read_settings
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.ledger import Execute, read_loads, write_load
from nyc_tlc.warehouse.postgres_connection import connect, explain
from nyc_tlc.warehouse.postgres_copy import CopyStream
from nyc_tlc.warehouse.protocol import Kind, Load, Lookup, Patience, reconcile
from nyc_tlc.warehouse.tables import (
    LOADS,
    SCHEMA,
    TRIP_KEY,
    Table,
    Type,
    View,
    missing_fields,
    quarantine_table,
    renamed_fields,
    trip_table,
)

log = logging.getLogger(__name__)

TYPES: dict[Type, str] = {
    "int8": "smallint",
    "int16": "smallint",
    "int32": "integer",
    "int64": "bigint",
    "float64": "double precision",
    "string": "text",
    "timestamp": "timestamp without time zone",
    "date": "date",
    "instant": "timestamp with time zone",
    "strings": "text[]",
}

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
            columns = _columns(cursor, LOADS.name)
            return read_loads(_make_execute(cursor), columns) if columns else {}

    def prepare(self, tables: Sequence[Table], lookups: Sequence[Lookup], views: Sequence[View]) -> None:
        """Create missing tables, columns, lookup tables and views.

        Trip tables are partitioned by month, with a BRIN index on the pick-up time. If nothing is missing, nothing is
        locked. A change waits for other transactions for TLC_WAREHOUSE_WAIT at most.
        """
        with self._transaction("the tables") as cursor:
            if self._is_complete(cursor, tables, lookups, views):
                return
            self._wait_for_locks(
                cursor, "the tables", SCHEMA, lambda: self._create_missing(cursor, tables, lookups, views)
            )

    def _is_complete(
        self, cursor: extensions.cursor, tables: Sequence[Table], lookups: Sequence[Lookup], views: Sequence[View]
    ) -> bool:
        for table in (*tables, *(lookup.table for lookup in lookups)):
            found = _columns(cursor, table.name)
            if not found or renamed_fields(table, found) or missing_fields(table, found, TYPES, self.place):
                return False
            if self._lacks_primary_key(cursor, table):
                return False
        return all(tuple(_columns(cursor, view.name)) == view.columns for view in views)

    def _create_missing(
        self, cursor: extensions.cursor, tables: Sequence[Table], lookups: Sequence[Lookup], views: Sequence[View]
    ) -> None:
        # Without the lock, two transactions that create the same object would fail.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"nyc_tlc {SCHEMA}"])
        cursor.execute("SELECT to_regnamespace(%s)", [SCHEMA])
        if cursor.fetchone() == (None,):
            cursor.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
        for table in tables:
            self._prepare(cursor, table)
        for lookup in lookups:
            if not _columns(cursor, lookup.table.name):
                self._replace_lookup(cursor, lookup)
        self._replace_views(cursor, views)

    def replace_month(self, file: LakeFile, flow_run_id: str | None, *, force: bool = False) -> tuple[Load, bool]:
        """Replace the month's rows by those of the files."""
        tables = (trip_table(file.contract), file), (quarantine_table(file.contract), file.quarantine)
        with self._transaction(file.name, kept="the old rows stay") as cursor:
            self._lock_month(cursor, file)
            known = read_loads(_make_execute(cursor), LOADS.names).get((file.manifest.color, file.month))
            if known and known.is_of(file.manifest) and not force:
                cursor.execute("SAVEPOINT look")
                if [_count(cursor, table, file.month) for table, _ in tables] == [
                    known.row_count,
                    known.quarantine_rows,
                ]:
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
        copied = self._fill_table(cursor, file, table, filled)
        found = _fetch_number(cursor, sql.SQL("SELECT count(*) FROM {}").format(_qualify(filled)))
        reconcile(file, self.place, copied=copied, found=found)
        return filled

    def replace_lookups(self, lookups: Sequence[Lookup]) -> None:
        """Replace all rows of the lookup tables."""
        with self._transaction("the lookups") as cursor:
            for lookup in lookups:
                self._replace_lookup(cursor, lookup)

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

    def _prepare(self, cursor: extensions.cursor, table: Table) -> None:
        """Create a table, or add its missing columns."""
        name, found = _qualify(table.name), _columns(cursor, table.name)
        renamed = renamed_fields(table, found)
        for old, new in renamed.items():
            command = sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}")
            cursor.execute(command.format(name, sql.Identifier(old), sql.Identifier(new)))
            log.info("%s: the column %s of %s.%s is now called %s", self.place, old, SCHEMA, table.name, new)
        found = {renamed.get(column, column): kind for column, kind in found.items()}
        partitioned = table.key == TRIP_KEY
        if not found:
            fields = _definitions(table)
            if not partitioned:
                fields.append(sql.SQL("PRIMARY KEY ({})").format(_join_names(table.key)))
            cursor.execute(
                sql.SQL("CREATE TABLE {} ({}) {}").format(
                    name,
                    sql.SQL(", ").join(fields),
                    sql.SQL("PARTITION BY RANGE (file_month)" if partitioned else ""),
                )
            )
            if partitioned:
                _create_index(cursor, table.name)
        if not found or renamed:
            cursor.execute(sql.SQL("COMMENT ON TABLE {} IS %s").format(name), [table.description])
        gained = missing_fields(table, found, TYPES, self.place)
        for field in gained:
            column = sql.Identifier(field.name)
            if found:
                kind = sql.SQL(TYPES[field.type])
                cursor.execute(sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(name, column, kind))
            cursor.execute(sql.SQL("COMMENT ON COLUMN {}.{} IS %s").format(name, column), [field.description])
        if self._lacks_primary_key(cursor, table):
            cursor.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(name, _join_names(table.key)))

    def _lacks_primary_key(self, cursor: extensions.cursor, table: Table) -> bool:
        asked_for = table.key == TRIP_KEY and read_settings().postgres_primary_key
        return asked_for and not _has_primary_key(cursor, table.name)

    def _replace_views(self, cursor: extensions.cursor, views: Sequence[View]) -> None:
        """Create or replace the views that are missing or differ; their grants stay.

        Postgres can add columns at the end of a view. For any other change the view is dropped and created again,
        together with the views of this project that use it.

        Raises:
            ConfigurationError: when a view of the user uses one that must be dropped.
        """
        found = {view.name: tuple(_columns(cursor, view.name)) for view in views}
        ours = {f"{SCHEMA}.{view.name}" for view in views}
        dropped = {view.name for view in views if view.columns[: len(found[view.name])] != found[view.name]}
        for view in views:
            if view.name not in dropped:
                continue
            users = _list_views_on(cursor, view.name)
            if others := sorted(users - ours):
                raise ConfigurationError(
                    f"{self.place}: the view {SCHEMA}.{view.name} must change, and {', '.join(others)} uses it",
                    fix=f"keep its definition, run DROP VIEW {', '.join(others)}; load again, then create it again",
                )
            dropped |= {name.removeprefix(f"{SCHEMA}.") for name in users}
        grants = [grant for view in views if view.name in dropped for grant in _list_grants(cursor, view.name)]
        for view in reversed(views):
            if view.name in dropped:
                cursor.execute(sql.SQL("DROP VIEW IF EXISTS {}").format(_qualify(view.name)))
        for view in views:
            if view.name in dropped or found[view.name] != view.columns:
                query = view.sql(lambda name: f"{SCHEMA}.{name}")
                cursor.execute(sql.SQL("CREATE OR REPLACE VIEW {} AS {}").format(_qualify(view.name), sql.SQL(query)))
                cursor.execute(sql.SQL("COMMENT ON VIEW {} IS %s").format(_qualify(view.name)), [view.description])
        for grant in grants:
            cursor.execute(grant)

    def _replace_lookup(self, cursor: extensions.cursor, lookup: Lookup) -> None:
        self._prepare(cursor, lookup.table)
        cursor.execute(sql.SQL("DELETE FROM {}").format(_qualify(lookup.table.name)))
        _copy(cursor, lookup.table.name, lookup.rows.schema, iter(lookup.rows.to_batches()), frozen=False)

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

    def _fill_table(self, cursor: extensions.cursor, file: LakeFile, table: Table, filled: str) -> int:
        """Create a table with the file's rows, and a CHECK so that ATTACH need not scan it. Return the number of rows.

        The partitioned table is not read, because that would block the swaps of other months.
        """
        cursor.execute(
            sql.SQL("CREATE TABLE {} ({}, CONSTRAINT is_its_month CHECK (file_month = {}))").format(
                _qualify(filled), sql.SQL(", ").join(_definitions(table)), sql.Literal(file.month.first_day)
            )
        )
        copied = _copy(cursor, filled, file.schema, file.batches(), frozen=True)
        _create_index(cursor, filled)
        if _has_primary_key(cursor, table.name):
            cursor.execute(
                sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(_qualify(filled), _join_names(table.key))
            )
        return copied

    def _lock_for_swap(self, cursor: extensions.cursor, file: LakeFile, tables: Sequence[Table]) -> None:
        """Lock the tables for the swap. Readers are blocked only if an old partition must be dropped."""

        def lock() -> None:
            for table in tables:
                old = _find_partition(cursor, table, file.month)
                mode = sql.SQL("ACCESS EXCLUSIVE" if old else "SHARE UPDATE EXCLUSIVE")
                cursor.execute(sql.SQL("LOCK TABLE {} IN {} MODE").format(_qualify(table.name), mode))

        self._wait_for_locks(cursor, file.name, " and ".join(f"{SCHEMA}.{table.name}" for table in tables), lock)

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
                            f"{what}: {self.place}: others keep {busy} busy; nothing was changed",
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
        partition = _partition(table, file.month)
        if old := _find_partition(cursor, table, file.month):
            cursor.execute(sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(_qualify(table.name), old))
            cursor.execute(sql.SQL("DROP TABLE {}").format(old))
        cursor.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(_qualify(filled), sql.Identifier(partition)))
        _rename_indexes_and_constraints(cursor, partition)
        cursor.execute(
            sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
                _qualify(table.name), _qualify(partition), *_bounds(file.month)
            )
        )
        cursor.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT is_its_month").format(_qualify(partition)))
        comment = f"{file.name}: the partition of {SCHEMA}.{table.name} for {file.month}; every load replaces it whole"
        cursor.execute(sql.SQL("COMMENT ON TABLE {} IS %s").format(_qualify(partition)), [comment])

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


def _copy(
    cursor: extensions.cursor, table: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], *, frozen: bool
) -> int:
    command = sql.SQL("COPY {} ({}) FROM STDIN WITH (FORMAT binary{})").format(
        _qualify(table), _join_names(schema.names), sql.SQL(", FREEZE" if frozen else "")
    )
    encoded = CopyStream(schema, batches)
    try:
        cursor.copy_expert(command, encoded)
    finally:
        encoded.stop()
    return int(cursor.rowcount)


def _qualify(name: str) -> sql.Identifier:
    return sql.Identifier(SCHEMA, name)


def _definitions(table: Table) -> list[sql.Composed]:
    """Return a table's column definitions for CREATE TABLE."""
    required = {True: sql.SQL(" NOT NULL"), False: sql.SQL("")}
    return [
        sql.SQL("{} {}{}").format(sql.Identifier(each.name), sql.SQL(TYPES[each.type]), required[each.required])
        for each in table.fields
    ]


def _join_names(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _bounds(month: Month) -> tuple[sql.Literal, sql.Literal]:
    return sql.Literal(month.first_day), sql.Literal(month.plus(1).first_day)


def _fetch_number(cursor: extensions.cursor, query: sql.Composable, *values: object) -> int:
    cursor.execute(query, values)
    row = cursor.fetchone()
    return int(row[0]) if row else 0


def _count(cursor: extensions.cursor, table: Table, month: Month) -> int:
    count = sql.SQL("SELECT count(*) FROM {} WHERE file_month = %s").format(_qualify(table.name))
    return _fetch_number(cursor, count, month.first_day)


def _columns(cursor: extensions.cursor, table: str) -> dict[str, str]:
    """Return the columns of a table or view and their types; empty if it does not exist."""
    cursor.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [f"{SCHEMA}.{table}"],
    )
    return dict(cursor.fetchall())


def _partition(table: Table, month: Month) -> str:
    return f"{table.name}_{month.year:04d}_{month.month:02d}"


def _find_partition(cursor: extensions.cursor, table: Table, month: Month) -> sql.SQL | None:
    """Return the partition that has a month, whatever its name; None if there is none."""
    cursor.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
        " WHERE inhparent = to_regclass(%s) AND pg_get_expr(relpartbound, inhrelid) LIKE %s",
        [f"{SCHEMA}.{table.name}", f"FOR VALUES FROM ('{month.first_day}') TO %"],
    )
    row = cursor.fetchone()
    return sql.SQL(row[0]) if row else None


def _create_index(cursor: extensions.cursor, table: str) -> None:
    index = sql.Identifier(f"{table}_pickup_datetime_brin")
    cursor.execute(sql.SQL("CREATE INDEX {} ON {} USING brin (pickup_datetime)").format(index, _qualify(table)))


def _rename_indexes_and_constraints(cursor: extensions.cursor, partition: str) -> None:
    """Rename a filled table's indexes and constraints after its partition."""
    at = f"{SCHEMA}.{partition}"
    cursor.execute(
        "SELECT conname FROM pg_constraint WHERE conrelid = to_regclass(%s) AND conname LIKE '%%\\_filling\\_%%'", [at]
    )
    for (name,) in cursor.fetchall():
        old, new = sql.Identifier(name), sql.Identifier(name.replace("_filling_", "_"))
        cursor.execute(sql.SQL("ALTER TABLE {} RENAME CONSTRAINT {} TO {}").format(_qualify(partition), old, new))
    cursor.execute(
        "SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid"
        " WHERE indrelid = to_regclass(%s) AND relname LIKE '%%\\_filling\\_%%'",
        [at],
    )
    for (name,) in cursor.fetchall():
        new = sql.Identifier(name.replace("_filling_", "_"))
        cursor.execute(sql.SQL("ALTER INDEX {} RENAME TO {}").format(_qualify(name), new))


def _list_views_on(cursor: extensions.cursor, view: str) -> set[str]:
    """Return the views that use a view directly, as ``schema.name``."""
    cursor.execute(
        "SELECT DISTINCT format('%%I.%%I', nspname, relname) FROM pg_depend"
        " JOIN pg_rewrite ON pg_rewrite.oid = objid AND classid = 'pg_rewrite'::regclass"
        " JOIN pg_class ON pg_class.oid = ev_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
        " WHERE refclassid = 'pg_class'::regclass AND refobjid = to_regclass(%s) AND ev_class <> refobjid",
        [f"{SCHEMA}.{view}"],
    )
    return {name for (name,) in cursor.fetchall()}


def _list_grants(cursor: extensions.cursor, view: str) -> list[str]:
    """Return the GRANT commands that restore a view's permissions."""
    cursor.execute(
        "SELECT format('GRANT %%s%%s ON %%s TO %%s%%s', privilege_type, '(' || quote_ident(part) || ')', oid::regclass,"
        " CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,"
        " CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END) FROM ("
        "SELECT oid, relowner, NULL AS part, (aclexplode(relacl)).* FROM pg_class UNION ALL"
        " SELECT pg_class.oid, relowner, attname, (aclexplode(attacl)).* FROM pg_attribute"
        " JOIN pg_class ON pg_class.oid = attrelid) AS granted"
        " WHERE oid = to_regclass(%s) AND grantee <> relowner",
        [f"{SCHEMA}.{view}"],
    )
    return [grant for (grant,) in cursor.fetchall()]


def _has_primary_key(cursor: extensions.cursor, table: str) -> bool:
    cursor.execute("SELECT 1 FROM pg_index WHERE indrelid = to_regclass(%s) AND indisprimary", [f"{SCHEMA}.{table}"])
    return cursor.fetchone() is not None


def _make_execute(cursor: extensions.cursor) -> Execute:
    def execute(query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        cursor.execute(query.replace("?", "%s"), values)
        return cursor.fetchall() if cursor.description else []

    return execute
