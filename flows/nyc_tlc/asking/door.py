"""Run one SELECT that somebody else wrote over a warehouse: it changes nothing, reads no files, and has limits.

In DuckDB the engine's own parser says what the text is, and its configuration is locked. Postgres runs it in a
read-only transaction. BigQuery says what the query is, and what it would read, before it runs.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from nyc_tlc.errors import ArgumentError, BusyError, ConfigurationError, TlcError, first_line
from nyc_tlc.profiles.opening import duckdb_path, libpq_parameters, open_bigquery
from nyc_tlc.warehouse.protocol import Kind

MOST_ROWS = 1_000
#: Characters of all cells of an answer.
MOST_CHARACTERS = 1_000_000
LONGEST_QUERY = 20_000
SECONDS = 30
MEMORY = 1_000_000_000
#: Bytes that a query in BigQuery may read; it refuses others before they cost anything.
MOST_BILLED = 10 << 30

CONFIGURATION: dict[str, Any] = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_persistent_secrets": False,
    # Otherwise FROM name finds a variable of this program.
    "python_enable_replacements": False,
    # Nothing is written to the disk either: what needs more memory fails.
    "temp_directory": "",
    "memory_limit": f"{MEMORY}B",
    "threads": 2,
    "lock_configuration": True,
}
#: DuckDB's other functions in FROM read files, run text as SQL, or tell about this process.
TABLE_FUNCTIONS = {"range", "generate_series", "unnest"}
REFUSED_FUNCTIONS = "getenv current_setting getvariable write_log json_serialize_plan nextval setseed".split()

#: The cursor takes exactly one statement, and a subquery is a SELECT that changes nothing.
OPEN_CURSOR = (
    "DO $$ DECLARE answer refcursor := 'answer'; BEGIN OPEN answer FOR EXECUTE current_setting('tlc.query'); END $$"
)
#: Superusers are members of all roles.
SERVER_ROLES = ["pg_read_server_files", "pg_write_server_files", "pg_execute_server_program"]


@dataclass(frozen=True)
class Answer:
    """The rows of a query; ``is_cut`` if there are more than the limits allow."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    is_cut: bool


def ask(sql: str, profile: str, kind: Kind) -> Answer:
    """Run one SELECT in a profile's warehouse.

    Raises:
        ArgumentError: when the text is anything else than one SELECT, or the warehouse refuses it.
        TlcError: when it takes too long or too much memory, or the warehouse can't be used.
    """
    if len(sql) > LONGEST_QUERY or "\0" in sql or sql.encode(errors="ignore").decode() != sql:
        raise ArgumentError("the query can't be read", expected=f"at most {LONGEST_QUERY:,} characters of valid text")
    try:
        if kind == "duckdb":
            return _ask_duckdb(duckdb_path(), sql)
        if kind == "postgres":
            return _ask_postgres(libpq_parameters(profile), sql)
        return _ask_bigquery(open_bigquery(profile)[1], sql)
    except MemoryError:
        raise _too_much_memory() from None
    # Of values that Python can't hold, such as a date in the year 10000.
    except (ValueError, OverflowError) as error:
        raise ArgumentError(
            "a value of the answer can't be shown", got=first_line(error), fix="cast it to text"
        ) from None


def _collect(columns: Iterable[Any], rows: Iterable[tuple[Any, ...]]) -> Answer:
    kept, size = list[tuple[Any, ...]](), 0
    for row in rows:
        size += sum(len(str(cell)) for cell in row)
        if len(kept) == MOST_ROWS or size > MOST_CHARACTERS:
            return Answer([column[0] for column in columns], kept, True)
        kept.append(row)
    return Answer([column[0] for column in columns], kept, False)


def _ask_duckdb(path: Path, sql: str) -> Answer:
    """Open the file for this query only, so that loads can write to it between two queries."""
    if not path.is_file():
        raise ConfigurationError(f"there is no warehouse {path}", fix="load a month into it with etl_month")
    with _limited_memory(), contextlib.closing(_open(path)) as connection:
        timer = threading.Timer(SECONDS, connection.interrupt)
        timer.start()
        try:
            cursor = connection.execute(_check(connection, sql))
            return _collect(cursor.description, iter(cursor.fetchone, None))
        except duckdb.InterruptException:
            raise _too_slow() from None
        except duckdb.OutOfMemoryException:
            raise _too_much_memory() from None
        except duckdb.Error as error:
            raise ArgumentError("the query failed", got=first_line(error)) from None
        finally:
            timer.cancel()
            # Closing waits for the rows that nobody fetched, which can be endless.
            connection.interrupt()


