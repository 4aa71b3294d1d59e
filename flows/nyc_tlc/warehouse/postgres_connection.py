"""Connections to Postgres, and its errors as errors that say what to do."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import psycopg2
from psycopg2 import extensions

from nyc_tlc.errors import ConfigurationError, TlcError, TransientError, first_line
from nyc_tlc.warehouse.tables import SCHEMA

#: How fast a connection notices that the server is gone. Values in the profile's block override these.
CONNECTION_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 6,
    "tcp_user_timeout": 120_000,
}
#: Seconds that connecting may take in all, to all addresses of the host.
CONNECT_SECONDS = 60.0
#: SQLSTATE classes and codes of errors that a later attempt can avoid: connection, rollback, resources, locks,
#: shutdown and start, I/O.
TRANSIENT_STATES = ("08", "40", "53", "55006", "55P03", "57014", "57P", "58")
#: The bytes of a refusal at most; PostgreSQL's have some hundred.
LONGEST_ANSWER = 1 << 16
#: The state of a connection to a host that has no address; Postgres has none for it.
UNKNOWN_HOST = "no such host"
#: SQLSTATE of a refused connection -> what to do about it.
REFUSALS = {
    UNKNOWN_HOST: "correct POSTGRES_HOST and register the profile again",
    "3D000": "create the database, or correct POSTGRES_DB and register the profile again",
}
CHECK_LOGIN = "check user and password: set POSTGRES_PASSWORD and register the profile again"
#: Beginnings of SQLSTATE, what each means, and what to do about it.
REASONS = (
    ("42501", "a permission is missing", "grant it, or use another user"),
    (
        "25006",
        "the database is read-only",
        "name the server that takes writes, or turn default_transaction_read_only off",
    ),
    ("22P05", "the database's encoding lacks a character", "use a database with ENCODING 'UTF8' (POSTGRES_DB)"),
    ("22021", "the database's encoding lacks a character", "use a database with ENCODING 'UTF8' (POSTGRES_DB)"),
)
#: The same in a load, which replaces the month's partition: what was added by hand to it or to its table is in the way.
REASONS_IN_A_LOAD = (
    (
        "2BP01",
        "something uses the month's partition, which a load replaces",
        f"keep its definition, drop it, load again, and make it again on the table in {SCHEMA}, which stays",
    ),
    (
        "42P17",
        "another partition has the month and others",
        "detach it, and load its months again",
    ),
    ("42P07", "something has the name of the month's partition", "rename or drop it, and load again"),
    ("42804", "the table has a constraint of yours, which no new partition has", "drop it, and load again"),
    ("23", "the month's rows break a constraint of yours", "drop it, and load again"),
)


def connect(parameters: Mapping[str, Any], place: str, what: str) -> extensions.connection:
    """Connect to a database. Texts are sent and read as UTF-8, whatever the database or the environment says.

    Args:
        parameters: libpq's connection parameters.
        place: The database, for messages.
        what: What the connection is for; ``pg_stat_activity`` shows it.

    Raises:
        TransientError: when a later attempt can succeed.
        ConfigurationError: when it is refused.
    """
    own = {"application_name": f"nyc-tlc-flows: {what}"}
    refused: list[_Connection] = []
    try:
        connection = _connect_in_time(
            **(CONNECTION_DEFAULTS | own | dict(parameters) | {"client_encoding": "UTF8"}),
            connection_factory=lambda dsn, **how: _Connection(dsn, refused, **how),
        )
        with connection.cursor() as cursor:
            # Without it, a function that another role made in the schema public runs as this user.
            cursor.execute("SET search_path = pg_catalog, pg_temp")
        connection.commit()
    except psycopg2.OperationalError as error:
        state = _ask_for_state(refused[0].info) if refused else "08"
        if state.startswith(TRANSIENT_STATES):
            raise TransientError(
                f"{what}: no connection to {place}",
                got=first_line(error),
                fix="check that the server runs, or try again later",
            ) from error
        if not state and _lacks_database(parameters):
            state = "3D000"
        raise ConfigurationError(
            f"{what}: {place} refuses the connection", got=first_line(error), fix=REFUSALS.get(state, CHECK_LOGIN)
        ) from error
    except psycopg2.Error as error:
        raise ConfigurationError(
            f"{what}: the connection parameters of {place} are not valid", got=first_line(error)
        ) from error
    return connection


def _connect_in_time(**parameters: Any) -> extensions.connection:
    """Connect. libpq's own limit does not end a connection to a server that talks for ever.

    Raises:
        OperationalError: when it is refused, or takes longer than CONNECT_SECONDS.
    """
    connected: Future[extensions.connection] = Future()

    def run() -> None:
        try:
            connected.set_result(psycopg2.connect(**parameters))
        except BaseException as error:  # noqa: BLE001  raised again below
            connected.set_exception(error)

    # A daemon, which does not keep the process from ending.
    threading.Thread(target=run, name="connect", daemon=True).start()
    try:
        return connected.result(CONNECT_SECONDS)
    except TimeoutError:
        raise psycopg2.OperationalError("the server did not finish connecting in time") from None


def explain(error: psycopg2.Error, what: str, place: str, kept: str, *, lost: bool) -> TlcError:
    """Return the error to raise for one of a statement.

    Args:
        error: The error.
        what: What was being done.
        place: The database, for messages.
        kept: The state of the data if a load failed; empty for all else.
        lost: Whether the connection is lost.
    """
    state, got, kept_or_not = error.pgcode or "", first_line(error), f"; {kept}" if kept else ""
    if state == "53100":
        return TransientError(f"{what}: {place} has no space left{kept_or_not}", got=got, fix="make room on the server")
    if lost or state.startswith(TRANSIENT_STATES):
        return TransientError(f"{what}: {place}: interrupted{kept_or_not}", got=got)
    for beginning, why, fix in REASONS + REASONS_IN_A_LOAD * bool(kept):
        if state.startswith(beginning):
            detail = f"{got}: {error.diag.message_detail}" if error.diag.message_detail else got
            return ConfigurationError(f"{what}: {place}: {why}{kept_or_not}", got=detail, fix=fix)
    return TlcError(f"{what}: {place} failed{kept_or_not}", got=got)


class _Connection(extensions.connection):  # type: ignore[misc]  # untyped to mypy
    """A connection that stays readable when the server refuses it, so that its host and port are known."""

    def __init__(self, dsn: str, refused: list[_Connection], **how: Any) -> None:
        try:
            super().__init__(dsn, **how)
        except psycopg2.OperationalError:
            refused.append(self)
            raise


def _lacks_database(parameters: Mapping[str, Any]) -> bool:
    """Return whether the server has no such database. It says so only after the password, and then without a code."""
    try:
        server = _connect_in_time(**(CONNECTION_DEFAULTS | dict(parameters) | {"dbname": "postgres"}))
    except psycopg2.Error:
        return False
    with contextlib.closing(server), server.cursor() as cursor:
        cursor.execute("SELECT FROM pg_database WHERE datname = %s", [parameters.get("dbname")])
        return not cursor.rowcount


def _ask_for_state(info: extensions.ConnectionInfo) -> str:
    """Return the SQLSTATE of a refused connection; empty if the server asks for the password first.

    psycopg2 has no SQLSTATE for it, and the server's text may be in any language. So the first message of the protocol
    is sent once more; the server answers with a code, or asks for the password.
    """
    start = b"".join(each.encode() + b"\0" for each in ("user", info.user or "", "database", info.dbname or ""))
    message = struct.pack("!i", 3 << 16) + start + b"\0"
    host, port = info.host or "localhost", info.port or 5432
    try:
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.settimeout(5)
            with server:
                server.connect(f"{host}/.s.PGSQL.{port}")
                return _read_state(server, message)
        with socket.create_connection((host, port), timeout=5) as server:
            return _read_state(server, message)
    except socket.gaierror as error:
        return "08" if error.errno == socket.EAI_AGAIN else UNKNOWN_HOST
    except UnicodeError:
        return UNKNOWN_HOST
    except OSError:
        return "08"


def _read_state(server: socket.socket, message: bytes) -> str:
    server.sendall(struct.pack("!i", len(message) + 4) + message)
    answer, ends = b"", time.monotonic() + 5
    # After an error the server sends nothing more; after it asks for the password it waits for the client.
    while part := server.recv(4096):
        answer += part
        if len(answer) > LONGEST_ANSWER or time.monotonic() > ends:
            raise TimeoutError("not the answer of PostgreSQL")
        if answer.startswith(b"R") and not answer.startswith(b"R\0\0\0\x08\0\0\0\0"):
            return ""
        if b"Z\0\0\0\x05" in answer:
            return ""
        if b"\0C" in answer and answer.endswith(b"\0\0"):
            break
    # No answer at all: the server is shutting down.
    return answer.partition(b"\0C")[2].partition(b"\0")[0].decode("ascii", "replace") if answer else "08"
