"""Run the backfill as a script with a real Prefect server, kill it and run it again."""

import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from prefect.settings import PREFECT_API_URL, temporary_settings

from backfill import backfill
from conftest import PrefectServer
from etl_web_to_gcs import etl_web_to_gcs
from factories import JANUARY, green_parquet, trip
from nyc_tlc.errors import ArgumentError, ReportedError
from nyc_tlc.month import Month
from nyc_tlc.runs import command_line
from nyc_tlc.runs.run_here import open_runner
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from stand_ins.http_source import HttpSource, PublishedFile

SCRIPT = "flows/backfill.py"


def publish(source: HttpSource, months: int, rows: int = 5) -> None:
    """Publish green months, starting with January 2024."""
    for month in (JANUARY.plus(n) for n in range(months)):
        body = green_parquet(*[trip(lpep_pickup_datetime=month.start)] * rows)
        source.files[f"/green_tripdata_{month}.parquet"] = PublishedFile(body)


#: A month that can be without having been published: an old one that is refused is a failure.
LATEST = Month.current().plus(-1)


def arguments(source: HttpSource, end: str, *more: str) -> list[str]:
    return ["--colors", "green", "--start", "2024-01", "--end", end, "--source", source.template, *more]


def and_latest(source: HttpSource, months: int, *more: str) -> list[str]:
    """Return arguments for a number of months from January 2024, and for the latest, which is not published."""
    names = [f"green-{month}" for month in (*(JANUARY.plus(number) for number in range(months)), LATEST)]
    return ["--months", *names, "--source", source.template, *more]


def test_a_backfill_brings_what_is_published_and_reports_the_rest(
    prefect_server: PrefectServer, http_source: HttpSource, own_environment: Path
) -> None:
    publish(http_source, 3)
    http_source.files["/green_tripdata_2024-02.parquet"].body = b"no month at all"
    first = prefect_server.run(SCRIPT, *and_latest(http_source, 3, "--name", "spring", "--reason", "it was lost"))
    assert first.returncode == 1
    assert "backfill spring: 2 done, 1 failed, 1 unpublished" in first.stdout
    assert first.stderr.splitlines()[-1] == "error: backfill spring: 1 of 4 months failed"
    assert "Traceback" not in first.stdout + first.stderr

    publish(http_source, 2)
    http_source.requests.clear()
    again = prefect_server.run(SCRIPT, *and_latest(http_source, 3, "--name", "spring"))
    assert again.returncode == 0, again.stderr
    assert "backfill spring: 2 current, 1 done, 1 unpublished" in again.stdout
    heads = [request.path for request in http_source.requests if request.method == "HEAD"]
    assert len(heads) == 5, "each month is looked at once, and the one that is due once more when its turn comes"
    assert [
        request.path for request in http_source.requests if request.method == "GET" and request.range != "bytes=0-0"
    ] == ["/green_tripdata_2024-02.parquet"]
    warehouse = DuckDbWarehouse(own_environment / "warehouse.duckdb")
    counts = "SELECT file_month, COUNT(*) FROM ny_taxi.green_trip_data GROUP BY ALL ORDER BY ALL"
    assert [rows for _, rows in warehouse.query(counts)] == [5, 5, 5]

    record = json.loads((own_environment / "lake" / "backfills" / "spring.json").read_text())
    assert [run["reason"] for run in record["runs"]] == ["it was lost", ""]
    assert [month["result"] for month in record["runs"][1]["months"]] == ["current", "done", "current", "unpublished"]
    assert [month["result"] for month in record["runs"][0]["months"]] == ["done", "failed", "done", "unpublished"]
    with temporary_settings({PREFECT_API_URL: prefect_server.url}), get_client(sync_client=True) as client:
        key = ArtifactFilterKey(any_=["backfill-spring-local-home"])
        reports = client.read_artifacts(artifact_filter=ArtifactFilter(key=key))
        key = ArtifactFilterKey(any_=["months-green-local-home"])
        tables = client.read_artifacts(artifact_filter=ArtifactFilter(key=key), sort=ArtifactSort.CREATED_DESC)
    assert any("2 current, 1 done" in str(artifact.data) for artifact in reports)
    rows = re.findall(r"\| \[(green \S+)\]\S+ +\| +5 .*\| (\w+) +\|\n", f"{tables[0].data}\n")
    assert rows == [("green 2024-01", "current"), ("green 2024-02", "current"), ("green 2024-03", "current")]


def test_plan_only_says_what_would_be_done_and_does_nothing(
    prefect_server: PrefectServer, http_source: HttpSource, own_environment: Path
) -> None:
    publish(http_source, 1)
    months = [f"green-{month}" for month in (JANUARY, LATEST)]
    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        done: Any = backfill(months=months, source=http_source.template, warehouses=[], plan_only=True)
    assert "1 ingest, 1 unpublished" in done.text
    # A server that refuses HEAD with 403 is asked for the first byte.
    assert {(request.method, request.range) for request in http_source.requests} == {
        ("HEAD", None),
        ("GET", "bytes=0-0"),
    }
    assert not (own_environment / "lake").exists()


