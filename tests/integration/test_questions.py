"""On TLC's real months, ``docs/questions.md``, the page, its SQL, the models and a notebook show the same figures."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
import pytest

from conftest import ROOT
from factories import make_month, publish_fetched
from nyc_tlc import plausible, trips
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Month
from nyc_tlc.pages.figures import FIGURES
from nyc_tlc.pages.trips_page import write_trips_page
from nyc_tlc.runs import dbt
from nyc_tlc.source.fetch import fetch_month
from nyc_tlc.source.location import RemoteFile
from nyc_tlc.source.sample import write_sample
from nyc_tlc.warehouse.bigquery_jobs import TYPES
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.lookups import read_lookups
from nyc_tlc.warehouse.protocol import Kind, Warehouse
from nyc_tlc.warehouse.tables import list_views, month_tables
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


@dataclass(frozen=True)
class Page:
    """The page about green trips.

    Attributes:
        data: Its numbers.
        queries: The SQL beside its charts.
    """

    data: dict[str, Any]
    queries: dict[str, str]

    def sums(self, months: Iterable[str], zone: str | None = None) -> dict[str, float]:
        """Return the trips, and the columns of the figures, of some months and one zone or all."""
        names = ["trips", *(f"{figure}_{part}" for figure in FIGURES for part in ("sum", "trips", "left_out"))]
        rows = [
            row for month in months for at, row in self.data["months"][month]["zones"].items() if zone in (None, at)
        ]
        return {name: sum(row[place] for row in rows) for place, name in enumerate(names)}

    def counts(self, part: str, zone: str | None = None) -> dict[str, int]:
        """Return the trips by the keys of a part, of all months and one zone or all."""
        counts: Counter[str] = Counter()
        for month in self.data["months"].values():
            for at, flat in month["parts"][part].items():
                if zone in (None, at):
                    counts.update(
                        {self.data["keys"][part][key]: n for key, n in zip(flat[::2], flat[1::2], strict=True)}
                    )
        return dict(counts)


@pytest.fixture(scope="module")
def page(months: list[LakeFile]) -> Page:
    """Write the page about the months."""
    return read_page(months[0].lake)


def read_page(lake: Lake) -> Page:
    """Write the page about a lake's green months, and read what it shows."""
    html = Path(str(write_trips_page(lake, "green"))).read_text(encoding="utf-8")
    found = dict(re.findall(r'<script type="[a-z/]+" id="(\w+)">(.*?)</script>', html, re.DOTALL))
    return Page(json.loads(gzip.decompress(base64.b64decode(found["data"]))), json.loads(found["queries"]))


def answer_to(question: str) -> list[dict[str, float]]:
    """Return the rows of the answer under a heading of the document; months as numbers without dashes."""
    table = QUESTIONS.partition(f"### {question}\n")[2].partition("\n|")[2].partition("\n\n")[0]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [dict(zip(header, (float(cell.replace("-", "")) for cell in row), strict=True)) for row in rows]


