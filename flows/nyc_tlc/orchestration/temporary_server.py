"""The Prefect server that is started for one script. A killed script leaves it running; the next script ends it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from pathlib import Path

from prefect.settings import PREFECT_SERVER_ANALYTICS_ENABLED, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

log = logging.getLogger(__name__)

#: Patience while it starts, and no calls home.
TEMPORARY_SERVER = {
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 180,
    PREFECT_SERVER_ANALYTICS_ENABLED: False,
}

#: The variable by which a server's process says which script it was started for.
MARK = "NYC_TLC_SERVER_OF"
PROCESSES = Path("/proc")


def mark_server() -> None:
    """Let the server that Prefect starts for this process carry its number."""
    os.environ[MARK] = str(os.getpid())


def end_orphaned_servers() -> int:
    """End the servers of scripts that are gone. Only Linux tells of processes what this needs.

    Returns:
        How many there were.
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
        return False  # gone, or another user's
    marks = [value for value in environment if value.startswith(f"{MARK}=".encode())]
    if not marks or b"prefect.server.api.server" not in command:
        return False
    return not (PROCESSES / marks[0].decode().partition("=")[2]).exists()
