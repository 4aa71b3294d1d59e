"""Postgres: a month is a partition, filled aside by binary COPY and swapped in, all in one transaction.

The rows are frozen as they are copied: they are visible to every transaction once the swap is, so that one
that began before it and looks at the month only afterwards finds the new rows and not an empty month.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pgpq
import psycopg2
import pyarrow as pa
from psycopg2 import errors, extensions, sql

from nyc_tlc.errors import ConfigurationError, TlcError, TransientError
from nyc_tlc.lake.clean_file import CleanFile
from nyc_tlc.lake.lake import Lake
from nyc_tlc.months import Color, Month
from nyc_tlc.settings import read_settings
from nyc_tlc.warehouse.ledger import Execute, read_loads, write_load
from nyc_tlc.warehouse.tables import LOADS, SCHEMA, TRIP_KEY, Table, Type, View, missing_fields, renamed_fields
from nyc_tlc.warehouse.warehouse import Kind, Load, Lookup, reconcile

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
}

#: How long a swap waits in the line of the table's readers before it lets those behind it pass.
IN_LINE = "3s"
#: Rows that are encoded and sent in one piece, about a megabyte, and how many pieces may wait for the network.
PIECE, AHEAD = 1 << 12, 8


class PostgresWarehouse:
    """A warehouse in a Postgres database."""

    kind: Kind = "postgres"

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        """Use a database.

        Args:
            parameters: libpq's connection parameters by name, the password among them.
        """
        self._parameters = dict(parameters)
        host, port = parameters.get("host", "localhost"), parameters.get("port") or 5432
        self.place = f"postgresql://{host}:{port}/{parameters.get('dbname', '')}"

    def loads(self) -> dict[tuple[Color, Month], Load]:
        """The months it has."""
        with self._transaction("the list of loads") as cursor:
            columns = _columns(cursor, LOADS.name)
            return read_loads(_executor(cursor), columns) if columns else {}

    def prepare(self, tables: Sequence[Table], lookups: Sequence[Lookup], views: Sequence[View]) -> None:
        """Create what is missing. Trip tables are partitioned by month, with a BRIN index on the pick-up time."""
        with self._transaction("the tables") as cursor:
            # Two creating the same thing at once would not wait for each other but fail.
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"nyc_tlc {SCHEMA}"])
            cursor.execute("SELECT to_regnamespace(%s)", [SCHEMA])
            if cursor.fetchone() == (None,):
                cursor.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
            changed = [self._prepare(cursor, table) for table in tables]
            for lookup in lookups:
                if not _columns(cursor, lookup.table.name):
                    self._replace_lookup(cursor, lookup)
            if any(changed) or any(tuple(_columns(cursor, view.name)) != view.columns for view in views):
                self._replace_views(cursor, views)

    def replace_month(
        self, file: CleanFile, table: Table, flow_run_id: str | None, *, force: bool = False
    ) -> tuple[Load, bool]:
        """Make the month's rows exactly the file's."""
        first_day = file.month.first_day
        count = sql.SQL("SELECT count(*) FROM {} WHERE file_month = %s").format(_at(table.name))
        with self._transaction(file.name) as cursor:
            self._take_turn(cursor, file)
            known = read_loads(_executor(cursor), LOADS.names).get((file.manifest.color, file.month))
            if known and known.is_of(file) and not force:
                cursor.execute("SAVEPOINT look")
                if _one(cursor, count, first_day) == known.row_count:
                    return known, False
                # Whoever has looked at the table holds up other months' swaps until the end, unless taken back.
                cursor.execute("ROLLBACK TO SAVEPOINT look")
            # A name of its own kind: a table of the user's that happens to be there is not dropped.
            filled = f"{table.name}_{file.month.year:04d}_{file.month.month:02d}_filling"
            copied = self._fill(cursor, file, table, filled)
            found = _one(cursor, sql.SQL("SELECT count(*) FROM {}").format(_at(filled)))
            reconcile(file, self.place, copied=copied, found=found)
            self._swap(cursor, file, table, filled)
            load = Load.of(file, datetime.now(UTC), flow_run_id)
            write_load(_executor(cursor), load)
        return load, True

    def replace_lookups(self, lookups: Sequence[Lookup]) -> None:
        """Make the lookup tables exactly these rows."""
        with self._transaction("the lookups") as cursor:
            for lookup in lookups:
                self._replace_lookup(cursor, lookup)

    def query(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a SELECT."""
        with self._transaction("a query") as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def check(self, lake: Lake) -> str:
        """See that it answers and that tables can be made in its schema."""
        with self._transaction("a check") as cursor:
            cursor.execute("SELECT 1")
            cursor.execute(
                "SELECT current_user, current_database(), to_regnamespace(%s) IS NOT NULL,"
                " CASE WHEN to_regnamespace(%s) IS NULL THEN has_database_privilege(current_database(), 'CREATE')"
                " ELSE has_schema_privilege(%s, 'CREATE') END",
                [SCHEMA] * 3,
            )
            user, database, exists, may = cursor.fetchone() or ("", "", False, False)
        if not may:
            right = f"CREATE ON SCHEMA {SCHEMA}" if exists else f"CREATE ON DATABASE {database}"
            raise ConfigurationError(
                f"{self.place}: {user} may not make {'tables' if exists else f'the schema {SCHEMA}'}",
                fix=f"as its owner: GRANT {right} TO {user}",
            )
        return f"answers, and {user} may make tables"

    def _prepare(self, cursor: extensions.cursor, table: Table) -> bool:
        """Create or extend a table; whether it was."""
        name, found = _at(table.name), _columns(cursor, table.name)
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
                fields.append(sql.SQL("PRIMARY KEY ({})").format(_names(table.key)))
            cursor.execute(
                sql.SQL("CREATE TABLE {} ({}) {}").format(
                    name,
                    sql.SQL(", ").join(fields),
                    sql.SQL("PARTITION BY RANGE (file_month)" if partitioned else ""),
                )
            )
            if partitioned:
                cursor.execute(sql.SQL("CREATE INDEX ON {} USING brin (pickup_datetime)").format(name))
        if not found or renamed:
            cursor.execute(sql.SQL("COMMENT ON TABLE {} IS %s").format(name), [table.description])
        gained = missing_fields(table, found, TYPES, self.place)
        for field in gained:
            column = sql.Identifier(field.name)
            if found:
                kind = sql.SQL(TYPES[field.type])
                cursor.execute(sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(name, column, kind))
            cursor.execute(sql.SQL("COMMENT ON COLUMN {}.{} IS %s").format(name, column), [field.description])
        if partitioned and read_settings().postgres_primary_key and not _has_primary_key(cursor, table.name):
            cursor.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(name, _names(table.key)))
        return bool(gained)

    def _replace_views(self, cursor: extensions.cursor, views: Sequence[View]) -> None:
        # A view can't gain a column in its middle, so it is made anew; the later ones stand on the earlier.
        for view in reversed(views):
            cursor.execute(sql.SQL("DROP VIEW IF EXISTS {}").format(_at(view.name)))
        for view in views:
            query = view.sql(lambda name: f"{SCHEMA}.{name}")
            cursor.execute(sql.SQL("CREATE VIEW {} AS {}").format(_at(view.name), sql.SQL(query)))
            cursor.execute(sql.SQL("COMMENT ON VIEW {} IS %s").format(_at(view.name)), [view.description])

    def _replace_lookup(self, cursor: extensions.cursor, lookup: Lookup) -> None:
        self._prepare(cursor, lookup.table)
        cursor.execute(sql.SQL("DELETE FROM {}").format(_at(lookup.table.name)))
        _copy(cursor, lookup.table.name, lookup.rows.schema, iter(lookup.rows.to_batches()), frozen=False)

    def _take_turn(self, cursor: extensions.cursor, file: CleanFile) -> None:
        """Wait while another load of the same month is at work."""
        lock = [f"nyc_tlc {SCHEMA}.{file.name}"]
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", lock)
        if cursor.fetchone() == (True,):
            return
        patience = read_settings().warehouse_wait
        log.warning("%s: waiting for another load of it into %s", file.name, self.place)
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{max(1, int(1000 * patience))}ms"])
        try:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", lock)
        except errors.LockNotAvailable as error:
            raise TransientError(
                f"{file.name}: another load of it into {self.place} is still at work",
                got=f"no turn within {patience:g} seconds",
                fix="run this again later",
            ) from error
        cursor.execute("SET LOCAL lock_timeout = 0")

    def _fill(self, cursor: extensions.cursor, file: CleanFile, table: Table, filled: str) -> int:
        """Make a table of the month, with the check that spares ATTACH its scan, and the rows; tells how many.

        It is made without a look at the partitioned table, so that other months' swaps need not wait for the rows.
        """
        cursor.execute(
            sql.SQL("CREATE TABLE {} ({}, CONSTRAINT is_its_month CHECK (file_month = {}))").format(
                _at(filled), sql.SQL(", ").join(_definitions(table)), sql.Literal(file.month.first_day)
            )
        )
        copied = _copy(cursor, filled, file.terms.clean_schema, file.batches(), frozen=True)
        cursor.execute(sql.SQL("CREATE INDEX ON {} USING brin (pickup_datetime)").format(_at(filled)))
        if _has_primary_key(cursor, table.name):
            cursor.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(_at(filled), _names(table.key)))
        return copied

    def _swap(self, cursor: extensions.cursor, file: CleanFile, table: Table, filled: str) -> None:
        """Put the filled table in the old partition's place; a moment without readers is all it takes."""
        partition = filled.removesuffix("_filling")
        deadline, told = time.monotonic() + read_settings().warehouse_wait, False
        cursor.execute("SAVEPOINT swap")
        while True:
            try:
                # In line for the table, a swap holds up all who come after it, so it stands there only so long.
                cursor.execute("SELECT set_config('lock_timeout', %s, true)", [IN_LINE])
                cursor.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(_at(table.name)))
                break
            except errors.LockNotAvailable as error:
                cursor.execute("ROLLBACK TO SAVEPOINT swap")
                if time.monotonic() > deadline:
                    raise TransientError(
                        f"{file.name}: {self.place}: others keep {SCHEMA}.{table.name} busy; the old rows stay",
                        fix="end their transactions, or run this again later",
                    ) from error
                if not told:
                    log.warning("%s: waiting for the readers of %s.%s", file.name, SCHEMA, table.name)
                told = True
        cursor.execute("SET LOCAL lock_timeout = 0")
        if _columns(cursor, partition):
            cursor.execute(sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(_at(table.name), _at(partition)))
            cursor.execute(sql.SQL("DROP TABLE {}").format(_at(partition)))
        cursor.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(_at(filled), sql.Identifier(partition)))
        cursor.execute(
            sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
                _at(table.name), _at(partition), *_bounds(file.month)
            )
        )
        cursor.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT is_its_month").format(_at(partition)))

    @contextlib.contextmanager
    def _transaction(self, what: str) -> Iterator[extensions.cursor]:
        """All or nothing, on a connection of its own."""
        try:
            connection: extensions.connection = psycopg2.connect(
                **self._parameters, application_name=f"nyc-tlc-flows: {what}"
            )
        except psycopg2.OperationalError as error:
            about_time = _is_about_time(error)
            kind = TransientError if about_time else ConfigurationError
            fix = "see that the server runs, or try again later" if about_time else "see to the profile's connection"
            raise kind(f"{what}: no connection to {self.place}", got=_first(error), fix=fix) from error
        except psycopg2.ProgrammingError as error:
            raise ConfigurationError(
                f"{what}: {self.place} can't be asked for a connection", got=_first(error)
            ) from error
        try:
            with connection, connection.cursor() as cursor:
                yield cursor
        except errors.InsufficientPrivilege as error:
            raise ConfigurationError(
                f"{what}: {self.place}: a right is missing", got=_first(error), fix="grant it, or take another user"
            ) from error
        except (psycopg2.OperationalError, psycopg2.InterfaceError, errors.SerializationFailure) as error:
            raise TransientError(f"{what}: {self.place} broke off; the old rows stay", got=_first(error)) from error
        except psycopg2.Error as error:
            raise TlcError(f"{what}: {self.place} failed; the old rows stay", got=_first(error)) from error
        finally:
            connection.close()


