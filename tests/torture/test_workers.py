"""Four workers with sixteen slots and a server on Postgres: the slots are used, and a lost machine costs no month.

Takes a quarter of an hour: ``make torture``.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import urllib3
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from urllib3.util import Retry

from conftest import ROOT, PrefectServer
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.keys import Keys
from nyc_tlc.month import Color, Month
from scripts import Scripts
from waiting import eventually, free_port

pytestmark = pytest.mark.torture

START, MONTHS = "2018-01", 64
SLOTS = 16
BY_WORKERS = ["--via", "backfill", "--per-run", "4"]
#: Rows of a month where runs are looked at: so many that a run takes longer than its start.
ROWS = 400_000
#: Few, where only what comes around a month is measured.
FEW_ROWS = 5_000


def settings(rows: int) -> dict[str, str]:
    return {"TLC_SAMPLE_ROWS": f"{rows}", "TLC_AT_ONCE": f"{SLOTS}", "PYTHONDONTWRITEBYTECODE": ""}


@dataclass(frozen=True)
class Server(PrefectServer):
    """A Prefect server, and its process."""

    pid: int = 0


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def server(full_postgres: str, scripts: Scripts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a Prefect server on Postgres, prepare it and deploy to it."""
    port = free_port()
    folder = tmp_path_factory.mktemp("server")
    server = Server(f"http://127.0.0.1:{port}/api", folder / "prefect", scripts)
    environment = server.environment(
        PREFECT_API_DATABASE_CONNECTION_URL=full_postgres, PREFECT_SERVER_ANALYTICS_ENABLED="false"
    ) | {"PREFECT_API_URL": ""}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            retries = Retry(total=900, backoff_factor=0.2, backoff_max=0.2)
            urllib3.PoolManager().request("GET", f"{server.url}/health", retries=retries).drain_conn()
            prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
            for prepare in ([sys.executable, "deployments/apply.py"], [*prefect, "deploy", "--all"]):
                environment = server.environment(**settings(ROWS))
                subprocess.run(prepare, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=240)
            yield replace(server, pid=process.pid)
        finally:
            process.terminate()
            process.wait(30)


