"""Postgres: a month is a partition, filled aside by binary COPY and swapped in, all in one transaction.

The rows are frozen as they are copied: they are visible to every transaction once the swap is, so that one
that began before it and looks at the month only afterwards finds the new rows and not an empty month.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pgpq
import psycopg2
import pyarrow as pa
from psycopg2 import errors, extensions, sql

from nyc_tlc.errors import ConfigurationError, TlcError, TransientError, first_line
from nyc_tlc.lake.clean_file import CleanFile
from nyc_tlc.lake.lake import Lake
from nyc_tlc.months import Color, Month
from nyc_tlc.settings import read_settings
from nyc_tlc.warehouse.ledger import Execute, read_loads, write_load
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
    "strings": "text[]",
}

#: How long a change of tables waits in the queue for its locks: whoever comes after it waits behind it.
SWAP_LOCK_TIMEOUT = "2s"
#: Seconds between two attempts to get the locks: readers go on in the meantime.
LOCK_PAUSE = 4.0
#: Rows that are encoded and sent in one piece, about a megabyte, and how many pieces may wait for the network.
COPY_BATCH_ROWS, COPY_BATCHES_AHEAD = 1 << 12, 8
#: A server that is gone is noticed within a minute or so. What the profile's block says of these counts instead.
CONNECTION_DEFAULTS = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
#: SQLSTATE classes and codes of what time can heal: connections, resources, serialization, the server going down or
#: coming up. PostgreSQL's documentation, appendix A.
TRANSIENT_CLASSES = ("08", "53", "40", "57P")


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
            if self._is_prepared(cursor, tables, lookups, views):
                return

        def create() -> None:
            with self._transaction("the tables") as cursor:
                cursor.execute("SELECT set_config('lock_timeout', %s, true)", [SWAP_LOCK_TIMEOUT])
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

        self._with_patience(create, "the tables", "nothing was changed")

    def replace_month(self, file: CleanFile, flow_run_id: str | None, *, force: bool = False) -> tuple[Load, bool]:
        """Make the month's rows exactly those of the files."""
        tables = (trip_table(file.contract), file), (quarantine_table(file.contract), file.quarantine)
        with self._transaction(file.name, outcome="the old rows stay") as cursor:
            self._take_turn(cursor, file)
            known = read_loads(_executor(cursor), LOADS.names).get((file.manifest.color, file.month))
            if known and known.is_of(file.manifest) and not force:
                cursor.execute("SAVEPOINT look")
                if [_count(cursor, table, file.month) for table, _ in tables] == [
                    known.row_count,
                    known.quarantine_rows,
                ]:
                    return known, False
                # Whoever has looked at the table holds up other months' swaps until the end, unless taken back.
                cursor.execute("ROLLBACK TO SAVEPOINT look")
            for table, rows in tables:
                self._fill(cursor, rows, table)
            self._swap(cursor, file, [table for table, _ in tables], flow_run_id)
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
        if partitioned and read_settings().postgres_primary_key and not _has_primary_key(cursor, table.name):
            cursor.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(name, _names(table.key)))
        return bool(gained)

    def _is_prepared(
        self, cursor: extensions.cursor, tables: Sequence[Table], lookups: Sequence[Lookup], views: Sequence[View]
    ) -> bool:
        """Whether nothing is missing: found out from the catalog, so that nobody waits and nobody is made to."""
        for table in (*tables, *(lookup.table for lookup in lookups)):
            found = _columns(cursor, table.name)
            if not found or renamed_fields(table, found) or missing_fields(table, found, TYPES, self.place):
                return False
            wants_key = table.key == TRIP_KEY and read_settings().postgres_primary_key
            if wants_key and not _has_primary_key(cursor, table.name):
                return False
        return all(tuple(_columns(cursor, view.name)) == view.columns for view in views)

    def _replace_views(self, cursor: extensions.cursor, views: Sequence[View]) -> None:
        """Make the views what they should be. One that gains a column in its middle is dropped and made again.

        Raises:
            ConfigurationError: when someone else's view stands on one that has to be dropped.
        """
        cursor.execute("SAVEPOINT views")
        try:
            self._create_views(cursor, views)
        except errors.InvalidTableDefinition:
            cursor.execute("ROLLBACK TO SAVEPOINT views")
            grants = [grant for view in views for grant in _grants(cursor, view.name)]
            for view in reversed(views):
                try:
                    cursor.execute(sql.SQL("DROP VIEW IF EXISTS {}").format(_at(view.name)))
                except errors.DependentObjectsStillExist as error:
                    raise ConfigurationError(
                        f"{self.place}: the view {SCHEMA}.{view.name} has to gain columns, and others stand on it",
                        got=error.diag.message_detail or first_line(error),
                        fix="drop those, load again, and create them again",
                    ) from error
            self._create_views(cursor, views)
            for grant in grants:
                cursor.execute(grant)

    def _create_views(self, cursor: extensions.cursor, views: Sequence[View]) -> None:
        for view in views:
            query = view.sql(lambda name: f"{SCHEMA}.{name}")
            cursor.execute(sql.SQL("CREATE OR REPLACE VIEW {} AS {}").format(_at(view.name), sql.SQL(query)))
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

    def _fill(self, cursor: extensions.cursor, file: CleanFile, table: Table) -> None:
        """Make a table aside with the file's rows, and with the check that spares ATTACH its scan.

        It is made without a look at the partitioned table, so that other months' swaps need not wait for the rows.
        """
        # A name of its own kind: a table of the user's that happens to be there is not dropped.
        filled = f"{_partition(table, file.month)}_filling"
        cursor.execute(
            sql.SQL("CREATE TABLE {} ({}, CONSTRAINT is_its_month CHECK (file_month = {}))").format(
                _at(filled), sql.SQL(", ").join(_definitions(table)), sql.Literal(file.month.first_day)
            )
        )
        copied = _copy(cursor, filled, file.schema, file.batches(), frozen=True)
        _create_index(cursor, filled)
        if _has_primary_key(cursor, table.name):
            cursor.execute(
                sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} PRIMARY KEY ({})").format(
                    _at(filled), sql.Identifier(f"{filled}_pkey"), _names(table.key)
                )
            )
        found = _one(cursor, sql.SQL("SELECT count(*) FROM {}").format(_at(filled)))
        reconcile(file, self.place, copied=copied, found=found)

    def _swap(
        self, cursor: extensions.cursor, file: CleanFile, tables: Sequence[Table], flow_run_id: str | None
    ) -> None:
        """Put the filled tables in the old partitions' places.

        A new month needs no more than a lock that readers don't notice. To replace one, a moment without readers is
        needed: the locks are asked for, and given up again for a while when readers keep them.
        """
        old = [table for table in tables if _columns(cursor, _partition(table, file.month))]
        cursor.execute("SAVEPOINT swap")

        def swap() -> None:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [SWAP_LOCK_TIMEOUT])
            if old:
                names = sql.SQL(", ").join(_at(table.name) for table in old)
                cursor.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(names))
            for table in tables:
                self._attach(cursor, file, table, flow_run_id, is_new=table not in old)
            cursor.execute("SET LOCAL lock_timeout = 0")

        self._with_patience(
            swap, file.name, "the old rows stay", give_up=lambda: cursor.execute("ROLLBACK TO SAVEPOINT swap")
        )

    def _attach(
        self, cursor: extensions.cursor, file: CleanFile, table: Table, flow_run_id: str | None, *, is_new: bool
    ) -> None:
        partition = _partition(table, file.month)
        filled = f"{partition}_filling"
        if not is_new:
            cursor.execute(sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(_at(table.name), _at(partition)))
            cursor.execute(sql.SQL("DROP TABLE {}").format(_at(partition)))
        cursor.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(_at(filled), sql.Identifier(partition)))
        for kind in ("pickup_datetime_brin", "pkey"):
            cursor.execute(
                sql.SQL("ALTER INDEX IF EXISTS {} RENAME TO {}").format(
                    _at(f"{filled}_{kind}"), sql.Identifier(f"{partition}_{kind}")
                )
            )
        cursor.execute(
            sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
                _at(table.name), _at(partition), *_bounds(file.month)
            )
        )
        cursor.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT is_its_month").format(_at(partition)))
        comment = f"{file.name} from {file.manifest.source.url}, loaded by the flow run {flow_run_id or '(none)'}"
        cursor.execute(sql.SQL("COMMENT ON TABLE {} IS %s").format(_at(partition)), [comment])

    def _with_patience(
        self,
        change: Callable[[], None],
        what: str,
        outcome: str,
        give_up: Callable[[], None] = lambda: None,
    ) -> None:
        """Make a change of tables again and again until it gets its locks.

        Args:
            change: The change; it waits for a lock no longer than ``SWAP_LOCK_TIMEOUT``.
            what: What it is for, for people.
            outcome: What stands when it is not made.
            give_up: Takes back what an attempt has done.

        Raises:
            TransientError: when others keep the tables busy for ``TLC_WAREHOUSE_WAIT`` seconds.
        """
        deadline, warned = time.monotonic() + read_settings().warehouse_wait, False
        while True:
            try:
                change()
                return
            except errors.LockNotAvailable as error:
                give_up()
                if time.monotonic() > deadline:
                    raise TransientError(
                        f"{what}: {self.place}: others keep the tables of {SCHEMA} busy; {outcome}",
                        fix="end their transactions, or run this again later",
                    ) from error
                if not warned:
                    log.warning("%s: waiting for the readers of %s", what, self.place)
                warned = True
                time.sleep(LOCK_PAUSE * random.uniform(0.5, 1.5))  # noqa: S311  jitter

    @contextlib.contextmanager
    def _transaction(self, what: str, *, outcome: str = "") -> Iterator[extensions.cursor]:
        """All or nothing, on a connection of its own.

        Args:
            what: What it is for, for people.
            outcome: What stands when it is not committed.
        """
        connection, stands = self._connect(what), f"; {outcome}" if outcome else ""
        try:
            with connection, connection.cursor() as cursor:
                yield cursor
        except errors.LockNotAvailable:
            raise
        except errors.InsufficientPrivilege as error:
            raise ConfigurationError(
                f"{what}: {self.place}: a right is missing",
                got=first_line(error),
                fix="grant it, or take another user",
            ) from error
        except psycopg2.Error as error:
            lost = error.pgcode is None and isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
            if lost or (error.pgcode or "").startswith(TRANSIENT_CLASSES):
                raise TransientError(f"{what}: {self.place} broke off{stands}", got=first_line(error)) from error
            raise TlcError(f"{what}: {self.place} failed{stands}", got=first_line(error)) from error
        finally:
            connection.close()

    def _connect(self, what: str) -> extensions.connection:
        named = {"application_name": f"nyc-tlc-flows: {what}"}
        try:
            connection: extensions.connection = psycopg2.connect(**CONNECTION_DEFAULTS | named | self._parameters)
        except psycopg2.OperationalError as error:
            code = _ask_why(self._parameters)
            if code.startswith(TRANSIENT_CLASSES):
                fix = "see that the server runs, or try again later"
                raise TransientError(
                    f"{what}: no connection to {self.place}", got=first_line(error), fix=fix
                ) from error
            raise ConfigurationError(
                f"{what}: no connection to {self.place}",
                got=first_line(error),
                fix="correct what is wrong (POSTGRES_PASSWORD and the like), and register the profile again",
            ) from error
        except psycopg2.ProgrammingError as error:
            raise ConfigurationError(
                f"{what}: {self.place} can't be asked for a connection", got=first_line(error)
            ) from error
        return connection


