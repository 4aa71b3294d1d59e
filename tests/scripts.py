"""Run Python commands in forks of a process that has imported what takes seconds: Prefect, Polars, Google's clients.

A fork has an environment, files and an exit status of its own, as a process that a user starts has. This project's own
modules are imported in the fork. Run as a script, this is the process that forks.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

IMPORTED = (
    *("prefect", "prefect.cli", "prefect.cli.deploy", "prefect.deployments.base", "prefect_gcp", "prefect_sqlalchemy"),
    *("polars", "pyarrow.compute", "pyarrow.parquet", "duckdb", "psycopg2", "pgpq", "google.cloud.bigquery"),
    *("google.cloud.storage", "cyclopts", "jinja2", "isal.igzip", "rich.progress", "dotenv", "pandas"),
    *("prefect.artifacts", "prefect.concurrency.sync", "prefect.flow_engine", "prefect.task_engine", "fastapi"),
    *("anyio._backends._asyncio", "prefect.utilities.schema_tools", "prefect.utilities.visualization", "pydantic.v1"),
    *("pyarrow.csv", "pyarrow.pandas_compat"),
)
WAITING = 100


class Scripts:
    """The process that forks, and how to run commands with it."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "scripts")
        command = [sys.executable, __file__, self.address]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(
        self, *command: str, environment: Mapping[str, str], cwd: Path | None = None, timeout: int = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python *command``: a script, or ``-m`` and a module. After the timeout, in seconds, it is killed."""
        request = {"command": command, "environment": dict(environment), "cwd": str(cwd or Path.cwd())}
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            with socket.socket(socket.AF_UNIX) as connection:
                self._connect(connection)
                content = json.dumps(request | {"timeout": timeout}).encode()
                socket.send_fds(connection, [len(content).to_bytes(4, "big")], [out.fileno(), err.fileno()])
                connection.sendall(content)
                status = int(connection.makefile().read())
            out.seek(0)
            err.seek(0)
            if status == -signal.SIGALRM:
                raise subprocess.TimeoutExpired(command, timeout, out.read(), err.read())
            return subprocess.CompletedProcess([sys.executable, *command], status, out.read(), err.read())

    def _connect(self, connection: socket.socket) -> None:
        assert self.process.stdout
        if not Path(self.address).exists():
            self.process.stdout.readline()
        connection.connect(self.address)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Scripts]:
    """Start the process that forks, and end it."""
    scripts = Scripts(folder)
    with scripts.process:
        yield scripts
        scripts.process.terminate()


def _wait_for_command(listening: socket.socket) -> list[str]:
    """Fork for each connection; return the command in the fork that is to run it."""
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            break
        connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    listening.close()
    size, files, *_ = socket.recv_fds(connection, 4, 2)
    content = b""
    while len(content) < int.from_bytes(size, "big"):
        content += connection.recv(1 << 20)
    request = json.loads(content)
    if child := os.fork():
        connection.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
        os._exit(0)
    connection.close()
    for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), *files)):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    signal.alarm(request["timeout"])
    return list(request["command"])


def _run(command: list[str]) -> int:
    """Run a command as Python would; return its exit status."""
    # What was read from the environment of the process that was forked.
    tempfile.tempdir = None
    sys.modules["prefect.context"].refresh_global_settings_context()
    sys.modules["prefect.logging.configuration"].setup_logging(incremental=False)
    # A run waits a second for the end of the thread that sends them.
    sys.modules["prefect.flow_engine"]._send_heartbeats = contextlib.nullcontext
    is_module = command[0] == "-m"
    sys.argv = command[is_module:]
    folder = Path.cwd() if is_module else Path(command[0]).parent
    sys.path[:1] = [str(folder), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    try:
        if is_module:
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001  the hook shows it
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(sys.argv[1])
        listening.listen(WAITING)
        sys.stdout.write("\n")
        sys.stdout.flush()
        command = _wait_for_command(listening)
    status = _run(command)
    # As the interpreter ends, except for its last step: freeing all that was imported takes a second.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
