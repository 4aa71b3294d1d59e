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
from temporary_servers import find_temporary_servers
from waiting import eventually

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
    month.faults = [Fault("status", 503)]
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
    assert state.result().manifest.flow_run_id == str(run.id)
    send_logs()
    logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])))
    ours = [log for log in logs if log.name.startswith("nyc_tlc")]
    assert len(ours) >= 4
    assert all("green 2024-01" in log.message for log in ours)
    assert any("503" in log.message and "trying again" in log.message for log in ours)


def test_a_download_that_takes_a_while_shows_how_far_it_is(
    client: SyncPrefectClient, month: PublishedFile, http_source: HttpSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nyc_tlc.runs.progress.INTERVAL", 0)
    month.body = green_parquet(*(trip(trip_distance=number / 7) for number in range(160_000)))
    state = run_flow(color="green", year=2024, month=1, source=http_source.template)
    run = client.read_flow_run(state.state_details.flow_run_id)
    progress = [a for a in client.read_artifacts() if a.flow_run_id == run.id and a.type == "progress"]
    assert [artifact.data for artifact in progress] == [100.0]


def test_a_current_month_costs_one_request_and_what_changed_is_redone(
    client: SyncPrefectClient,
    make: Callable[[], None],
    month: PublishedFile,
    http_source: HttpSource,
    own_environment: Path,
) -> None:
    def run(**more: Any) -> Any:
        http_source.requests.clear()
        return run_flow(color="green", year=2024, month=1, source=http_source.template, **more).result()

    make()
    lake = own_environment / "lake"
    before = files(own_environment)
    abandoned = own_environment / "nyc-tlc-scratch" / "run-0123456789ab"
    abandoned.mkdir(parents=True)
    (abandoned / "green_tripdata_2024-01").write_bytes(b"what a killed run left")
    assert "green 2024-01 is current" in run().text
    assert [request.method for request in http_source.requests] == ["HEAD"]
    assert files(own_environment) == before

    run(force=True)
    old, new = (
        {name: data for name, data in each.items() if "clean" in name} for each in (before, files(own_environment))
    )
    assert {without_version(name): data for name, data in new.items()} == {
        without_version(name): data for name, data in old.items()
    }
    assert not new.keys() & old.keys()

    assert [day.rows for day in run(layout="day").manifest.daily] == [20]
    shutil.rmtree(lake / "clean")
    assert run().manifest.clean.rows == 20
    assert len(list((lake / "clean").rglob("*.parquet"))) == 1
    month.body = green_parquet(*[trip()] * 5)
    assert run().manifest.source.rows == 5


def test_a_source_that_tells_nothing_is_downloaded_and_compared(
    client: SyncPrefectClient, make: Callable[[], None], month: PublishedFile, http_source: HttpSource
) -> None:
    month.etag = month.last_modified = None
    make()
    again = run_flow(color="green", year=2024, month=1, source=http_source.template).result()
    assert "is current" in again.text
    assert len([request for request in http_source.requests if request.method == "GET"]) == 1


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


def test_what_people_really_got_instead_of_data_is_named(
    client: SyncPrefectClient, real_data: Path, own_environment: Path
) -> None:
    for file, color, year, month, named in (
        ("truncated-download.parquet", "yellow", 2021, 1, "an incomplete Parquet file (1,918,543 bytes, no footer)"),
        ("lfs-pointer.csv.gz", "green", 2019, 9, "a Git-LFS pointer to a file of 7,854,533 bytes"),
    ):
        template = real_data.resolve().as_uri() + "/negative/{color}_tripdata_{year:04d}-{month:02d}." + file
        state = run_flow(color=color, year=year, month=month, source=template)
        assert state.is_failed()
        assert f"{color} {year}-{month:02d}: " in str(state.message)
        assert named in str(state.message)
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
    prefect_server: PrefectServer,
    client: SyncPrefectClient,
    month: PublishedFile,
    http_source: HttpSource,
    own_environment: Path,
) -> None:
    month.body = MONTH[:2000]
    latest = Month.current().plus(-1)
    for year, number, status, line, more in (
        (2024, 1, 1, "error: green 2024-01: .*an incomplete Parquet file", {}),
        (latest.year, latest.month, 3, f"not published: green {latest}", {}),
        (2024, 2, 1, "error: green 2024-02: .*403", {}),
        (
            *(2024, 3, 1, r"error: the Prefect server at http://127.0.0.1:1/api \(PREFECT_API_URL\) can't be"),
            {"PREFECT_API_URL": "http://127.0.0.1:1/api"},
        ),
    ):
        which = ("--color", "green", "--year", str(year), "--month", str(number), "--source", http_source.template)
        done = prefect_server.run(SCRIPT, *which, **more)
        assert done.returncode == status
        assert re.match(line, done.stderr)
        assert done.stderr.count("\n") == 1
    assert files(own_environment) == {}
    (run,) = [run for run in client.read_flow_runs() if run.name == "green-2024-02"]
    assert run.state_name == "Failed"
    logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])))
    assert logs
    assert not [log for log in logs if "Traceback" in log.message]


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


def test_without_a_server_a_run_starts_a_quiet_one_which_ends_even_if_the_run_is_killed(
    scripts: Scripts, prefect_server: PrefectServer, tmp_path: Path
) -> None:
    home = tmp_path / "prefect"
    home.mkdir()
    shutil.copy(prefect_server.new_database, home / "prefect.db")
    program = """if True:
        import os, signal
        from etl_web_to_gcs import etl_web_to_gcs
        from nyc_tlc.runs import command_line
        try:
            command_line.run(etl_web_to_gcs)
        except SystemExit as ended:
            print(ended.code, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    (tmp_path / "script.py").write_text(program)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(home), "PYTHONPATH": str(ROOT / "flows"), "TLC_SAMPLE_ROWS": "1000"}
    month = ("--source", "sample", "--year", "2024", "--month", "1")
    done = scripts.run(str(tmp_path / "script.py"), *month, environment=environment, timeout=200)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.endswith("\n0\n"), done.stderr
    assert all("nyc_tlc" in line for line in done.stderr.splitlines()), done.stderr
    assert "1,000 rows in" in done.stdout
    assert "starting a Prefect server for this run" in done.stderr
    eventually(lambda: find_temporary_servers(str(home)) == [])