class _Encoded:
    """Batches as the file that COPY reads: encoded in a thread of their own, a few ahead."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self._schema, self._batches = schema, batches
        self._ready: queue.Queue[bytes | BaseException] = queue.Queue(AHEAD)
        self._ended = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._encode, name="encode", daemon=True)
        self._thread.start()

    def read(self, size: int) -> bytes:
        """The next batch whatever its size, nothing at the end; what failed in encoding fails the COPY here."""
        ready = b"" if self._ended else self._ready.get()
        if isinstance(ready, BaseException):
            raise ready
        self._ended = not ready
        return ready

    def stop(self) -> None:
        """Let the thread end, whether all was read or not."""
        self._stopped.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._ready.get(timeout=0.05)

    def _put(self, encoded: bytes) -> None:
        # What is empty would be taken for the end.
        if encoded:
            self._ready.put(encoded)

    def _encode(self) -> None:
        encoder = pgpq.ArrowToPostgresBinaryEncoder(self._schema)
        try:
            self._put(encoder.write_header())
            for batch in self._batches:
                for start in range(0, len(batch), PIECE):
                    if self._stopped.is_set():
                        return
                    self._put(encoder.write_batch(batch.slice(start, PIECE)))
            self._put(encoder.finish())
            self._ready.put(b"")
        except BaseException as error:  # noqa: BLE001  raised again where COPY reads
            self._ready.put(error)


def _copy(
    cursor: extensions.cursor, table: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], *, frozen: bool
) -> int:
    command = sql.SQL("COPY {} ({}) FROM STDIN WITH (FORMAT binary{})").format(
        _at(table), _names(schema.names), sql.SQL(", FREEZE" if frozen else "")
    )
    encoded = _Encoded(schema, batches)
    try:
        cursor.copy_expert(command, encoded)
    finally:
        encoded.stop()
    return int(cursor.rowcount)


def _at(name: str) -> sql.Identifier:
    return sql.Identifier(SCHEMA, name)


def _definitions(table: Table) -> list[sql.Composed]:
    """A table's columns as CREATE TABLE takes them."""
    required = {True: sql.SQL(" NOT NULL"), False: sql.SQL("")}
    return [
        sql.SQL("{} {}{}").format(sql.Identifier(each.name), sql.SQL(TYPES[each.type]), required[each.required])
        for each in table.fields
    ]


