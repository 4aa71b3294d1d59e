"""The Prefect server of one script, which ends with the script, even a killed one.

Prefect can start such a server too, but in the script's process group, where Ctrl-C ends it before the run, and for
every page that is open in the same person's browser.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
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

MIGRATIONS = Path(prefect.__file__).parent / "server/database/_migrations/versions/sqlite"
#: Seconds that a server may take to start; the first one makes its database.
STARTUP = 180
#: The server's program. Its argument is a socket; its standard input is a pipe from the script, which ends with it.
SERVER = """
import gc, os, signal, sys, threading, uvicorn
threading.Thread(target=lambda: (os.read(0, 1), os.kill(os.getpid(), signal.SIGTERM)), daemon=True).start()
gc.set_threshold(100_000)
uvicorn.run("prefect.server.api.server:create_app", factory=True, fd=int(sys.argv[1]), log_level="error", lifespan="on")
"""


def start_server() -> None:
    """Start a server that ends with this process, and let Prefect use it from here on.

    Raises:
        TlcError: when the server does not start.
    """
    prepare_home()
    password = f"script:{secrets.token_urlsafe(24)}"
    # The server inherits a socket that already listens, so the first request waits until it answers.
    with tempfile.TemporaryFile() as errors:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
            settings = {
                "PREFECT__SERVER_EPHEMERAL": "1",
                "PREFECT__SERVER_FINAL": "1",
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                "PREFECT_SERVER_API_AUTH_STRING": password,
                "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": url.removesuffix("/api"),
                "PREFECT_SERVER_UI_ENABLED": "false",
            }
            process = subprocess.Popen(  # noqa: S603  our own command
                [sys.executable, "-c", SERVER, str(listening.fileno())],
                env=os.environ | get_current_settings().to_environment_variables(exclude_unset=True) | settings,
                pass_fds=[listening.fileno()],
                stdin=subprocess.PIPE,
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
        known = "".join(path.read_text() for path in MIGRATIONS.glob("*.py"))
        if not all(revision in known for revision in revisions):
            raise ConfigurationError(
                f"{database} is of a newer Prefect than {prefect.__version__}",
                fix=f"use another folder: PREFECT_HOME={home}-{prefect.__version__}",
            )


def _stop(process: subprocess.Popen[bytes], patience: float = 5) -> None:
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
