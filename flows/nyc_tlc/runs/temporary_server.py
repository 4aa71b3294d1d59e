"""The Prefect server of one script. A killed script leaves it running; the next script ends it.

Prefect can start such a server too, but in the script's process group, where Ctrl-C ends it before the run, and for
every page that is open in the same person's browser.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import prefect
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_URL,
    PREFECT_HOME,
    get_current_settings,
    temporary_settings,
)

from nyc_tlc.errors import ConfigurationError, TlcError
from nyc_tlc.runs.interruption import at_end

log = logging.getLogger(__name__)

#: The environment variable of a server's process that has the process id of its script.
MARK = "NYC_TLC_SERVER_OF"
PROCESSES = Path("/proc")
MIGRATIONS = Path(prefect.__file__).parent / "server/database/_migrations/versions/sqlite"
#: Seconds that a server may take to start; the first one makes its database.
STARTUP = 180


def start_server() -> None:
    """Start a server that ends with this process, and let Prefect use it from here on.

    Raises:
        TlcError: when the server does not start.
    """
    end_orphaned_servers()
    prepare_home()
    password = f"script:{secrets.token_urlsafe(24)}"
    # The server inherits a socket that already listens, so the first request waits until it answers.
    with tempfile.TemporaryFile() as errors:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
            process = subprocess.Popen(  # noqa: S603  our own command
                [
                    *(sys.executable, "-m", "uvicorn", "--app-dir", str(prefect.__module_path__.parent), "--factory"),
                    *("prefect.server.api.server:create_app", "--fd", str(listening.fileno())),
                    *("--log-level", "error", "--lifespan", "on"),
                ],
                env=_environment(password, url),
                pass_fds=[listening.fileno()],
                stdout=errors,
                stderr=errors,
                # A terminal's Ctrl-C is for the script, which needs the server to end its run.
                start_new_session=True,
                umask=0o077,
            )
        atexit.register(_stop, process)
        at_end.append(lambda: _stop(process, patience=1))
        try:
            httpx.get(f"{url}/health", timeout=STARTUP, trust_env=False).raise_for_status()
        except httpx.HTTPError as error:
            _stop(process)
            errors.seek(0)
            lines = [line for line in errors.read().decode(errors="replace").splitlines() if "Error" in line]
            raise TlcError("the Prefect server of this run did not start", got=[str(error), *lines][-1]) from None
    stack = contextlib.ExitStack()
    stack.enter_context(temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: password}))
    atexit.register(stack.close)


def prepare_home() -> None:
    """Let no other user read Prefect's folder, because its database has the blocks and the key to them.

    Raises:
        ConfigurationError: when the database is of a newer Prefect; a server would print hundreds of lines.
    """
    home = PREFECT_HOME.value()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):  # another user's
        home.chmod(0o700)
    database = home / "prefect.db"
    if not database.is_file() or not PREFECT_API_DATABASE_CONNECTION_URL.value().endswith(str(database)):
        return
    with contextlib.closing(sqlite3.connect(database)) as connection, contextlib.suppress(sqlite3.Error):
        revisions = [str(row[0]) for row in connection.execute("SELECT version_num FROM alembic_version")]
        known = [path.read_text() for path in MIGRATIONS.glob("*.py")]
        if not all(any(revision in migration for migration in known) for revision in revisions):
            raise ConfigurationError(
                f"{database} is of a newer Prefect than {prefect.__version__}",
                fix=f"use another folder: PREFECT_HOME={home}-{prefect.__version__}",
            )


def end_orphaned_servers() -> int:
    """End the servers whose scripts no longer run. Works only on Linux, because it needs ``/proc``.

    Returns:
        The number of servers.
    """
    orphans = [process for process in PROCESSES.glob("[0-9]*") if _is_orphaned_server(process)]
    for process in orphans:
        log.info("ending the Prefect server of a script that was killed (process %s)", process.name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process.name), signal.SIGTERM)
    return len(orphans)


def _environment(password: str, url: str) -> dict[str, str]:
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    return (
        os.environ
        | settings
        | {
            MARK: str(os.getpid()),
            "PREFECT__SERVER_EPHEMERAL": "1",
            "PREFECT__SERVER_FINAL": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_API_AUTH_STRING": password,
            "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": url.removesuffix("/api"),
            "PREFECT_SERVER_UI_ENABLED": "false",
        }
    )


def _stop(process: subprocess.Popen[bytes], patience: float = 5) -> None:
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _is_orphaned_server(process: Path) -> bool:
    try:
        environment = (process / "environ").read_bytes().split(b"\0")
        command = (process / "cmdline").read_bytes()
    except OSError:
        return False  # it has ended, or is another user's
    marks = [value for value in environment if value.startswith(f"{MARK}=".encode())]
    if not marks or b"prefect.server.api.server" not in command:
        return False
    return not (PROCESSES / marks[0].decode().partition("=")[2]).exists()
