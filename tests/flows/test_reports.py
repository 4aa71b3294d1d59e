"""Run the flows that write the pages and list the months."""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from conftest import PrefectServer
from diff import diff
from etl_gcs_to_duckdb import etl_gcs_to_duckdb
from factories import JANUARY, green_parquet, make_month, publish_fetched, trip
from history import history
from months import months
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.keys import Keys
from nyc_tlc.month import Month
from nyc_tlc.runs import tasks
from nyc_tlc.runs.flow_runs import Outcome
from nyc_tlc.runs.month_report import format_quality_report
from nyc_tlc.source.fetch import fetch_month
from nyc_tlc.source.published import look_at
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import load_month
from report import report
from stand_ins.http_source import HttpSource, PublishedFile

TEMPLATE = "/{color}_tripdata_{year:04d}-{month:02d}.parquet"


@pytest.fixture
def lake(own_environment: Path, tmp_path: Path) -> FolderLake:
    """Return the lake of the profile local: green 2024-01 in lake and warehouse, 2024-02 only in the lake."""
    lake = FolderLake(own_environment / "lake")
    january = make_month(lake, green_parquet(trip(), trip(), trip(passenger_count=0)), tmp_path)
    file = LakeFile(january, lake)
    load_month(file, DuckDbWarehouse(own_environment / "warehouse.duckdb"))
    make_month(lake, green_parquet(trip(lpep_pickup_datetime=datetime(2024, 2, 3, 4))), tmp_path, JANUARY.plus(1))
    return lake


def months_on(lake: FolderLake) -> dict[str, dict[str, object]]:
    """Return the data of the coverage page about every month."""
    html = lake.local_path("reports/coverage.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="months">(.*?)</script>', html, re.DOTALL)
    assert found
    return dict(json.loads(found[1])["months"])


@pytest.fixture(autouse=True)
def on_server(prefect_server: PrefectServer) -> Iterator[None]:
    """Let flows in this process use the server."""
    with temporary_settings({PREFECT_API_URL: prefect_server.url, PREFECT_HOME: prefect_server.home}):
        yield


def test_months_lists_what_there_is(lake: FolderLake) -> None:
    text = months().text
    assert "green: 2 months from 2024-01 to 2024-02, 3 rows" in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "| green" in line]
    assert [(row[0], row[1], row[2], row[3], row[5]) for row in rows] == [
        ("green 2024-01", "2", "33.33%", "file", "current"),
        ("green 2024-02", "1", "0.00%", "file", ""),
    ]


def test_report_writes_its_pages_and_prints_where(prefect_server: PrefectServer, lake: FolderLake) -> None:
    done = prefect_server.run("flows/report.py", "--offline", TLC_HOME=str(lake.root.parent))
    assert done.returncode == 0, done.stderr
    places = [line.split(maxsplit=1)[1] for line in done.stdout.splitlines()]
    assert [Path(place).name for place in places] == ["coverage.html", "trips-green.html", "datapackage.json"]
    assert all(Path(place).is_file() for place in places)
    assert lake.local_path("summary/green/2024-01.parquet").is_file()
    links = re.findall(r'<a href="(trips-[^"]*)"', lake.local_path("reports/coverage.html").read_text(encoding="utf-8"))
    assert links == ["trips-green.html"], "no page is linked that there is no month for"
    loads = {name: month["loads"] for name, month in months_on(lake).items()}
    assert [load[:3] for load in loads["green-2024-01"]] == [["duckdb", "current", 2]]
    assert [load[:3] for load in loads["green-2024-02"]] == [["duckdb", "", None]]