def check_queries(page: Page, cursor: Any) -> None:
    """Check that the SQL beside each chart gives the figures that the chart shows, of all trips and of a zone."""
    every = f"file_month BETWEEN DATE '{min(page.data['months'])}-01' AND DATE '{max(page.data['months'])}-01'"
    for zone in (None, "74"):
        where = every + (f" AND coalesce(pickup_location_id, 0) = {zone}" if zone else "")

        def ask(part: str, where: str = where) -> list[dict[str, Any]]:
            cursor.execute(page.queries[part].replace("{where}", where))
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

        for part, keys in page.data["keys"].items():
            found = {row[part]: row["trips"] for row in ask(part)}
            # The bins' and the hours' keys are numbers in SQL.
            if part in page.data["histograms"]:
                found = {"unknown" if key is None else keys[key + 1]: trips for key, trips in found.items()}
            elif part == "hour":
                found = {f"{key // 100} {key % 100:02d}": trips for key, trips in found.items()}
            else:
                found = {"unknown" if key is None else str(key): trips for key, trips in found.items()}
            assert found == page.counts(part, zone), part
        for row in ask("month"):
            month = f"{row.pop('file_month'):%Y-%m}"
            shown = page.sums([month], zone)
            assert {name: float(value or 0) for name, value in row.items()} == pytest.approx(shown, abs=0.01 * 265)
        if zone is None:
            assert {str(row["day"]): row["trips"] for row in ask("day")} == {
                f"{month}-{day:02d}": trips
                for month, each in page.data["months"].items()
                for day, trips in enumerate(each["days"], 1)
            }
            for row in ask("zone"):
                shown = page.sums(page.data["months"], str(row.pop("zone")))
                assert {name: float(value or 0) for name, value in row.items()} == pytest.approx(shown, abs=0.1)
            dropoffs = Counter[str]()
            for each in page.data["months"].values():
                dropoffs.update(each["dropoffs"])
            assert {str(row["dropoff"] or 0): row["trips"] for row in ask("dropoff")} == dropoffs


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