def _ask_why(parameters: Mapping[str, Any]) -> str:
    """The SQLSTATE with which a server refuses a connection, which psycopg2 does not tell and any language hides.

    08001 when there is no server, 28000 when it asks who one is: then that is what it has refused.
    """
    host, port = str(parameters.get("host") or "localhost"), int(parameters.get("port") or 5432)
    names = {"user": parameters.get("user", ""), "database": parameters.get("dbname", "")}
    body = b"".join(f"{key}\0{value}\0".encode() for key, value in names.items() if value) + b"\0"
    try:
        with contextlib.closing(_open_socket(host, port)) as server:
            server.sendall(struct.pack("!II", len(body) + 8, 3 << 16) + body)
            answer = server.recv(1 << 12)
    except OSError:
        return "08001"
    if not answer:
        return "08006"
    found = re.search(rb"C(\w{5})\0", answer) if answer[:1] == b"E" else None
    return found[1].decode() if found else "28000"


def _open_socket(host: str, port: int) -> socket.socket:
    if not host.startswith("/"):
        return socket.create_connection((host, port), timeout=5)
    server = socket.socket(socket.AF_UNIX)
    server.settimeout(5)
    server.connect(f"{host}/.s.PGSQL.{port}")
    return server


class _Encoded:
    """Batches as the file that COPY reads: encoded in a thread of their own, a few ahead."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self._schema, self._batches = schema, batches
        self._ready: queue.Queue[bytes | BaseException] = queue.Queue(COPY_BATCHES_AHEAD)
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
                for start in range(0, len(batch), COPY_BATCH_ROWS):
                    if self._stopped.is_set():
                        return
                    self._put(encoder.write_batch(batch.slice(start, COPY_BATCH_ROWS)))
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


def _partition(table: Table, month: Month) -> str:
    """The name of a month's partition: ``green_trip_data_2024_01``."""
    return f"{table.name}_{month.year:04d}_{month.month:02d}"