def test_a_month_that_changed_is_shown_listed_compared_loaded_and_pruned(
    prefect_server: PrefectServer, lake: FolderLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = lake.manifest(Keys("green", JANUARY))
    new = make_month(lake, green_parquet(trip(), trip(passenger_count=4), trip(passenger_count=0)), tmp_path)
    assert old

    january: dict[str, Any] = {"color": "green", "year": 2024, "month": 1}
    report(offline=True)
    month = months_on(lake)["green-2024-01"]
    assert [row[0] for row in month["versions"]] == [old.version, new.version]  # type: ignore[attr-defined]
    changed = "+0 rows; 1 added; 1 dropped"
    rows = [line.split("|")[2:] for line in history(**january).text.splitlines()[2:]]
    assert [(row[0].strip(), row[-3].strip()) for row in rows] == [(old.version, ""), (new.version, changed)]
    assert "| +0 rows |" in history("green").text
    assert f"# green 2024-01: {changed}" in diff(**january, rows=str(tmp_path / "rows.parquet")).text
    assert pq.read_metadata(tmp_path / "rows.parquet").num_rows == 2
    other = FolderLake(tmp_path / "other")
    make_month(other, green_parquet(trip(), trip(), trip(passenger_count=0)), tmp_path)
    compared = ("--from", old.version, "--with", str(other.root))
    done = prefect_server.run("flows/diff.py", "--color", "green", "--year", "2024", "--month", "1", *compared)
    assert "the same rows" in done.stdout, done.stderr
    etl_gcs_to_duckdb(**january, as_of=old.version)
    loads = DuckDbWarehouse(lake.root.parent / "warehouse.duckdb").query("SELECT version FROM ny_taxi.loads")
    assert loads == [(old.version,)]
    monkeypatch.setenv("TLC_KEEP_VERSIONS", "0")
    assert f"{old.version}  to be removed by --force" in history("green", prune=True).text
    assert f"{old.version}  removed" in history("green", prune=True, force=True).text
    assert lake.list_keys("history/") == set()


def test_report_asks_the_source_what_is_published_and_changed(
    lake: FolderLake, http_source: HttpSource, tmp_path: Path
) -> None:
    source = http_source.url + TEMPLATE
    for name in (f"yellow_tripdata_{Month.current().plus(-3)}", "green_tripdata_2024-03"):
        http_source.files[f"/{name}.parquet"] = PublishedFile(b"a month that is not in the lake")
    http_source.files["/green_tripdata_2024-02.parquet"] = PublishedFile(green_parquet(trip()))
    published = fetch_month(look_at(source, "green", JANUARY.plus(1)), tmp_path)
    publish_fetched(lake, published, tmp_path)
    http_source.files["/green_tripdata_2024-02.parquet"].body = green_parquet(trip(), trip())
    report(source=source)
    states = {name: str(month["state"]) for name, month in months_on(lake).items()}
    assert states["green-2024-01"] == "In the lake."
    assert states["green-2024-02"] == "In the lake, but the source has another file now: the source changed."
    assert states["green-2024-03"].startswith("Published, but not in the lake")
    assert states["green-2024-04"].startswith("Not at the source, which must have it by now: green 2024-04: no")
    assert states[f"green-{Month.current().plus(-2)}"].startswith("Not published yet")
    assert len(states) > 600


def test_a_source_that_does_not_answer_costs_what_it_knows_and_not_the_page(
    lake: FolderLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLC_HTTP_RETRIES", "0")
    assert "New and changed months are unknown: " in report(source=f"http://127.0.0.1:9{TEMPLATE}").text
    assert "New and changed months are unknown" in lake.local_path("reports/coverage.html").read_text(encoding="utf-8")
    assert set(months_on(lake)) == {"green-2024-01", "green-2024-02"}


def test_a_months_report_has_its_trend(lake: FolderLake, tmp_path: Path) -> None:
    march = make_month(
        lake, green_parquet(trip(lpep_pickup_datetime=datetime(2024, 3, 3, 4))), tmp_path, JANUARY.plus(2)
    )
    report = format_quality_report(march, lake)
    assert "## Compared with the months before" in report
    assert "| 2024-01 | 3 | 33.33% |" in report


def test_a_table_of_months_that_cannot_be_made_is_a_warning_and_fails_no_run(caplog: pytest.LogCaptureFixture) -> None:
    tasks.list_months.__wrapped__("nowhere", ["green"], [])
    assert "green: the table of months was not written: the profile nowhere has no block" in caplog.text


def test_an_outcome_shows_itself_in_a_notebook() -> None:
    assert Outcome("| a |\n|---|\n| 1 |")._repr_markdown_() == "| a |\n|---|\n| 1 |"
    assert Outcome("green 2024-01: 1 row")._repr_markdown_() == "```\ngreen 2024-01: 1 row\n```"