@pytest.mark.parametrize("kind", ["duckdb", pytest.param("postgres", marks=pytest.mark.torture)])
def test_the_tables_answer_as_the_document_says(
    months: list[LakeFile], kind: Kind, warehouse: Warehouse, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for month in months:
        load_month(month, warehouse)
    warehouse.replace_lookups(read_lookups())
    with closing(connect(kind, tmp_path, request)) as connection, connection.cursor() as cursor:
        for sql, answer in TABLES:
            cursor.execute(sql)
            assert format_answer(cursor) == answer, sql


@pytest.mark.parametrize("kind", ["duckdb", "postgres"])
def test_the_sql_beside_a_chart_gives_what_the_chart_shows(
    kind: Kind, warehouse: Warehouse, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    lake = FolderLake(tmp_path / "lake")
    for month in (Month(2023, 12), Month(2024, 1)):
        write_sample("green", month, 2_000, tmp_path / "sample")
        made = make_month(lake, (tmp_path / "sample").read_bytes(), tmp_path, month)
        load_month(LakeFile(made, lake), warehouse)
    with closing(connect(kind, tmp_path, request)) as connection, connection.cursor() as cursor:
        check_queries(read_page(lake), cursor)
        for sql, _ in TABLES:
            cursor.execute(sql)


def connect(kind: Kind, folder: Path, request: pytest.FixtureRequest) -> Any:
    """Connect to the test's warehouse with the database's own client."""
    if kind == "duckdb":
        return duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True)
    return psycopg2.connect(**request.getfixturevalue("postgres"))


def test_the_page_shows_what_the_document_says(page: Page) -> None:
    for question, figure in (("How far is a trip on average?", "miles"), ("How long do trips take?", "minutes")):
        for row in answer_to(question):
            month = f"{row['file_month']:.0f}"
            shown = page.sums([f"{month[:4]}-{month[4:6]}"])
            assert shown[f"{figure}_sum"] / shown[f"{figure}_trips"] == pytest.approx(row["average"], abs=0.051)
            assert shown[f"{figure}_left_out"] == row["left_out"]
    every = page.sums(page.data["months"])
    (speed,) = answer_to("How fast are taxis?")
    assert every["mph_sum"] / every["mph_trips"] == pytest.approx(speed["average"], abs=0.005)
    assert every["mph_left_out"] == speed["left_out"]
    # Of 551,625 trips, whose mean over all distances is 30.59 miles.
    assert (every["trips"], every["miles_left_out"]) == (551_625, 318)
    assert every["miles_sum"] / every["miles_trips"] == pytest.approx(3.48, abs=0.005)


def test_a_notebook_shows_what_the_document_says(months: list[LakeFile], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLC_HOME", str(Path(months[0].lake.url("")).parent))
    columns = ["file_month", "trip_distance", "passenger_count", "pickup_datetime", "dropoff_datetime"]
    found = trips("green", "2020-04", "2025-11", columns=columns, missing="skip")
    found["trip_duration_minutes"] = (found["dropoff_datetime"] - found["pickup_datetime"]).dt.total_seconds() / 60
    for question, column in (
        ("How far is a trip on average?", "trip_distance"),
        ("How long do trips take?", "trip_duration_minutes"),
    ):
        values = plausible(found[column]).groupby(found["file_month"])
        means, left_out = values.mean().tolist(), (values.size() - values.count()).tolist()
        rows = answer_to(question)
        assert means == pytest.approx([row["average"] for row in rows], abs=0.051)
        assert left_out == [row["left_out"] for row in rows]
    (passengers,) = answer_to("How many passengers has a trip on average?")
    known = plausible(found["passenger_count"])
    assert known.mean() == pytest.approx(passengers["average"], abs=0.0005)
    assert known.isna().sum() - found["passenger_count"].isna().sum() == passengers["left_out"]


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_the_models_have_what_the_page_shows(
    months: list[LakeFile], page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not dbt.COMMAND.exists():
        pytest.skip("dbt is not installed: make dbt")
    warehouse = DuckDbWarehouse(tmp_path / "warehouse.duckdb")
    for month in months:
        load_month(month, warehouse)
    monkeypatch.setattr(
        dbt, "open_dbt_target", lambda *_: ({"type": "duckdb", "path": str(tmp_path / "warehouse.duckdb")}, {})
    )
    assert not dbt.find_failed(dbt.run_dbt("local", "duckdb", "run"))
    columns = {"total_amount": "revenue", "trip_distance": "miles", "trip_duration_minutes": "minutes"}
    sums = ", ".join(f"sum({name}), sum({name}_left_out)" for name in columns)
    found = warehouse.query(
        f"SELECT file_month, sum(trips), {sums} FROM ny_taxi_models.fct_daily_trips GROUP BY 1 ORDER BY 1"
    )
    for month, *row in found:
        shown = page.sums([f"{month:%Y-%m}"])
        names = ["trips", *(f"{name}_{part}" for name in columns.values() for part in ("sum", "left_out"))]
        assert row == pytest.approx([shown[name] for name in names], abs=0.01 * 265)
    assert len(found) == len(months)
    averages = warehouse.query(
        "SELECT pickup_location_id, sum(avg_monthly_trip_distance * (total_monthly_trips - trip_distance_left_out)),"
        " sum(trip_distance_left_out), sum(revenue_monthly_total_amount), sum(total_amount_left_out)"
        " FROM ny_taxi_models.fct_monthly_zone_revenue GROUP BY 1"
    )
    for zone, *row in averages:
        shown = page.sums(page.data["months"], str(zone))
        names = ["miles_sum", "miles_left_out", "revenue_sum", "revenue_left_out"]
        assert [value or 0 for value in row] == pytest.approx([shown[name] for name in names], abs=0.1)


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
        ("ny_taxi", table.name): tuple((field.name, TYPES[field.type]) for field in table.fields)
        for table in (*month_tables(), *(lookup.table for lookup in read_lookups()))
    }
    types = {name: kind for columns in known.values() for name, kind in columns} | {"is_quarantined": "BOOLEAN"}
    for view in list_views("ny_taxi"):
        known["ny_taxi", view.name] = tuple((name, types[name]) for name in view.columns if name in types)
    asked = [sql for sql in re.findall(r"```sql\n(.*?)```", QUESTIONS, re.DOTALL) if "ny_taxi." in sql]
    # What the document names as different there.
    others = [sql for sql in asked if re.search(r"percentile_cont|epoch|INTERVAL '", sql)]
    assert len(others) < len(asked) / 3
    for sql in asked:
        if sql not in others:
            analyze(sql, known, {})