def test_a_backfill_that_can_do_nothing_ends_with_one_line_and_its_own_status(
    prefect_server: PrefectServer, http_source: HttpSource
) -> None:
    publish(http_source, 1)
    for status, line, given in (
        (3, "not published: ", and_latest(http_source, 0)),
        (2, "error: ", ["--source", "sample", "--start", "2024-03", "--end", "2024-01"]),
        (
            *(1, "error: the server has no deployment no-such-flow/green"),
            arguments(http_source, "2024-01", "--via", "no-such-flow"),
        ),
    ):
        done = prefect_server.run(SCRIPT, *given)
        assert done.returncode == status, done.stderr
        assert done.stderr.splitlines()[-1].startswith(line)


@pytest.mark.parametrize("wrong", ["--start soon", "--last 0", "--last 7w", "--at-once 201", "--runner spark"])
def test_wrong_arguments_exit_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    monkeypatch.setattr(sys, "argv", [SCRIPT, *wrong.split()])
    with pytest.raises(SystemExit) as ended:
        command_line.run(backfill)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("runner", ["processes", pytest.param("dask", marks=pytest.mark.torture)])
def test_months_in_other_processes_end_as_they_do_in_threads(
    prefect_server: PrefectServer, http_source: HttpSource, own_environment: Path, runner: str
) -> None:
    publish(http_source, 3)
    http_source.files["/green_tripdata_2024-02.parquet"].body = b"no month at all"
    done = prefect_server.run(
        SCRIPT, *and_latest(http_source, 3, "--runner", runner, "--name", runner, "--at-once", "1")
    )
    assert f"backfill {runner}: 2 done, 1 failed, 1 unpublished" in done.stdout, done.stderr
    assert done.stderr.splitlines()[-1] == f"error: backfill {runner}: 1 of 4 months failed"
    assert "green 2024-01: published to" in done.stderr, "what the processes log is shown"
    warehouse = DuckDbWarehouse(own_environment / "warehouse.duckdb")
    assert warehouse.query("SELECT COUNT(*) FROM ny_taxi.green_trip_data") == [(10,)]


@pytest.mark.torture
def test_a_cluster_that_is_not_there_is_one_line(
    prefect_server: PrefectServer, http_source: HttpSource, own_environment: Path
) -> None:
    publish(http_source, 1)
    done = prefect_server.run(
        *(SCRIPT, *arguments(http_source, "2024-01", "--runner", "dask", "--address", "tcp://127.0.0.1:1"))
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: the runner takes no months; got Timed out trying to connect")
    assert not (own_environment / "lake/manifest").exists()


def test_threads_have_no_address() -> None:
    with pytest.raises(ArgumentError, match="use --runner dask or ray with --address"):
        open_runner("threads", 2, "tcp://127.0.0.1:8786")


def test_one_months_failure_fails_the_run_with_its_report(
    prefect_server: PrefectServer, http_source: HttpSource
) -> None:
    publish(http_source, 1)
    http_source.files["/green_tripdata_2024-01.parquet"].body = b"no month"
    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        state: Any = backfill(
            ["green"], "2024-01", "2024-01", source=http_source.template, warehouses=[], return_state=True
        )
    assert state.is_failed()
    error = state.result(raise_on_failure=False)
    assert isinstance(error, ReportedError)
    assert "| failed " in error.report


def test_a_run_made_late_is_about_the_months_it_was_meant_for(
    prefect_server: PrefectServer, http_source: HttpSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(http_source, 12)
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "catch-up")
    # In UTC it was July already.
    meant = datetime(2024, 7, 1, 3, tzinfo=UTC)
    monkeypatch.setattr("prefect.runtime.flow_run.scheduled_start_time", meant, raising=False)
    with temporary_settings({PREFECT_API_URL: prefect_server.url}):
        planned: Any = backfill(["green"], last=2, source=http_source.template, warehouses=[], plan_only=True)
        done: Any = etl_web_to_gcs("green", source=http_source.template)
    assert re.findall(r"green (\d{4}-\d\d)", planned.text) == ["2024-03", "2024-04"]
    assert done.manifest.month == "2024-04"


def test_a_signed_source_is_nowhere_to_be_read(
    prefect_server: PrefectServer, http_source: HttpSource, own_environment: Path
) -> None:
    body = green_parquet(*[trip()] * 5)
    signed = "?signature=planted-s1g"
    http_source.files[f"/green_tripdata_2024-01.parquet{signed}"] = PublishedFile(body)
    http_source.files[f"/green_tripdata_2024-02.parquet{signed}"] = PublishedFile(b"no month at all")
    template = http_source.template.replace("://", "://me:planted-pa55@") + signed
    done = prefect_server.run(
        SCRIPT, "--colors", "green", "--start", "2024-01", "--end", "2024-02", "--source", template, "--name", "signed"
    )
    assert done.returncode == 1
    assert "1 done, 1 failed" in done.stdout
    assert "--source '$TLC_SOURCE'" in done.stdout, "the command that does the rest names the variable"
    with temporary_settings({PREFECT_API_URL: prefect_server.url}), get_client(sync_client=True) as client:
        runs = [run for run in client.read_flow_runs() if run.name == "signed"]
        artifacts = client.read_artifacts()
        logs = client.read_logs()
    kept = [path.read_bytes() for path in (own_environment / "lake").rglob("*.json")]
    shown = f"{done.stdout}{done.stderr}{runs}{artifacts}{logs}{kept}"
    assert runs
    assert "planted" not in shown
