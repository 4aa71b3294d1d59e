"""The tables and views of a Postgres warehouse, created and filled in the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
from psycopg2 import extensions

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
        cursor.execute(f"CREATE SCHEMA {SCHEMA}")
    for table in tables:
        _prepare(cursor, table, place)
    for lookup in lookups:
        if not find_columns(cursor, lookup.table.name):
            replace_lookup(cursor, lookup, place)
    _replace_views(cursor, views, place)


def replace_lookup(cursor: extensions.cursor, lookup: Lookup, place: str) -> None:
    """Replace all rows of a lookup table."""
    _prepare(cursor, lookup.table, place)
    cursor.execute(f"DELETE FROM {qualify(lookup.table.name)}")
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
    options = "FORMAT binary, FREEZE" if frozen else "FORMAT binary"
    encoded = CopyStream(schema, batches)
    try:
        cursor.copy_expert(f"COPY {qualify(table)} ({', '.join(schema.names)}) FROM STDIN WITH ({options})", encoded)
    finally:
        encoded.stop()
    return int(cursor.rowcount)


def qualify(name: str) -> str:
    """Return a name with our schema. Our names are plain words, so none needs quotes."""
    return f"{SCHEMA}.{name}"


def find_columns(cursor: extensions.cursor, table: str) -> dict[str, str]:
    """Return the columns of a table or view and their types; empty if it does not exist."""
    cursor.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [qualify(table)],
    )
    return dict(cursor.fetchall())


def define_columns(table: Table) -> str:
    """Return a table's columns for CREATE TABLE."""
    return ", ".join(f"{each.name} {TYPES[each.type]}{' NOT NULL' * each.required}" for each in table.fields)


def create_index(cursor: extensions.cursor, table: str) -> None:
    """Index the pick-up time of a table."""
    cursor.execute(f"CREATE INDEX {table}_pickup_datetime_brin ON {qualify(table)} USING brin (pickup_datetime)")


def _prepare(cursor: extensions.cursor, table: Table, place: str) -> None:
    """Create a table, or add its missing columns."""
    name, found = qualify(table.name), find_columns(cursor, table.name)
    if not found:
        columns = define_columns(table)
        if table.key == TRIP_KEY:
            cursor.execute(f"CREATE TABLE {name} ({columns}) PARTITION BY RANGE (file_month)")
            create_index(cursor, table.name)
        else:
            cursor.execute(f"CREATE TABLE {name} ({columns}, PRIMARY KEY ({', '.join(table.key)}))")
        cursor.execute(f"COMMENT ON TABLE {name} IS %s", [table.description])
    for field in missing_fields(table, found, TYPES, place):
        if found:
            cursor.execute(f"ALTER TABLE {name} ADD COLUMN {field.name} {TYPES[field.type]}")
        cursor.execute(f"COMMENT ON COLUMN {name}.{field.name} IS %s", [field.description])


def _replace_views(cursor: extensions.cursor, views: Sequence[View], place: str) -> None:
    """Create or replace the views that are missing or differ.

    Postgres replaces a view that gains columns at its end. For any other change all views are dropped and created
    again, unless others have permissions on them, which would be lost.
    """
    found = {view.name: tuple(find_columns(cursor, view.name)) for view in views}
    changed = [view for view in views if found[view.name] != view.columns]
    if any(view.columns[: len(found[view.name])] != found[view.name] for view in changed):
        _drop_views(cursor, [name for name, columns in found.items() if columns], place)
        changed = list(views)
    for view in changed:
        cursor.execute(f"CREATE OR REPLACE VIEW {qualify(view.name)} AS {view.sql(qualify)}")
        cursor.execute(f"COMMENT ON VIEW {qualify(view.name)} IS %s", [view.description])
        for column, comment in view.comments.items():
            cursor.execute(f"COMMENT ON COLUMN {qualify(view.name)}.{column} IS %s", [comment])


def _drop_views(cursor: extensions.cursor, views: Sequence[str], place: str) -> None:
    command = f"DROP VIEW {', '.join(map(qualify, views))}"
    if grants := [grant for view in views for grant in _list_grants(cursor, view)]:
        raise ConfigurationError(
            f"{place}: the views in {SCHEMA} must be dropped and created again, and others have permissions on them",
            fix=f"run {command}; load again; then run {'; '.join(grants)}",
        )
    cursor.execute(command)


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
        [qualify(view)],
    )
    return [grant for (grant,) in cursor.fetchall()]