def _names(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _bounds(month: Month) -> tuple[sql.Literal, sql.Literal]:
    return sql.Literal(month.first_day), sql.Literal(month.plus(1).first_day)


def _one(cursor: extensions.cursor, query: sql.Composable, *values: object) -> int:
    cursor.execute(query, values)
    row = cursor.fetchone()
    return int(row[0]) if row else 0


def _columns(cursor: extensions.cursor, table: str) -> dict[str, str]:
    """A table's or view's columns and types, empty when there is none."""
    cursor.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [f"{SCHEMA}.{table}"],
    )
    return dict(cursor.fetchall())


def _has_primary_key(cursor: extensions.cursor, table: str) -> bool:
    cursor.execute("SELECT 1 FROM pg_index WHERE indrelid = to_regclass(%s) AND indisprimary", [f"{SCHEMA}.{table}"])
    return cursor.fetchone() is not None


def _executor(cursor: extensions.cursor) -> Execute:
    def execute(query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        cursor.execute(query.replace("?", "%s"), values)
        return cursor.fetchall() if cursor.description else []

    return execute


def _is_about_time(error: psycopg2.OperationalError) -> bool:
    """Whether a refused connection may be taken later: the server is starting, full, or away."""
    told = str(error)
    return any(
        part in told
        for part in ("refused", "timeout expired", "timed out", "starting up", "shutting down", "too many", "closed")
    )


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
