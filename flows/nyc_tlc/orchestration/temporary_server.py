"""The Prefect server that Prefect starts for one script. A killed script leaves it running; the next script ends it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from pathlib import Path

from prefect.settings import PREFECT_SERVER_ANALYTICS_ENABLED, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

log = logging.getLogger(__name__)

#: Wait longer for the server to start, and send no analytics to Prefect.
TEMPORARY_SERVER = {
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 180,
    PREFECT_SERVER_ANALYTICS_ENABLED: False,
}

#: The environment variable of a server's process that has the process id of its script.
MARK = "NYC_TLC_SERVER_OF"
PROCESSES = Path("/proc")


def mark_server() -> None:
    """Set the variable to this process's id; the server that Prefect starts inherits it."""
    os.environ[MARK] = str(os.getpid())


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
