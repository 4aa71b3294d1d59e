"""Folders that belong to one running process, and locks that end with the process. For POSIX file systems."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

#: Seconds to wait for a lock: others hold one for as long as a file takes to be renamed or removed.
LOCK_SECONDS = 60.0
FOLDER_NAME = re.compile(r"run-[0-9a-f]{12}")
_WORKSPACES: set[Path] = set()


@contextlib.contextmanager
def workspace(parent: Path) -> Iterator[Path]:
    """Create a folder that only this process uses, and remove it at the end; remove the abandoned ones in ``parent``.

    A killed process can't remove its folder, so the next process that creates a workspace in the same place does. A
    folder is abandoned if it has a workspace's name and nobody holds the lock that is on it.

    Raises:
        OSError: when the folder can't be created.
    """
    parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(parent)
    # Whoever can open the folder can hold its lock for ever.
    parent.chmod(0o700)
    with exclusive(parent):
        path = parent / f"run-{uuid.uuid4().hex[:12]}"
        path.mkdir()
        lock = _lock(path)
        _WORKSPACES.add(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        _WORKSPACES.discard(path)
        os.close(lock)


def remove_abandoned(parent: Path) -> None:
    """Remove the workspaces in a folder whose processes have ended."""
    with contextlib.suppress(FileNotFoundError), exclusive(parent):
        for folder in parent.iterdir():
            if FOLDER_NAME.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
                _remove_if_abandoned(folder)


def remove_workspaces() -> None:
    """Remove the folders of all workspaces of this process, which is about to end."""
    for path in list(_WORKSPACES):
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; other processes wait for it.

    Raises:
        TimeoutError: when another process holds it for longer than LOCK_SECONDS.
    """
    lock = _lock(folder)
    try:
        yield
    finally:
        os.close(lock)


def sync(path: Path) -> None:
    """Write a file's bytes, or the names in a folder, to the disk, so that a power failure can't lose them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY)
    began, warned = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = time.monotonic() - began
            if waited > LOCK_SECONDS:
                os.close(descriptor)
                raise TimeoutError(errno.ETIMEDOUT, "another process keeps it locked", str(folder)) from None
            if waited > 1 and not warned:
                log.warning("waiting for another process to unlock %s", folder)
                warned = True
            time.sleep(0.01)
        else:
            return descriptor


def _remove_if_abandoned(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    # Its process holds the lock.
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    os.close(descriptor)
