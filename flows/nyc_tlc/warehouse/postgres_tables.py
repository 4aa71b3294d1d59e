"""What only Postgres needs for its tables and views: binary COPY, and views that cannot be replaced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from types import SimpleNamespace

import pgpq
import pyarrow as pa
from psycopg2 import extensions

from nyc_tlc.errors import ConfigurationError
from nyc_tlc.threads import prefetch

#: Rows that are encoded and sent together, about four megabytes.
COPY_BATCH_ROWS = 1 << 14


def copy(
    cursor: extensions.cursor, table: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch], *, frozen: bool
) -> int:
    """Fill a table by binary COPY; another thread encodes the next rows. Return the number of rows.

    Args:
        frozen: Whether all transactions see the rows after the commit, also older ones. The table must be new.
    """
    options = "FORMAT binary, FREEZE" if frozen else "FORMAT binary"
    statement = f"COPY {table} ({', '.join(schema.names)}) FROM STDIN WITH ({options})"
    # COPY takes an empty chunk for the end.
    with closing(prefetch(filter(None, _encode(schema, batches)))) as encoded:
        # Each read returns the next chunk, whatever its size.
        cursor.copy_expert(statement, SimpleNamespace(read=lambda _size: next(encoded, b"")))
    return int(cursor.rowcount)


def _encode(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
    encoder = pgpq.ArrowToPostgresBinaryEncoder(schema)
    yield encoder.write_header()
    for batch in batches:
        for start in range(0, len(batch), COPY_BATCH_ROWS):
            yield encoder.write_batch(batch.slice(start, COPY_BATCH_ROWS))
    yield encoder.finish()


def drop_views(cursor: extensions.cursor, views: Sequence[str], place: str) -> None:
    """Drop views, which are then created again.

    Raises:
        ConfigurationError: when others have permissions on them, which would be lost.
    """
    command = f"DROP VIEW {', '.join(views)}"
    if grants := [grant for view in views for grant in _list_grants(cursor, view)]:
        raise ConfigurationError(
            f"{place}: views must be dropped and created again, and others have permissions on them",
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
        [view],
    )
    return [grant for (grant,) in cursor.fetchall()]