@contextlib.contextmanager
def workers(server: Server, folder: Path, rows: int = ROWS, count: int = 4) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start process workers that share the slots, and kill them with all their processes at the end."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "taxi", "--limit", f"{SLOTS // count}"]
    environment = server.environment(**settings(rows), PREFECT_WORKER_QUERY_SECONDS="5")
    with (folder / f"workers-{time.monotonic_ns()}.log").open("wb") as log:
        started = [
            subprocess.Popen(
                command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
            for _ in range(count)
        ]
        try:
            yield started
        finally:
            for each in started:
                kill(each)


def kill(worker: subprocess.Popen[bytes]) -> None:
    """Kill a worker and its runs, as if their machine were lost."""
    for pid in family(worker.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    worker.wait(30)


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


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of all its descendants, living and dead."""
    ticks = 0
    for each in family(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass
class Seen:
    """The runs of months as the API shows them, from second to second."""

    most_running: int = 0
    #: For how long, in seconds, a run waited although a slot was free.
    longest_wait: float = 0
    states: set[str] = field(default_factory=set)


def backfill(
    server: Server, *more: str, color: Color = "green", start: str = START, months: int = MONTHS, rows: int = ROWS
) -> subprocess.Popen[str]:
    end = Month.parse(start).plus(months - 1)
    command = [sys.executable, str(ROOT / "flows" / "backfill.py"), "--colors", color, "--start", start]
    command += ["--end", str(end), "--source", "sample", "--lake-only", "--at-once", f"{SLOTS}", *more]
    environment = server.environment(**settings(rows))
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def month_runs(client: SyncPrefectClient, color: Color = "green") -> list[FlowRun]:
    ours = FlowRunFilter.model_validate({"name": {"like_": f"{color}-20"}, "deployment_id": {"is_null_": False}})
    return client.read_flow_runs(flow_run_filter=ours)


def watch(client: SyncPrefectClient, run: subprocess.Popen[str], lose_one: Callable[[int], bool]) -> Seen:
    """Look at the runs until the backfill ends.

    ``lose_one`` gets the number of finished runs and returns whether all workers are there.
    """
    seen, free_since, all_there = Seen(), None, True
    while run.poll() is None:
        runs = month_runs(client)
        kinds = Counter(run.state_type for run in runs)
        seen.states |= {str(run.state_name) for run in runs}
        seen.most_running = max(seen.most_running, kinds[StateType.RUNNING])
        if all_there and kinds[StateType.SCHEDULED] and kinds[StateType.RUNNING] + kinds[StateType.PENDING] < SLOTS:
            free_since = free_since or time.monotonic()
            seen.longest_wait = max(seen.longest_wait, time.monotonic() - free_since)
        else:
            free_since = None
        all_there = lose_one(kinds[StateType.COMPLETED])
        time.sleep(2)
    return seen


def check_all_done(
    home: Path, color: Color = "green", start: str = START, months: int = MONTHS, rows: int = ROWS
) -> None:
    """Check that the lake has each month whole, and nothing else."""
    lake, first = FolderLake(home / "lake"), Month.parse(start)
    asked = [first.plus(number) for number in range(months)]
    assert lake.months(color) == asked
    for month in asked:
        manifest = lake.manifest(Keys(color, month))
        assert manifest is not None
        assert manifest.source.rows == manifest.clean.rows + manifest.quarantine.rows == rows
        assert lake.digest(manifest.clean.key) == manifest.clean.sha256
        assert pq.read_metadata(lake.root / manifest.clean.key).num_rows == manifest.clean.rows


@pytest.fixture
def api(server: Server) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as client:
        yield client


@pytest.mark.timeout(1800)
def test_sixteen_slots_are_used_and_one_worker_of_four_is_lost(
    server: Server,
    api: SyncPrefectClient,
    own_environment: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    with workers(server, tmp_path) as (doomed, *_):
        eventually(lambda: len(api.read_workers_for_work_pool("taxi")) == 4, 120)
        began, cpu = time.monotonic(), cpu_seconds(server.pid)
        run = backfill(server, *BY_WORKERS)

        def lose_one(done: int) -> bool:
            if done >= 2 and doomed.poll() is None:
                kill(doomed)
            return doomed.poll() is None

        seen = watch(api, run, lose_one)
        output, took = run.communicate(timeout=60)[0], time.monotonic() - began
        assert run.returncode == 0, output
        assert doomed.returncode == -signal.SIGKILL
        # What the lost runs had done is current for the runs that did the rest.
        assert "failed" not in output
        again = backfill(server, *BY_WORKERS).communicate(timeout=200)[0]
        assert f"{MONTHS} current" in again
    check_all_done(own_environment)
    per_run = (cpu_seconds(server.pid) - cpu) / 16
    record_property("attacked", MONTHS)
    record_property(
        "measured",
        f"64 months in 16 runs in {took:.0f} s with a lost worker, {seen.most_running} of 16 Running at once; a run"
        f" waited at most {seen.longest_wait:.0f} s beside a free slot; {per_run:.2f} s of the server's CPU a run",
    )
    assert Counter(run.state_name for run in month_runs(api)) == {"Completed": 16}
    assert "AwaitingConcurrencySlot" not in seen.states
    assert seen.most_running >= 12
    # A worker asks for runs every five seconds, and the machine is busy; a refused slot would be asked for in 30.
    assert seen.longest_wait < 25


@pytest.mark.timeout(1800)
def test_workers_take_no_longer_than_dask(
    server: Server, own_environment: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    took = {}
    for name, how in {"dask": ["--runner", "dask"], "workers": BY_WORKERS}.items():
        shutil.rmtree(own_environment, ignore_errors=True)
        with workers(server, tmp_path) if name == "workers" else contextlib.nullcontext():
            began = time.monotonic()
            run = backfill(server, *how)
            output = run.communicate(timeout=800)[0]
            took[name] = time.monotonic() - began
        assert run.returncode == 0, output
        check_all_done(own_environment)
    record_property("measured", f"64 months: {took['workers']:.0f} s in 16 runs of 4, {took['dask']:.0f} s by Dask")
    assert took["workers"] <= 1.3 * took["dask"]


@pytest.mark.timeout(1800)
def test_two_hundred_months(
    server: Server,
    api: SyncPrefectClient,
    own_environment: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    with workers(server, tmp_path, FEW_ROWS):
        began, cpu = time.monotonic(), cpu_seconds(server.pid)
        run = backfill(
            server, "--via", "backfill", "--per-run", "25", color="yellow", start="2009-01", months=200, rows=FEW_ROWS
        )
        output, took = run.communicate(timeout=1500)[0], time.monotonic() - began
    assert run.returncode == 0, output
    check_all_done(own_environment, "yellow", "2009-01", 200, FEW_ROWS)
    runs = month_runs(api, "yellow")
    seconds = sum(run.total_run_time.total_seconds() for run in runs) / len(runs)
    cpu = cpu_seconds(server.pid) - cpu
    record_property(
        "measured",
        f"200 months in {len(runs)} runs of 25 in {took:.0f} s, {seconds:.1f} s a run; {cpu:.0f} s of the server's CPU",
    )
