"""Folders that belong to one running process, and locks that end with it. Made for POSIX file systems."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

#: A file in each folder that is ours to remove.
MARK = ".nyc-tlc-workspace"
_NAME = re.compile(r"run-[0-9a-f]{12}")


class Workspace:
    """A new folder, this process's own until it is removed or the process ends.

    A killed process can't clear up after itself, so whoever makes the next workspace in the same place does. A folder
    is abandoned when it has a workspace's name and mark, and nobody holds its lock. The lock is on the folder itself.

    Attributes:
        path: The folder.
    """

    def __init__(self, parent: Path) -> None:
        """Make a folder in ``parent`` and remove the abandoned ones there.

        Raises:
            OSError: when the folder can't be made.
        """
        self._parent = parent
        while True:
            parent.mkdir(parents=True, exist_ok=True)
            # Another process may remove the parent it left empty in this very moment.
            with contextlib.suppress(FileNotFoundError), exclusive(parent):
                for sibling in parent.iterdir():
                    _remove_if_abandoned(sibling)
                self.path = parent / f"run-{uuid.uuid4().hex[:12]}"
                self.path.mkdir()
                self.path.joinpath(MARK).touch()
                self._lock = _lock(self.path)
                return

    def remove(self, *, up_to: Path) -> None:
        """Remove the folder, and those it is in as far as they are empty.

        Args:
            up_to: The folder to stop at.
        """
        _remove(self.path)
        os.close(self._lock)
        remove_empty(self._parent, up_to)


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; others that want it wait."""
    lock = _lock(folder)
    try:
        yield
    finally:
        os.close(lock)


def remove_empty(folder: Path, up_to: Path) -> None:
    """Remove a folder and those it is in, as far as they are empty, up to but not including ``up_to``."""
    while folder != up_to:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def sync(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, outlast a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _remove(folder: Path) -> None:
    """Remove a workspace, its mark last: killed on the way, it still is one that the next process removes."""
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child, ignore_errors=True)
        elif child.name != MARK:
            child.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _remove_if_abandoned(folder: Path) -> None:
    if not _NAME.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        if (folder / MARK).is_file():
            _remove(folder)
        else:
            # Killed before it had its mark: empty, or someone else's.
            with contextlib.suppress(OSError):
                folder.rmdir()
    finally:
        os.close(descriptor)
