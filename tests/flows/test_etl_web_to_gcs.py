"""Run the main job as a script, with a real Prefect server and without one."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, LogFilter, LogFilterFlowRunId
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from conftest import ROOT, PrefectServer
from etl_web_to_gcs import etl_web_to_gcs
from factories import JANUARY, green_parquet, publish_fetched, trip, without_version
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.month import Month
from nyc_tlc.runs import command_line
from nyc_tlc.source.fetch import fetch_month
from nyc_tlc.source.published import look_at
from scripts import Scripts
from stand_ins.http_source import Fault, HttpSource, PublishedFile
from stand_ins.proxy import Proxy

SCRIPT = "flows/etl_web_to_gcs.py"
PATH = "/green_tripdata_2024-01.parquet"
MONTH = green_parquet(*[trip()] * 20, trip(passenger_count=0))


@pytest.fixture
def client(prefect_server: PrefectServer) -> Iterator[SyncPrefectClient]:
    """Return a client of the server; flows in this process use the same server."""
    settings = {PREFECT_API_URL: prefect_server.url, PREFECT_HOME: prefect_server.home}
    with temporary_settings(settings), get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def month(http_source: HttpSource) -> PublishedFile:
    """Publish a green month on the web source."""
    http_source.files[PATH] = file = PublishedFile(MONTH)
    return file


@pytest.fixture
def make(month: PublishedFile, http_source: HttpSource, own_environment: Path, tmp_path: Path) -> Callable[[], None]:
    """Return a function that brings the month into the lake without a run."""

    def run() -> None:
        fetched = fetch_month(look_at(http_source.template, "green", JANUARY), tmp_path)
        publish_fetched(FolderLake(own_environment / "lake"), fetched, tmp_path)
        http_source.requests.clear()

    return run


def run_flow(**parameters: Any) -> Any:
    return etl_web_to_gcs(**parameters, return_state=True)


def send_logs() -> None:
    """Wait until the server has all log lines."""
    for handler in logging.getLogger("prefect.flow_runs").handlers:
        handler.flush()


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder and their bytes."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_month_is_a_run_with_its_name_tasks_report_and_log(
    client: SyncPrefectClient, month: PublishedFile, http_source: HttpSource
) -> None:
    state = run_flow(color="green", year=2024, month=1, source=http_source.template)
    assert state.is_completed()
    run = client.read_flow_run(state.state_details.flow_run_id)
    assert run.name == "green-2024-01"
    tasks = client.read_task_runs(flow_run_filter=None)
    names = {task.name for task in tasks if task.flow_run_id == run.id}
    steps = {f"{step} green 2024-01" for step in ("look for", "fetch", "clean", "publish", "report")}
    assert names == {*steps, "list months"}
    key = ArtifactFilterKey(any_=["green-2024-01-quality-local-home"])
    (artifact,) = (a for a in client.read_artifacts(artifact_filter=ArtifactFilter(key=key)) if a.flow_run_id == run.id)
    assert "**21** rows in, **20** clean, **1** quarantined" in str(artifact.data)
    assert "| `zero_passengers` | reject | 1 | A trip without passengers" in str(artifact.data)
    assert "raw/green/green_tripdata_2024-01.parquet" in without_version(str(artifact.data))
    assert "/artifacts/key/months-green-local-home)" in str(artifact.data)
    key = ArtifactFilterKey(any_=["months-green-local-home"])
    (table,) = (a for a in client.read_artifacts(artifact_filter=ArtifactFilter(key=key)) if a.flow_run_id == run.id)
    assert re.search(
        r"\| \[green 2024-01\]\(http.*/green-2024-01-quality-local-home\) +\| +20 \| +4\.76% \|", str(table.data)
    )
    manifest = state.result().manifest
    assert manifest.flow_run_id == str(run.id)


def test_a_download_that_takes_a_while_shows_how_far_it_is(
    client: SyncPrefectClient, month: PublishedFile, http_source: HttpSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nyc_tlc.runs.progress.INTERVAL", 0)
    month.body = green_parquet(*(trip(trip_distance=number / 7) for number in range(160_000)))
    state = run_flow(color="green", year=2024, month=1, source=http_source.template)
    run = client.read_flow_run(state.state_details.flow_run_id)
    progress = [a for a in client.read_artifacts() if a.flow_run_id == run.id and a.type == "progress"]
    assert [artifact.data for artifact in progress] == [100.0]


def test_log_lines_reach_the_run_and_name_the_month(
    client: SyncPrefectClient, month: PublishedFile, http_source: HttpSource
) -> None:
    http_source.files[PATH].faults = [Fault("status", 503)]
    state = run_flow(color="green", year=2024, month=1, source=http_source.template)
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[state.state_details.flow_run_id]))
    send_logs()
    ours = [log for log in client.read_logs(wanted) if log.name.startswith("nyc_tlc")]
    assert len(ours) >= 4
    assert all("green 2024-01" in log.message for log in ours)
    assert any("503" in log.message and "trying again" in log.message for log in ours)


def test_a_current_month_costs_one_request_no_download_and_clears_what_a_killed_run_left(
    client: SyncPrefectClient, make: Callable[[], None], http_source: HttpSource, own_environment: Path
) -> None:
    make()
    before = files(own_environment)
    abandoned = own_environment / "nyc-tlc-scratch" / "run-0123456789ab"
    abandoned.mkdir(parents=True)
    (abandoned / "green_tripdata_2024-01").write_bytes(b"half of it")
    state = run_flow(color="green", year=2024, month=1, source=http_source.template)
    assert "green 2024-01 is current" in state.result().text
    assert [request.method for request in http_source.requests] == ["HEAD"]
    assert files(own_environment) == before


def test_a_changed_source_is_noticed_and_the_month_redone(
    client: SyncPrefectClient, make: Callable[[], None], month: PublishedFile, http_source: HttpSource
) -> None:
    parameters = {"color": "green", "year": 2024, "month": 1, "source": http_source.template}
    make()
    month.body = green_parquet(*[trip()] * 5)
    assert run_flow(**parameters).result().manifest.source.rows == 5


def test_a_source_that_tells_nothing_is_downloaded_and_compared(
    client: SyncPrefectClient, make: Callable[[], None], month: PublishedFile, http_source: HttpSource
) -> None:
    month.etag = month.last_modified = None
    make()
    again = run_flow(color="green", year=2024, month=1, source=http_source.template).result()
    assert "is current" in again.text
    assert len([request for request in http_source.requests if request.method == "GET"]) == 1


def test_force_redoes_a_current_month_to_the_same_bytes(
    client: SyncPrefectClient, make: Callable[[], None], http_source: HttpSource, own_environment: Path
) -> None:
    make()
    before = files(own_environment / "lake")
    run_flow(color="green", year=2024, month=1, source=http_source.template, force=True).result()
    after = files(own_environment / "lake")
    assert {without_version(name): data for name, data in after.items() if "clean" in name} == {
        without_version(name): data for name, data in before.items() if "clean" in name
    }
    assert not {name for name in after if "clean" in name} & before.keys()


def test_asking_for_days_redoes_a_month_that_has_none(
    client: SyncPrefectClient, make: Callable[[], None], http_source: HttpSource
) -> None:
    make()
    days = run_flow(color="green", year=2024, month=1, source=http_source.template, layout="day").result()
    assert [day.rows for day in days.manifest.daily] == [20]


def test_a_month_whose_clean_file_was_lost_is_redone(
    client: SyncPrefectClient, make: Callable[[], None], http_source: HttpSource, own_environment: Path
) -> None:
    make()
    shutil.rmtree(own_environment / "lake" / "clean")
    run_flow(color="green", year=2024, month=1, source=http_source.template)
    assert len(list((own_environment / "lake" / "clean").rglob("*.parquet"))) == 1


def test_a_month_not_published_is_no_failure(client: SyncPrefectClient, http_source: HttpSource) -> None:
    month = Month.current().plus(-1)
    state = run_flow(color="green", year=month.year, month=month.month, source=http_source.template)
    assert (state.type.value, state.name) == ("COMPLETED", "NotPublished")
    assert f"green {month}" in str(state.message)


def test_without_a_month_the_newest_is_taken_and_the_run_named_for_it(
    client: SyncPrefectClient, http_source: HttpSource
) -> None:
    newest = Month.current().plus(-2)
    path = f"/green_tripdata_{newest}.parquet"
    http_source.files[path] = PublishedFile(green_parquet(trip(lpep_pickup_datetime=newest.start)))
    state = run_flow(color="green", source=http_source.template)
    assert state.result().manifest.month == str(newest)
    assert client.read_flow_run(state.state_details.flow_run_id).name == f"green-{newest}"


def test_a_fetch_has_its_place_where_the_server_limits_them(
    client: SyncPrefectClient, month: PublishedFile, http_source: HttpSource
) -> None:
    limit = "taxi-source-127.0.0.1"
    client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=limit, limit=1))
    month.faults = [Fault("stall", after=2000)]
    with ThreadPoolExecutor() as thread:
        arguments = {"color": "green", "year": 2024, "month": 1, "source": http_source.template}
        running = thread.submit(copy_context().run, run_flow, **arguments)
        assert http_source.stalled.wait(60)
        assert client.read_global_concurrency_limit_by_name(limit).active_slots == 1
        http_source.release.set()
        assert running.result().is_completed()
    assert client.read_global_concurrency_limit_by_name(limit).active_slots == 0
    client.delete_global_concurrency_limit_by_name(limit)


def test_an_expected_failure_has_its_line_and_no_traceback_in_the_run(
    client: SyncPrefectClient, month: PublishedFile, http_source: HttpSource, own_environment: Path
) -> None:
    month.body = MONTH[:2000]
    state = run_flow(color="green", year=2024, month=1, source=http_source.template)
    assert state.is_failed()
    assert "an incomplete Parquet file" in str(state.message)
    send_logs()
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[state.state_details.flow_run_id]))
    assert not [log for log in client.read_logs(wanted) if "Traceback" in log.message]
    assert files(own_environment) == {}


def test_the_ui_form_shows_choices_limits_and_descriptions() -> None:
    properties = etl_web_to_gcs.parameters.model_dump()["properties"]
    assert properties["color"]["enum"] == ["yellow", "green", "fhv", "fhvhv"]
    assert {"minimum": 1, "maximum": 12}.items() <= properties["month"]["anyOf"][0].items()
    assert properties["layout"]["enum"] == ["month", "day"]
    assert all(described.get("description") for described in properties.values())


def test_a_script_run_ends_with_what_was_done_and_has_the_tags_that_automations_go_by(
    prefect_server: PrefectServer, client: SyncPrefectClient, own_environment: Path
) -> None:
    done = prefect_server.run(SCRIPT, "--source", "sample", "--year", "2024", "--month", "3", TLC_SAMPLE_ROWS="5000")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("yellow 2024-03: 5,000 rows in, ")
    assert "zero_passengers" in done.stdout
    assert lines[-1].startswith("look at it: ")
    looked = subprocess.run(
        lines[-1].removeprefix("look at it: "), shell=True, capture_output=True, text=True, check=True
    )
    assert "pickup_datetime" in looked.stdout
    manifest = json.loads((own_environment / "lake/manifest/yellow/2024-03.json").read_text())
    assert manifest["source"]["rows"] == 5000
    (run,) = [run for run in client.read_flow_runs() if run.name == "yellow-2024-03"]
    assert "nyc-tlc" in run.tags


def test_a_real_month_by_environment_and_flags(
    prefect_server: PrefectServer, real_data: Path, own_environment: Path
) -> None:
    template = real_data.resolve().as_uri() + "/parquet/{color}_tripdata_{year:04d}-{month:02d}.parquet"
    arguments = ("--color", "green", "--year", "2024", "--month", "1")
    done = prefect_server.run(SCRIPT, *arguments, TLC_SOURCE=template)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("green 2024-01: 56,551 rows in, 56,039 clean, 512 quarantined (0.91 %)")
    again = prefect_server.run(SCRIPT, *arguments, TLC_SOURCE=template)
    assert again.returncode == 0
    assert again.stdout.startswith("green 2024-01 is current, nothing to do")


@pytest.mark.parametrize(
    ("file", "color", "year", "month", "named"),
    [
        ("truncated-download.parquet", "yellow", 2021, 1, "an incomplete Parquet file (1,918,543 bytes, no footer)"),
        ("lfs-pointer.parquet", "green", 2022, 1, "a Git-LFS pointer to a file of 1,254,291 bytes"),
        ("lfs-pointer.csv.gz", "green", 2019, 9, "a Git-LFS pointer to a file of 7,854,533 bytes"),
    ],
)
def test_what_people_really_got_instead_of_data_is_named(
    client: SyncPrefectClient,
    real_data: Path,
    own_environment: Path,
    file: str,
    color: str,
    year: int,
    month: int,
    named: str,
) -> None:
    template = real_data.resolve().as_uri() + "/negative/{color}_tripdata_{year:04d}-{month:02d}." + file
    state = run_flow(color=color, year=year, month=month, source=template)
    assert state.is_failed()
    message = str(state.message)
    assert f"{color} {year}-{month:02d}: " in message
    assert named in message
    assert files(own_environment) == {}


def test_a_proxy_is_used_for_the_source_and_not_for_prefects_server(
    prefect_server: PrefectServer, month: PublishedFile, http_source: HttpSource
) -> None:
    template = http_source.template.replace(http_source.url, "http://taxis.example")
    arguments = ("--color", "green", "--year", "2024", "--month", "1", "--source", template)
    with Proxy().running() as proxy:
        proxy.upstream = http_source.url.removeprefix("http://")
        address = f"http://me:hush-word@127.0.0.1:{proxy.port}"
        done = prefect_server.run(SCRIPT, *arguments, HTTP_PROXY=address, NO_PROXY="", no_proxy="")
    assert done.returncode == 0, done.stderr
    assert proxy.requests == [f"{method} http://taxis.example{PATH}" for method in ("HEAD", "GET")]
    assert "hush-word" not in done.stdout + done.stderr


def test_a_script_run_that_fails_ends_with_one_line(
    prefect_server: PrefectServer, month: PublishedFile, http_source: HttpSource, own_environment: Path
) -> None:
    month.body = MONTH[:2000]
    arguments = ("--color", "green", "--year", "2024", "--month", "1", "--source", http_source.template)
    done = prefect_server.run(SCRIPT, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: green 2024-01: ")
    assert done.stderr.count("\n") == 1
    assert files(own_environment) == {}


def test_a_script_run_for_an_unpublished_month_exits_with_3(
    prefect_server: PrefectServer, http_source: HttpSource
) -> None:
    latest = Month.current().plus(-1)
    which = ("--color", "green", "--year", str(latest.year), "--month", str(latest.month))
    done = prefect_server.run(SCRIPT, *which, "--source", http_source.template)
    assert done.returncode == 3
    assert done.stderr.startswith(f"not published: green {latest}")
    assert done.stderr.count("\n") == 1


def test_an_old_month_that_is_refused_is_a_failure_that_says_so(
    prefect_server: PrefectServer, http_source: HttpSource
) -> None:
    arguments = ("--color", "green", "--year", "2024", "--month", "2", "--source", http_source.template)
    done = prefect_server.run(SCRIPT, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: green 2024-02: ")
    assert "403" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        "--month 13 --year 2024",
        "--color red",
        "--color yellow --year 2008 --month 12",
        "--color green --year 2013 --month 7",
        f"--year {Month.current().plus(1).year} --month {Month.current().plus(1).month}",
        "--year 2024",
        "--month twelve",
        "--layout weekly",
        "--source ftp://mirror/{year}-{month}",
        "--no-such-option",
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: str
) -> None:
    monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        command_line.run(etl_web_to_gcs)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert (printed.err.count("\n"), printed.out) == (1, "")


def test_wrong_arguments_are_refused_before_any_server_starts(scripts: Scripts, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    home = tmp_path / "prefect"
    done = scripts.run(str(ROOT / SCRIPT), "--color", "red", environment=environment | {"PREFECT_HOME": str(home)})
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (home / "prefect.db").exists()


def test_without_a_server_a_run_is_quiet(scripts: Scripts, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect"), "TLC_SAMPLE_ROWS": "1000"}
    done = scripts.run(str(ROOT / SCRIPT), "--source", "sample", environment=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    assert all("nyc_tlc" in line for line in done.stderr.splitlines()), done.stderr
    assert "1,000 rows in" in done.stdout


def test_a_run_killed_while_it_fetches_leaves_nothing_and_the_next_one_completes(
    prefect_server: PrefectServer, http_source: HttpSource, own_environment: Path
) -> None:
    http_source.files[PATH] = PublishedFile(MONTH, faults=[Fault("stall", after=2000)])
    arguments = [SCRIPT, "--color", "green", "--year", "2024", "--month", "1", "--source", http_source.template]
    with subprocess.Popen(
        [sys.executable, str(ROOT / arguments[0]), *arguments[1:]],
        env=prefect_server.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert http_source.stalled.wait(60)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not (own_environment / "lake" / "manifest" / "green" / f"{JANUARY}.json").exists()
    http_source.release.set()
    done = prefect_server.run(*arguments)
    assert done.returncode == 0, done.stderr
    assert list((own_environment / "nyc-tlc-scratch").iterdir()) == []


def test_a_server_that_is_not_there_is_one_line(prefect_server: PrefectServer) -> None:
    arguments = ("--source", "sample", "--year", "2024", "--month", "1")
    done = prefect_server.run(SCRIPT, *arguments, PREFECT_API_URL="http://127.0.0.1:1/api")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the Prefect server at http://127.0.0.1:1/api (PREFECT_API_URL) can't be")
    assert done.stderr.count("\n") == 1
