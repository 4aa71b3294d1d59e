"""The tables and views of a Postgres warehouse, created and filled in the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
from psycopg2 import extensions, sql

from nyc_tlc.contract import types
from nyc_tlc.errors import ConfigurationError
from nyc_tlc.warehouse.postgres_copy import CopyStream
from nyc_tlc.warehouse.protocol import Lookup
from nyc_tlc.warehouse.tables import SCHEMA, TRIP_KEY, Table, View, missing_fields

TYPES = {kind: names.postgres for kind, names in types.TYPES.items()}


def is_complete(
    cursor: extensions.cursor, tables: Sequence[Table], lookups: Sequence[Lookup], views: Sequence[View], place: str
) -> bool:
    """Return whether all tables, columns and views exist."""
    for table in (*tables, *(lookup.table for lookup in lookups)):
        found = find_columns(cursor, table.name)
        if not found or missing_fields(table, found, TYPES, place):
            return False
    return all(tuple(find_columns(cursor, view.name)) == view.columns for view in views)


def create_missing(
    cursor: extensions.cursor, tables: Sequence[Table], lookups: Sequence[Lookup], views: Sequence[View], place: str
) -> None:
    """Create the missing tables, columns, lookup tables with their rows, and views.

    Raises:
        ConfigurationError: when a view must change that Postgres cannot replace, and others have permissions on it.
    """
    # Without the lock, two transactions that create the same object would fail.
    cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"nyc_tlc {SCHEMA}"])
    cursor.execute("SELECT to_regnamespace(%s)", [SCHEMA])
    if cursor.fetchone() == (None,):
        cursor.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
    for table in tables:
        _prepare(cursor, table, place)
    for lookup in lookups:
        if not find_columns(cursor, lookup.table.name):
            replace_lookup(cursor, lookup, place)
    _replace_views(cursor, views, place)


def replace_lookup(cursor: extensions.cursor, lookup: Lookup, place: str) -> None:
    """Replace all rows of a lookup table."""
    _prepare(cursor, lookup.table, place)
    cursor.execute(sql.SQL("DELETE FROM {}").format(qualify(lookup.table.name)))
    copy(cursor, lookup.table.name, lookup.rows.schema, iter(lookup.rows.to_batches()), frozen=False)


def copy(
    cursor: extensions.cursor, table: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], *, frozen: bool
) -> int:
    """Fill a table by binary COPY. Return the number of rows.

    Args:
        cursor: The caller's transaction.
        table: The table.
        schema: The columns.
        batches: The rows.
        frozen: Whether all transactions see the rows after the commit, also older ones. The table must be new.
    """
    command = sql.SQL("COPY {} ({}) FROM STDIN WITH (FORMAT binary{})").format(
        qualify(table), _join_names(schema.names), sql.SQL(", FREEZE" if frozen else "")
    )
    encoded = CopyStream(schema, batches)
    try:
        cursor.copy_expert(command, encoded)
    finally:
        encoded.stop()
    return int(cursor.rowcount)


def qualify(name: str) -> sql.Identifier:
    """Return a name in our schema."""
    return sql.Identifier(SCHEMA, name)


def find_columns(cursor: extensions.cursor, table: str) -> dict[str, str]:
    """Return the columns of a table or view and their types; empty if it does not exist."""
    cursor.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [f"{SCHEMA}.{table}"],
    )
    return dict(cursor.fetchall())


def define_columns(table: Table) -> sql.Composed:
    """Return a table's columns for CREATE TABLE."""
    required = {True: sql.SQL(" NOT NULL"), False: sql.SQL("")}
    return sql.SQL(", ").join(
        sql.SQL("{} {}{}").format(sql.Identifier(each.name), sql.SQL(TYPES[each.type]), required[each.required])
        for each in table.fields
    )


def create_index(cursor: extensions.cursor, table: str) -> None:
    """Index the pick-up time of a table."""
    index = sql.Identifier(f"{table}_pickup_datetime_brin")
    cursor.execute(sql.SQL("CREATE INDEX {} ON {} USING brin (pickup_datetime)").format(index, qualify(table)))


def _prepare(cursor: extensions.cursor, table: Table, place: str) -> None:
    """Create a table, or add its missing columns."""
    name, found = qualify(table.name), find_columns(cursor, table.name)
    if not found:
        command = "CREATE TABLE {} ({}, PRIMARY KEY ({}))"
        if table.key == TRIP_KEY:
            command = "CREATE TABLE {} ({}) PARTITION BY RANGE (file_month)"
        cursor.execute(sql.SQL(command).format(name, define_columns(table), _join_names(table.key)))
        if table.key == TRIP_KEY:
            create_index(cursor, table.name)
        cursor.execute(sql.SQL("COMMENT ON TABLE {} IS %s").format(name), [table.description])
    for field in missing_fields(table, found, TYPES, place):
        column = sql.Identifier(field.name)
        if found:
            kind = sql.SQL(TYPES[field.type])
            cursor.execute(sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(name, column, kind))
        cursor.execute(sql.SQL("COMMENT ON COLUMN {}.{} IS %s").format(name, column), [field.description])


def _replace_views(cursor: extensions.cursor, views: Sequence[View], place: str) -> None:
    """Create or replace the views that are missing or differ.

    Postgres replaces a view that gains columns at its end. For any other change all views are dropped and created
    again, unless others have permissions on them, which would be lost.
    """
    found = {view.name: tuple(find_columns(cursor, view.name)) for view in views}
    changed = [view for view in views if found[view.name] != view.columns]
    if any(view.columns[: len(found[view.name])] != found[view.name] for view in changed):
        _drop_views(cursor, views, found, place)
        changed = list(views)
    for view in changed:
        name, query = qualify(view.name), sql.SQL(view.sql(lambda table: f"{SCHEMA}.{table}"))
        cursor.execute(sql.SQL("CREATE OR REPLACE VIEW {} AS {}").format(name, query))
        cursor.execute(sql.SQL("COMMENT ON VIEW {} IS %s").format(name), [view.description])


def _drop_views(
    cursor: extensions.cursor, views: Sequence[View], found: Mapping[str, tuple[str, ...]], place: str
) -> None:
    there = [view.name for view in views if found[view.name]]
    if grants := [grant for name in there for grant in _list_grants(cursor, name)]:
        listed = ", ".join(f"{SCHEMA}.{name}" for name in there)
        raise ConfigurationError(
            f"{place}: the views in {SCHEMA} must be dropped and created again, and others have permissions on them",
            fix=f"run DROP VIEW {listed}; load again; then run {'; '.join(grants)}",
        )
    cursor.execute(sql.SQL("DROP VIEW {}").format(sql.SQL(", ").join(map(qualify, there))))


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


def _join_names(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))