def _open(path: Path) -> duckdb.DuckDBPyConnection:
    try:
        return duckdb.connect(path, read_only=True, config=CONFIGURATION)
    except duckdb.Error as error:
        if "Could not set lock" in str(error):
            fix = "ask again when the load that writes to it has ended"
            raise BusyError(f"{path} is in use", got=first_line(error), fix=fix) from None
        raise ConfigurationError(f"cannot open {path}", got=first_line(error)) from None


def _check(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """Return the text as a statement.

    Raises:
        ArgumentError: when it is not one SELECT, or uses a function that is not allowed.
    """
    statements = connection.extract_statements(sql)
    if [each.type for each in statements] != [duckdb.StatementType.SELECT]:
        found = ", ".join(each.type.name for each in statements[:5]) or "nothing"
        raise ArgumentError("the query can't be run", expected="one SELECT", got=found)
    row = connection.execute("SELECT json_serialize_sql(?)", [statements[0].query]).fetchone()
    try:
        tree = json.loads(row[0] if row else "", object_hook=_check_node)
    except RecursionError:
        raise ArgumentError("the query is nested too deeply") from None
    if tree.get("error"):
        raise ArgumentError("the query can't be run", expected="one SELECT", got=tree["error_message"])
    return statements[0]


def _check_node(node: dict[str, Any]) -> dict[str, Any]:
    name = str(node.get("function_name", "")).lower()
    if node.get("type") == "TABLE_FUNCTION" and (name := node["function"]["function_name"].lower()) in TABLE_FUNCTIONS:
        return node
    if node.get("type") == "TABLE_FUNCTION" or name in REFUSED_FUNCTIONS:
        raise ArgumentError(f"the function {name} can't be used here")
    return node


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    """Limit this process, as DuckDB's own limit does not count all memory: not that of a long list. Only on Linux."""
    limits = soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux" and soft == resource.RLIM_INFINITY:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2 * MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _ask_postgres(parameters: Mapping[str, Any], sql: str) -> Answer:
    import psycopg2

    from nyc_tlc.warehouse.postgres import PostgresWarehouse
    from nyc_tlc.warehouse.postgres_connection import connect

    place = PostgresWarehouse(parameters).place
    with contextlib.closing(connect(parameters, place, "a query")) as connection, connection.cursor() as cursor:
        try:
            cursor.execute("SELECT bool_or(pg_has_role(role, 'MEMBER')) FROM unnest(%s) AS role", [SERVER_ROLES])
            if cursor.fetchone() == (True,):
                fix = "use a role with SELECT only: docs/ask.md has the statements that make it"
                raise ConfigurationError(f"{place}: the user may read files of the server, as superusers may", fix=fix)
            connection.rollback()
            connection.set_session(readonly=True)
            cursor.execute(
                "SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true),"
                " set_config('tlc.query', %s, true)",
                [f"{SECONDS}s", f"{SECONDS}s", f"SELECT * FROM (\n{sql.strip().removesuffix(';')}\n) AS answer"],
            )
            cursor.execute(OPEN_CURSOR)
            cursor.execute("FETCH 0 FROM answer")
            return _collect(cursor.description or (), _fetch(cursor))
        except psycopg2.errors.QueryCanceled:
            raise _too_slow() from None
        except psycopg2.Error as error:
            raise ArgumentError("the query failed", got=first_line(error)) from None


def _fetch(cursor: Any) -> Iterator[tuple[Any, ...]]:
    deadline = time.monotonic() + SECONDS
    while True:
        if time.monotonic() > deadline:
            raise _too_slow()
        # A few rows at once: each can be large.
        cursor.execute("FETCH 20 FROM answer")
        if not cursor.rowcount:
            return
        yield from cursor.fetchall()


def _ask_bigquery(client: Any, sql: str) -> Answer:
    from google.cloud.bigquery import QueryJobConfig

    from nyc_tlc.warehouse.bigquery_errors import FAILURES, explain

    try:
        plan = client.query(sql, job_config=QueryJobConfig(dry_run=True))
        if plan.statement_type != "SELECT":
            raise ArgumentError("the query can't be run", expected="one SELECT", got=plan.statement_type or "nothing")
        limits = QueryJobConfig(maximum_bytes_billed=MOST_BILLED, job_timeout_ms=SECONDS * 1000)
        found = client.query(sql, job_config=limits).result(max_results=MOST_ROWS + 1, timeout=SECONDS)
        return _collect([(field.name,) for field in found.schema], (tuple(row.values()) for row in found))
    except TimeoutError:
        raise _too_slow() from None
    except FAILURES as error:
        raise explain(error, "a query", f"bigquery://{client.project}", "", "") from None


def _too_slow() -> TlcError:
    return TlcError(f"the query took longer than {SECONDS} seconds", fix="ask for fewer months, or for sums of them")


def _too_much_memory() -> TlcError:
    return TlcError(
        f"the query needs more than {MEMORY:,} bytes of memory", fix="ask for fewer rows, or for sums of them"
    )
