"""Two workers and a server on Postgres: one worker's machine is lost half-way, and every month is done once.

Takes minutes: ``make torture``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from urllib3.util import Retry

from conftest import ROOT, PrefectServer
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from waiting import eventually, free_port

pytestmark = pytest.mark.torture

MONTHS = 8
#: So many rows take a month a few seconds of work: it is the work that is shared out, not the waiting.
ROWS = "400000"


@pytest.fixture
def full_postgres() -> Iterator[str]:
    """Start a PostgreSQL with its extensions: Prefect needs pg_trgm, which the PostgreSQL in the wheel lacks."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    programs = found[-1].parent
    if not (programs / "pg_ctl").exists():
        pytest.skip("no PostgreSQL with pg_trgm on this machine (apt install postgresql)")
    # A server of PostgreSQL refuses to be root.
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if as_user:
            shutil.chown(folder, "postgres")
        data = f"{folder}/data"

        def run(program: str, *arguments: str) -> None:
            command = [*as_user, str(programs / program), "-D", data, *arguments]
            subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=60)

        run("initdb", "--auth=trust", "--username=postgres", "--no-sync")
        port = free_port()
        run(
            "pg_ctl", "-w", "-l", f"{folder}/log", "-o", f"-k {folder} -p {port} -c listen_addresses=127.0.0.1", "start"
        )
        try:
            yield f"postgresql+asyncpg://postgres@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-m", "immediate", "stop")


@pytest.fixture
def server(full_postgres: str, tmp_path: Path) -> Iterator[PrefectServer]:
    """Start a Prefect server on Postgres, prepare it and deploy to it."""
    port = free_port()
    server = PrefectServer(f"http://127.0.0.1:{port}/api", tmp_path / "prefect")
    environment = server.environment(
        PREFECT_API_DATABASE_CONNECTION_URL=full_postgres, PREFECT_SERVER_ANALYTICS_ENABLED="false"
    ) | {"PREFECT_API_URL": ""}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            retries = Retry(total=300, backoff_factor=0.2, backoff_max=0.2)
            urllib3.PoolManager().request("GET", f"{server.url}/health", retries=retries).drain_conn()
            prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
            for prepare in ([sys.executable, "deployments/apply.py"], [*prefect, "deploy", "--all"]):
                subprocess.run(
                    prepare, cwd=ROOT, env=server.environment(), check=True, capture_output=True, timeout=120
                )
            yield server
        finally:
            process.terminate()
            process.wait(30)


@contextlib.contextmanager
def worker(server: PrefectServer, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process worker that takes one run at a time, and kill it with all its processes at the end."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "taxi", "--limit", "1"]
    environment = server.environment(TLC_SAMPLE_ROWS=ROWS, PREFECT_WORKER_QUERY_SECONDS="2")
    with (folder / f"worker-{time.monotonic_ns()}.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            for pid in family(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait(30)


def family(pid: int) -> list[int]:
    """Return the ids of a process and of all its descendants."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = status.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(status.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def is_at_work(server: PrefectServer, worker: subprocess.Popen[bytes]) -> bool:
    """Return whether a month's run is running in one of the worker's processes."""
    pids = {str(pid) for pid in family(worker.pid)}
    running = (run for run in month_runs(server) if run.state and run.state.is_running())
    return any((run.infrastructure_pid or "").rpartition(":")[2] in pids for run in running)


def backfill(server: PrefectServer, name: str) -> subprocess.Popen[str]:
    last = f"2023-{MONTHS:02d}"
    command = [sys.executable, str(ROOT / "flows" / "backfill.py"), "--colors", "green", "--start", "2023-01"]
    command += ["--end", last, "--source", "sample", "--via", "etl-month", "--at-once", "4", "--name", name]
    environment = server.environment(TLC_SAMPLE_ROWS=ROWS)
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def month_runs(server: PrefectServer) -> list[FlowRun]:
    with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as client:
        return [run for run in client.read_flow_runs() if run.name.startswith("green-2023-") and run.deployment_id]


def check_all_done(own_environment: Path, output: str) -> None:
    lake = FolderLake(own_environment / "lake")
    assert f"{MONTHS} done" in output, output
    assert [str(month) for month in lake.months("green")] == [f"2023-{n:02d}" for n in range(1, MONTHS + 1)]
    warehouse = DuckDbWarehouse(own_environment / "warehouse.duckdb")
    counts = "SELECT file_month, COUNT(*), COUNT(DISTINCT source_row) FROM ny_taxi.green_trip_data GROUP BY 1"
    found = warehouse.query(counts)
    assert len(found) == MONTHS
    assert all(rows == distinct for _, rows, distinct in found)
    assert {load.row_count for load in warehouse.loads().values()} == {rows for _, rows, _ in found}


@pytest.mark.timeout(900)
def test_a_lost_machines_months_are_done_by_the_other_one(
    server: PrefectServer, own_environment: Path, tmp_path: Path
) -> None:
    with worker(server, tmp_path) as doomed, worker(server, tmp_path):
        run = backfill(server, "two-workers")
        eventually(lambda: is_at_work(server, doomed), 300, every=0.1)
        for pid in family(doomed.pid):
            os.kill(pid, signal.SIGKILL)
        output, _ = run.communicate(timeout=800)
    assert run.returncode == 0, output
    check_all_done(own_environment, output)
    completed = Counter(run.name for run in month_runs(server) if run.state and run.state.is_completed())
    assert completed == {f"green-2023-{n:02d}": 1 for n in range(1, MONTHS + 1)}
    with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as client:
        assert [task.name for task in client.read_task_runs() if task.state and task.state.is_running()] == []


@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", [1, 2])
def test_makespan(
    server: PrefectServer,
    own_environment: Path,
    tmp_path: Path,
    workers: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with contextlib.ExitStack() as machines:
        for _ in range(workers):
            machines.enter_context(worker(server, tmp_path))
        began = time.monotonic()
        run = backfill(server, f"makespan-{workers}")
        output, _ = run.communicate(timeout=800)
        took = time.monotonic() - began
    assert run.returncode == 0, output
    check_all_done(own_environment, output)
    busy = sum(run.total_run_time.total_seconds() for run in month_runs(server))
    with capsys.disabled():
        sys.stdout.write(f"\n{workers} worker(s): {MONTHS} months in {took:.0f} s, {busy:.0f} s of them in the runs\n")
