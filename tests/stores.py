"""The lakes' stores as tests see them: their objects, and a run that can be stopped at each of its steps."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from nyc_tlc.lake.azure import AzureLake
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.gcs import GcsLake
from nyc_tlc.lake.s3 import S3Lake
from nyc_tlc.lake.store import Lake
from stand_ins.azure import Azure
from stand_ins.gcs import Gcs
from stand_ins.s3 import S3

#: The folder in a bucket that is the lake's root.
FOLDER = "some/folder"


class FolderStore:
    """A folder, in which one thread can be stopped at each change."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open_lake(self, *, held: bool = False) -> Lake:
        """Open the lake, as another process would."""
        return FolderLake(self.root)

    def objects(self) -> set[str]:
        """Return the keys of all objects."""
        return {path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file()}

    def read(self, key: str) -> bytes:
        """Return an object's bytes."""
        return (self.root / key).read_bytes()

    @contextmanager
    def stopping(self, at: int, do: Callable[[], None]) -> Iterator[list[int]]:
        """Call ``do`` before change number ``at``. Yield a list with one number: the count of changes."""
        steps = [0]
        held = _held.set(_FolderHook(self.root, at, do, steps))
        try:
            yield steps
        finally:
            _held.reset(held)


class _FolderHook:
    """A hook for Python's audit events. They report each change before it is made, so nothing is patched."""

    CHANGES: ClassVar = {"open", "os.mkdir", "os.link", "os.rename", "os.remove", "os.rmdir"}

    def __init__(self, root: Path, at: int, do: Callable[[], None], steps: list[int]) -> None:
        self.root, self.at, self.do, self.steps = str(root), at, do, steps
        self._counting = threading.Lock()

    def __call__(self, event: str, details: tuple[object, ...]) -> None:
        if event not in self.CHANGES or not any(str(detail).startswith(self.root) for detail in details[:2]):
            return
        if event == "open" and "r" in str(details[1] or "r"):
            return
        with self._counting:
            self.steps[0] += 1
            is_stop = self.steps[0] == self.at
        if is_stop and not self._is_locked():
            # The other run works in a thread of its own, which has another context, so its changes are not counted.
            other = threading.Thread(target=self.do)
            other.start()
            other.join(60)

    def _is_locked(self) -> bool:
        """Return whether this run holds the lake's lock: then the other run would wait, and can't be tested here."""
        if not Path(self.root).exists():
            return False
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


#: The hook of the held run. The threads of its uploads have a copy of its context.
_held: ContextVar[_FolderHook | None] = ContextVar("held", default=None)


def _audit(event: str, details: tuple[object, ...]) -> None:
    if hook := _held.get():
        hook(event, details)


sys.addaudithook(_audit)


class BucketStore:
    """A stand-in of a store of objects, of which one client can be stopped at each request.

    Attributes:
        stand_in: The stand-in, with the requests it got and the faults still to come.
    """

    def __init__(self, stand_in: Gcs | S3 | Azure) -> None:
        self.stand_in = stand_in

    def open_lake(self, *, held: bool = False) -> Lake:
        """Open the lake, as another process would; the requests of the held run are marked."""
        if isinstance(self.stand_in, S3):
            return S3Lake(self.stand_in.client(held=held), self.stand_in.bucket, FOLDER)
        if isinstance(self.stand_in, Azure):
            return AzureLake(self.stand_in.client(held=held), FOLDER)
        client = storage.Client(
            "test",
            AnonymousCredentials(),
            client_options={"api_endpoint": self.stand_in.url},
            extra_headers={"X-Held": "yes"} if held else {},
        )
        return GcsLake(client.bucket("taxi-lake"), FOLDER)

    def objects(self) -> set[str]:
        """Return the keys of all objects."""
        names = self.stand_in.names("taxi-lake") if isinstance(self.stand_in, Gcs) else self.stand_in.names()
        assert all(name.startswith(f"{FOLDER}/") for name in names)
        return {name.removeprefix(f"{FOLDER}/") for name in names}

    def read(self, key: str) -> bytes:
        """Return an object's bytes."""
        name = f"{FOLDER}/{key}"
        return self.stand_in.read("taxi-lake", name) if isinstance(self.stand_in, Gcs) else self.stand_in.read(name)

    @contextmanager
    def stopping(self, at: int, do: Callable[[], None]) -> Iterator[list[int]]:
        """Call ``do`` before the held run's request number ``at`` takes effect; after it if the number is negative.

        Yields:
            A list with one number: the count of the held run's requests.
        """
        steps, counting, stop_after = [0], threading.Lock(), []

        def is_held(request: Any) -> bool:
            return bool(request.headers.get("X-Held")) if isinstance(self.stand_in, Gcs) else True

        def count(request: Any) -> None:
            if is_held(request):
                with counting:
                    steps[0] += 1
                    is_stop = steps[0] == abs(at)
                if is_stop and at > 0:
                    do()
                elif is_stop:
                    stop_after.append(request)

        def answer(request: Any) -> None:
            if any(request is each for each in stop_after):
                do()

        self.stand_in.before, self.stand_in.after = count, answer
        try:
            yield steps
        finally:
            self.stand_in.before = self.stand_in.after = lambda _: None


Store = FolderStore | BucketStore


def open_store(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return the store with a name: ``folder``, or the fixture of a stand-in."""
    return FolderStore(tmp_path / "lake") if name == "folder" else BucketStore(request.getfixturevalue(name))
