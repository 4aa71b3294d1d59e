"""The servers that runs without a server start for themselves."""

from __future__ import annotations

import contextlib

import psutil

from nyc_tlc.runs.temporary_server import SERVER


def find_temporary_servers(home: str) -> list[int]:
    """Return the ids of the temporary servers that run with a PREFECT_HOME."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if SERVER in process.cmdline() and process.environ().get("PREFECT_HOME") == home:
                found.append(process.pid)
    return found
