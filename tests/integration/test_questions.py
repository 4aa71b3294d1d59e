"""The answers in ``docs/questions.md`` are those of TLC's real months, on DuckDB and on Postgres."""

from __future__ import annotations

import re
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
import pytest

from conftest import ROOT
from factories import publish_fetched
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.month import Month
from nyc_tlc.source.fetch import fetch_month
from nyc_tlc.source.location import RemoteFile
from nyc_tlc.warehouse.bigquery_jobs import TYPES
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.lookups import read_lookups
from nyc_tlc.warehouse.protocol import Kind, Warehouse
from nyc_tlc.warehouse.tables import SCHEMA, list_views, month_tables
from stand_ins.google_sql import analyze

QUESTIONS = (ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
#: The SQL and the lines of the answer under it.
BLOCKS = re.findall(r"```sql\n(.*?)```\n\n(\|.*?\n)(?=\n|\Z)", QUESTIONS, re.DOTALL)
FILES = [(sql, answer) for sql, answer in BLOCKS if "ny_taxi." not in sql]
TABLES = [(sql, answer) for sql, answer in BLOCKS if "ny_taxi." in sql]


@pytest.fixture(scope="module")
def months(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[LakeFile]:
    """Clean the months that the document names into a lake."""
    folder = tmp_path_factory.mktemp("months")
    lake = FolderLake(folder / "lake")
    cleaned = []
    for year, number in re.findall(r"green-(\d{4})-(\d\d)", QUESTIONS):
        month = Month(int(year), int(number))
        name = f"green_tripdata_{month}"
        found = [*(real_data / "csv").glob(f"{name}.csv.gz"), *(real_data / "parquet").glob(f"{name}.parquet")]
        # The file that the document's command fetches: TLC's own for December 2020, which is there twice.
        source = fetch_month(RemoteFile("green", month, found[-1].as_uri()), folder)
        cleaned.append(LakeFile(publish_fetched(lake, source, folder), lake))
    return cleaned


def format_answer(cursor: Any) -> str:
    """Return the rows of a query as the document shows them."""
    names = [column[0] for column in cursor.description]
    rows = [" | ".join(map(format_cell, row)) for row in cursor.fetchall()]
    lines = [" | ".join(names), "---|" * len(names), *rows]
    return "".join(f"|{line}\n" if line.startswith("-") else f"| {line} |\n" for line in lines)


def format_cell(value: object) -> str:
    """Return a value as the document shows it."""
    if isinstance(value, date):
        return value.isoformat()
    return f"{value:.10g}" if isinstance(value, float) else str(value)


@pytest.mark.parametrize("kind", ["duckdb", "postgres"])
def test_the_tables_answer_as_the_document_says(
    months: list[LakeFile], kind: Kind, warehouse: Warehouse, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for month in months:
        load_month(month, warehouse)
    warehouse.replace_lookups(read_lookups())
    if kind == "duckdb":
        connection: Any = duckdb.connect(str(tmp_path / "warehouse.duckdb"), read_only=True)
    else:
        connection = psycopg2.connect(**request.getfixturevalue("postgres"))
    with closing(connection), connection.cursor() as cursor:
        for sql, answer in TABLES:
            cursor.execute(sql)
            assert format_answer(cursor) == answer, sql


def test_the_raw_files_answer_as_the_document_says(real_data: Path) -> None:
    with duckdb.connect() as connection:
        connection.execute(f"SET file_search_path = '{real_data / 'parquet'},{real_data / 'csv'}'")
        for sql, answer in FILES:
            assert format_answer(connection.execute(sql)) == answer, sql


def test_every_question_has_an_answer_and_files_and_tables_are_asked() -> None:
    assert len(FILES) >= 5
    assert len(TABLES) >= 18
    # All but the one for BigQuery alone.
    assert len(BLOCKS) == QUESTIONS.count("```sql\n") - 1


def test_googles_analyzer_takes_the_queries_that_are_for_bigquery_too() -> None:
    known = {
        (SCHEMA, table.name): tuple((field.name, TYPES[field.type]) for field in table.fields)
        for table in (*month_tables(), *(lookup.table for lookup in read_lookups()))
    }
    types = {name: kind for columns in known.values() for name, kind in columns} | {"is_quarantined": "BOOLEAN"}
    for view in list_views():
        known[SCHEMA, view.name] = tuple((name, types[name]) for name in view.columns if name in types)
    asked = [sql for sql in re.findall(r"```sql\n(.*?)```", QUESTIONS, re.DOTALL) if "ny_taxi." in sql]
    # What the document names as different there.
    others = [sql for sql in asked if re.search(r"percentile_cont|epoch|INTERVAL '", sql)]
    assert len(others) < len(asked) / 3
    for sql in asked:
        if sql not in others:
            analyze(sql, known, {})
