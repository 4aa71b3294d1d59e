"""Makes a month in a folder lake and dies of SIGKILL at the Nth change of the file system there.

Run as ``python die_at.py LAKE SOURCE N``; with N = 0 it lives and prints how many changes there were.
Python's audit events tell of each change before it is made, so nothing of the library is replaced.
"""

import os
import signal
import sys
from pathlib import Path

from factories import make_month
from nyc_tlc.lake.folder import FolderLake

CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}


def main() -> None:
    """See the module."""
    root, source, die_at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
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
    sys.stdout.write(f"{changes}\n")


if __name__ == "__main__":
    main()
