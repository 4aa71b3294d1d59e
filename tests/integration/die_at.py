"""Make a month in a folder lake, and die by SIGKILL at the Nth change of the file system there.

Python's audit events report each change before it is made, so no part of the library is patched.
"""

import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from factories import make_month
from nyc_tlc.lake.folder import FolderLake

CHANGES = {"open", "os.mkdir", "os.link", "os.rename", "os.remove", "os.rmdir"}


def make_month_and_die(root: Path, source: Path, die_at: int, results: Connection) -> None:
    """Make the month of ``source`` in the lake at ``root``; with 0 survive, and send the number of changes."""
    changes = 0

    def count(event: str, details: tuple[object, ...]) -> None:
        nonlocal changes
        if event not in CHANGES or not str(details[0]).startswith(str(root)):
            return
        if event == "open" and "r" in str(details[1] or "r"):
            return
        changes += 1
        if changes == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    body, lake = source.read_bytes(), FolderLake(root)
    sys.addaudithook(count)
    make_month(lake, body, source.parent, layout="day")
    results.send(changes)