def _create_index(cursor: extensions.cursor, table: str) -> None:
    command = sql.SQL("CREATE INDEX {} ON {} USING brin (pickup_datetime)")
    cursor.execute(command.format(sql.Identifier(f"{table}_pickup_datetime_brin"), _at(table)))


def _grants(cursor: extensions.cursor, view: str) -> list[sql.Composed]:
    """The statements that grant what is granted on a view."""
    cursor.execute(
        "SELECT grantee, privilege_type, is_grantable FROM information_schema.role_table_grants"
        " WHERE table_schema = %s AND table_name = %s AND grantee <> current_user",
        [SCHEMA, view],
    )
    return [
        sql.SQL("GRANT {} ON {} TO {}{}").format(
            sql.SQL(privilege),
            _at(view),
            sql.SQL("PUBLIC") if grantee == "PUBLIC" else sql.Identifier(grantee),
            sql.SQL(" WITH GRANT OPTION" if grantable == "YES" else ""),
        )
        for grantee, privilege, grantable in cursor.fetchall()
    ]


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


def _count(cursor: extensions.cursor, table: Table, month: Month) -> int:
    count = sql.SQL("SELECT count(*) FROM {} WHERE file_month = %s").format(_at(table.name))
    return _one(cursor, count, month.first_day)


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
