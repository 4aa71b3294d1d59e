"""Ctrl-C at a real terminal, SIGTERM and a closed terminal: one line, seconds, no scratch files, no server left."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import urllib3
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from conftest import ROOT, PrefectServer
from factories import green_parquet, trip
from scripts import Scripts
from stand_ins.http_source import Fault, HttpSource, PublishedFile
from temporary_servers import find_temporary_servers

LINE = "interrupted: nothing is half done; the same command does the rest"
CTRL_C = b"\x03"
#: A script that nohup started gets both signals.
SIGNALLED = """
import os, signal, time
from nyc_tlc.runs.interruption import expect_signals
signal.signal(signal.SIGHUP, signal.SIG_IGN)
expect_signals()
os.kill(os.getpid(), signal.SIGHUP)
print("ignored", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""
#: Bars and colours.
CONTROL = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")


@dataclass
class Ended:
    """What came of a script: its status, the seconds from the signal to its end, and what the terminal got."""

    status: int
    seconds: float
    output: str

    @property
    def lines(self) -> list[str]:
        """The lines that stay at the terminal, without progress bars and the library's log."""
        lines = [
            CONTROL.sub("", line.rpartition("\r")[2]).strip() for line in self.output.replace("\r\n", "\n").split("\n")
        ]
        return [line for line in lines if line and "━" not in line and "| INFO" not in CONTROL.sub("", line)]


def interrupt(
    when: Callable[[], object], how: signal.Signals | None, script: str, *arguments: str, **environment: str
) -> Ended:
    """Run a script at a terminal of its own and interrupt it.

    Args:
        when: Is called until it is true.
        how: None for the key Ctrl-C, else a signal for the process group.
        script: The script.
        arguments: Its arguments.
        environment: Variables besides those of this process; none of Prefect's are inherited.
    """
    process, terminal = pty.fork()
    if process == 0:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        os.execve(sys.executable, [sys.executable, str(ROOT / script), *arguments], clean | environment)
    output, sent, began = b"", 0.0, time.monotonic()
    while time.monotonic() < began + 200:
        if select.select([terminal], [], [], 0.02)[0]:
            try:
                output += os.read(terminal, 65536)
            except OSError:
                break  # the script has ended
        if not sent and when():
            sent = time.monotonic()
            if how is None:
                os.write(terminal, CTRL_C)
            else:
                os.killpg(process, how)
    ended = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os.close(terminal)
    return Ended(status, ended - sent, output.decode(errors="replace"))


def after(seconds: float) -> Callable[[], bool]:
    """Return a function that is true from some seconds on."""
    due = time.monotonic() + seconds
    return lambda: time.monotonic() > due


@pytest.fixture
def stalling(http_source: HttpSource) -> HttpSource:
    """Serve months whose downloads stop half way."""
    body = green_parquet(*[trip()] * 20)
    for month in range(1, 5):
        file = PublishedFile(body, faults=[Fault("stall", after=2000)])
        http_source.files[f"/green_tripdata_2024-{month:02}.parquet"] = file
    return http_source


def arguments(source: HttpSource) -> list[str]:
    return ["--color", "green", "--year", "2024", "--month", "1", "--source", source.template]


def check(ended: Ended, status: int, home: Path) -> None:
    assert ended.lines == [LINE], ended.output
    assert ended.status == status
    assert ended.seconds < 5
    scratch = home / "nyc-tlc-scratch"
    assert not scratch.exists() or list(scratch.iterdir()) == []


@pytest.mark.torture
@pytest.mark.parametrize(
    ("how", "status"),
    [
        pytest.param(None, 130, id="ctrl-c"),
        pytest.param(signal.SIGTERM, 143, id="term"),
        pytest.param(signal.SIGHUP, 129, id="hup"),
    ],
)
def test_a_run_with_a_server_of_its_own_ends_and_ends_the_server(
    how: signal.Signals | None, status: int, stalling: HttpSource, own_environment: Path, tmp_path: Path
) -> None:
    home = str(tmp_path / "prefect")

    def when() -> bool:
        if not stalling.stalled.is_set():
            return False
        # Meanwhile a page or a user of this machine who finds the server gets nothing.
        (server,) = find_temporary_servers(home)
        (listening,) = [each for each in psutil.Process(server).net_connections() if each.status == psutil.CONN_LISTEN]
        url = f"http://127.0.0.1:{listening.laddr.port}/api"
        origin = {"Origin": "http://example.org"}
        answer = urllib3.request("POST", f"{url}/block_documents/filter", json={}, headers=origin)
        assert answer.status == 401
        assert "access-control-allow-origin" not in answer.headers
        assert {stat.S_IMODE(file.stat().st_mode) & 0o077 for file in (tmp_path / "prefect").glob("prefect.db*")} == {0}
        return True

    ended = interrupt(when, how, "flows/etl_web_to_gcs.py", *arguments(stalling), PREFECT_HOME=home)
    check(ended, status, own_environment)
    assert find_temporary_servers(home) == []


@pytest.mark.parametrize(
    ("script", "how", "status"),
    [
        ("etl_month", None, 130),
        pytest.param("etl_month", signal.SIGTERM, 143, marks=pytest.mark.torture),
        pytest.param("backfill", signal.SIGTERM, 143, marks=pytest.mark.torture),
    ],
)
def test_a_run_on_a_server_ends(
    script: str,
    how: signal.Signals | None,
    status: int,
    stalling: HttpSource,
    own_environment: Path,
    prefect_server: PrefectServer,
) -> None:
    given = arguments(stalling)
    if script == "backfill":
        given = ["--colors", "green", "--start", "2024-01", "--end", "2024-04", "--source", stalling.template]
    api = {"PREFECT_API_URL": prefect_server.url, "PREFECT_HOME": str(prefect_server.home)}
    ended = interrupt(stalling.stalled.is_set, how, f"flows/{script}.py", *given, **api)
    check(ended, status, own_environment)
    if script == "etl_month":
        with temporary_settings({PREFECT_API_URL: prefect_server.url}), get_client(sync_client=True) as client:
            newest = max(client.read_flow_runs(), key=lambda run: run.created)
        assert newest.state_name == "Crashed"


@pytest.mark.torture
@pytest.mark.parametrize("seconds", [0.1, 0.5, 1, 2, 3])
def test_ctrl_c_while_the_script_starts_is_one_line(seconds: float, own_environment: Path, tmp_path: Path) -> None:
    started = after(seconds)
    ended = interrupt(started, None, "flows/etl_web_to_gcs.py", "--source", "sample", PREFECT_HOME=str(tmp_path / "p"))
    # Python itself is not ready to handle a signal before it has started.
    if ended.status != -signal.SIGINT and "Fatal Python error: init" not in ended.output:
        check(ended, 130, own_environment)


def test_of_three_signals_the_ignored_one_stays_ignored_and_another_ends_a_script_with_a_line(
    scripts: Scripts, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SIGNALLED)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "flows")}
    ended = scripts.run(str(tmp_path / "script.py"), environment=environment)
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "ignored\n", f"{LINE}\n")


@pytest.mark.torture
def test_a_script_that_nohup_started_survives_a_closed_terminal(
    stalling: HttpSource, prefect_server: PrefectServer
) -> None:
    hung_up = False

    def when() -> bool:
        nonlocal hung_up
        if stalling.stalled.is_set() and not hung_up:
            hung_up = True
            (child,) = [
                each for each in psutil.Process().children() if "flows/etl_web_to_gcs.py" in str(each.cmdline())
            ]
            child.send_signal(signal.SIGHUP)
            stalling.release.set()
        return False

    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        api = {"PREFECT_API_URL": prefect_server.url, "PREFECT_HOME": str(prefect_server.home)}
        ended = interrupt(when, None, "flows/etl_web_to_gcs.py", *arguments(stalling), TLC_HTTP_TIMEOUT="1", **api)
    finally:
        signal.signal(signal.SIGHUP, old)
    assert hung_up
    assert ended.status == 0, ended.output
