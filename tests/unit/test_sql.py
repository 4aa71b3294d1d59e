"""The project's names and SQL, checked with the engines' reserved words and parsers."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import duckdb
import psycopg2
import pytest

from factories import JANUARY
from nyc_tlc.descriptions import external_tables
from nyc_tlc.warehouse.bigquery_jobs import TYPES
from nyc_tlc.warehouse.load import ask_where_trips_began
from nyc_tlc.warehouse.lookups import read_lookups
from nyc_tlc.warehouse.protocol import Load, Warehouse
from nyc_tlc.warehouse.tables import list_views, month_tables, trip_tables
from stand_ins.google_sql import GoogleSqlError, analyze

TABLES = (*month_tables(), *(lookup.table for lookup in read_lookups()))
VIEWS = list_views("ny_taxi")
NAMES = sorted(
    {"ny_taxi", *(table.name for table in TABLES), *(name for table in TABLES for name in table.names)}
    | {view.name for view in VIEWS}
    | {name for view in VIEWS for name in view.columns}
)


def test_the_names_are_plain_words() -> None:
    assert len(NAMES) > 60
    assert [name for name in NAMES if not re.fullmatch(r"[a-z][a-z0-9_]*", name)] == []


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT {', '.join(NAMES)} FROM one_table",
        f"SELECT {', '.join(f'1 AS {name}' for name in NAMES)}",
        " UNION ALL ".join(f"SELECT one_column FROM {name}" for name in NAMES),
        " UNION ALL ".join(f"SELECT {name}.one_column FROM {name}" for name in NAMES),
    ],
    ids=["columns", "aliases", "tables", "paths"],
)
def test_googlesql_reserves_none_of_our_names(sql: str) -> None:
    known = {(name,): (("one_column", "STRING"),) for name in NAMES}
    known["one_table",] = tuple((name, "STRING") for name in NAMES)
    analyze(sql, known, {})
    with pytest.raises(GoogleSqlError, match="keyword ROWS"):
        analyze(re.sub(rf"\b{NAMES[0]}\b", "rows", sql), known, {})


def test_duckdb_reserves_none_of_our_names() -> None:
    with duckdb.connect() as connection:
        found = connection.execute("SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category = 'reserved'")
        reserved = {name for (name,) in found.fetchall()}
    assert "select" in reserved
    assert reserved.intersection(NAMES) == set()


def test_postgres_reserves_none_of_our_names(postgres: dict[str, str]) -> None:
    connection = psycopg2.connect(**postgres)
    with connection, connection.cursor() as cursor:
        # T: as a function or type only; R: reserved.
        cursor.execute("SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')")
        reserved = {word for (word,) in cursor.fetchall()}
    connection.close()
    assert "select" in reserved
    assert reserved.intersection(NAMES) == set()


class Asked:
    """A warehouse that only records the query."""

    place = "nowhere"
    schema = "ny_taxi"

    def query(self, sql: str) -> list[tuple[object, ...]]:
        self.sql = sql
        return []


def test_googles_analyzer_takes_the_views_and_the_first_question() -> None:
    known = {
        ("ny_taxi", table.name): tuple((field.name, TYPES[field.type]) for field in table.fields) for table in TABLES
    }
    types = {name: kind for columns in known.values() for name, kind in columns}
    for view in VIEWS:
        analyze(view.sql, known, {})
        known["ny_taxi", view.name] = tuple((name, types.get(name, "STRING")) for name in view.columns)
    for table in trip_tables().values():
        warehouse: Asked = Asked()
        color = table.name.removesuffix("_trip_data")
        asked: Warehouse = warehouse  # type: ignore[assignment]
        ask_where_trips_began(Load(color, JANUARY, 1, 1, 0, "", "", datetime.now(UTC)), True, asked)  # type: ignore[arg-type]
        analyze(warehouse.sql, known, {})


def test_googles_analyzer_takes_the_external_tables() -> None:
    _, *statements = external_tables.describe_external_tables().split("CREATE OR REPLACE ")
    statements = [f"CREATE OR REPLACE {each.rstrip().removesuffix(';')}" for each in statements]
    assert len(statements) == 8
    for statement in statements:
        analyze(statement, {}, {})
    with pytest.raises(GoogleSqlError):
        analyze(statements[0].replace(" DATETIME", " TIMESTAMPS", 1), {}, {})
