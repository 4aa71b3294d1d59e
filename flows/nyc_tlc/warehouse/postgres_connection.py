"""Connections to Postgres, and its errors as errors that say what to do."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import psycopg2
from psycopg2 import extensions

from nyc_tlc.errors import ConfigurationError, TlcError, WarehouseAwayError, first_line

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
#: Beginnings of SQLSTATE, what each means, and what to do about it.
REASONS = (
    (
        "42501",
        "a permission is missing",
        "grant it (to make tables: CREATE on the database, or on the schema of TLC_SCHEMA), or use another user",
    ),
    (
        "25006",
        "the database is read-only",
        "name the server that takes writes, or turn default_transaction_read_only off",
    ),
    ("22P05", "the database's encoding lacks a character", "use a database with ENCODING 'UTF8' (POSTGRES_DB)"),
    ("2BP01", "something uses a view that must change", "keep its definition, drop it, load again, and make it again"),
    ("22021", "the database's encoding lacks a character", "use a database with ENCODING 'UTF8' (POSTGRES_DB)"),
)
#: The same in a load, which replaces the month's partition: what was added by hand to it or to its table is in the way.
REASONS_IN_A_LOAD = (
    (
        "2BP01",
        "something uses the month's partition, which a load replaces",
        "keep its definition, drop it, load again, and make it again on the whole table, which stays",
    ),
    ("42P17", "another partition has the month and others", "detach it, and load its months again"),
    ("42P07", "something has the name of the month's partition", "rename or drop it, and load again"),
    ("42804", "the table has a constraint of yours, which no new partition has", "drop it, and load again"),
    ("23", "the month's rows break a constraint of yours", "drop it, and load again"),
)


def connect(parameters: Mapping[str, Any], place: str, what: str) -> extensions.connection:
    """Connect to a database. Texts are sent and read as UTF-8, whatever the database or the environment says.

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
        # A refused connection has no SQLSTATE. One that got as far as a password fails again with the same parameters.
        if refused and refused[0].info.used_password:
            raise ConfigurationError(
                f"{what}: {place} refuses the connection",
                got=first_line(error),
                fix="check POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB, and register the profile again",
            ) from error
        raise WarehouseAwayError(
            f"{what}: no connection to {place}",
            got=first_line(error),
            fix="check that the server runs, POSTGRES_HOST and POSTGRES_PORT, or try again later",
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
        kept: The state of the data if a load failed; empty for all else.
    """
    state, got, kept_or_not = error.pgcode or "", first_line(error), f"; {kept}" if kept else ""
    if state == "53100":
        return WarehouseAwayError(
            f"{what}: {place} has no space left{kept_or_not}", got=got, fix="make room on the server"
        )
    if lost or state.startswith(TRANSIENT_STATES):
        return WarehouseAwayError(f"{what}: {place}: interrupted{kept_or_not}", got=got)
    for beginning, why, fix in REASONS_IN_A_LOAD * bool(kept) + REASONS:
        if state.startswith(beginning):
            detail = f"{got}: {error.diag.message_detail}" if error.diag.message_detail else got
            return ConfigurationError(f"{what}: {place}: {why}{kept_or_not}", got=detail, fix=fix)
    return TlcError(f"{what}: {place} failed{kept_or_not}", got=got)


class _Connection(extensions.connection):  # type: ignore[misc]  # untyped to mypy
    """A connection that stays readable when the server refuses it."""

    def __init__(self, dsn: str, refused: list[_Connection], **how: Any) -> None:
        try:
            super().__init__(dsn, **how)
        except psycopg2.OperationalError:
            refused.append(self)
            raise
