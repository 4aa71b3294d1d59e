"""The data lake: object keys, and months that appear in it whole or not at all.

A month's objects are staged where no reader looks, then published: the old manifest goes, the
objects take their keys, strays of the old month go, the new manifest comes last. Whoever finds a
manifest finds the files it names; a run that dies on the way leaves the old month or none.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from nyc_tlc.errors import ConflictError
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.months import Color, Month


class StagedFile(io.BufferedIOBase):
    """A sink that counts and digests what passes through.

    Attributes:
        bytes: What was written so far.
        sha256: Its digest, once closed.
    """

    def __init__(self, sink: BinaryIO) -> None:
        """Wrap a sink; closing closes it."""
        self._sink, self._digest, self.bytes, self.sha256 = sink, hashlib.sha256(), 0, ""
        self._abandoned = False

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: object) -> int:
        """Write all of ``data``."""
        view = memoryview(data)  # type: ignore[arg-type]
        if self._abandoned:
            return view.nbytes
        self._sink.write(view)
        self._digest.update(view)
        self.bytes += view.nbytes
        return view.nbytes

    def abandon(self) -> None:
        """Let what is still written go nowhere: the file has failed, but its writer has to be closed."""
        self._abandoned = True

    def close(self) -> None:
        """Close the sink."""
        if not self.closed:
            self._sink.close()
            self.sha256 = self._digest.hexdigest()
            super().close()


class Staging(Protocol):
    """A month's objects on their way into a lake.

    Attributes:
        token: Names it; ``staging()`` finds it again in this process.
    """

    token: str

    def create(self, key: str) -> AbstractContextManager[StagedFile]:
        """Open an object for writing. It is staged when the block ends, and gone when it fails.

        Raises:
            LakeError: when the lake can't be written.
        """

    def publish(self, manifest: Manifest) -> None:
        """Make the staged objects and the manifest the month, replacing what was there.

        Raises:
            ConflictError: when another run published the month since this one began.
            LakeError: when the lake can't be written.
        """

    def discard(self) -> None:
        """Drop what was staged."""


class Lake(Protocol):
    """Where months are kept."""

    def url(self, key: str) -> str:
        """Where an object is, for people."""

    def manifest(self, keys: Keys) -> Manifest | None:
        """The month's manifest, None when the lake doesn't have the month."""

    def size(self, key: str) -> int | None:
        """An object's size in bytes, None when there is none."""

    def local_path(self, key: str) -> Path | None:
        """Where an object is on this machine, None when it is elsewhere."""

    def open(self, key: str) -> BinaryIO:
        """An object for reading, with ``seek``: what is asked for is read, not the whole.

        Raises:
            LakeError: when there is none.
        """

    def months(self, color: Color) -> list[Month]:
        """The months of a colour the lake has, oldest first."""

    def read(self, key: str) -> bytes | None:
        """A small object's content, None when there is none."""

    def write(self, key: str, content: bytes) -> None:
        """Write a small object, whole or not at all."""

    def remove(self, key: str) -> None:
        """Delete an object; one that is gone is gone."""

    def stage(self, keys: Keys, labels: Mapping[str, str]) -> Staging:
        """Begin a month.

        Args:
            keys: The month.
            labels: What its objects say of themselves, where the lake has a place for that.
        """


_begun: dict[str, Staging] = {}


def begin(staging: Staging) -> None:
    """Remember a staging, so that the next task finds it by its token."""
    _begun[staging.token] = staging


def staging(token: str) -> Staging:
    """A month begun earlier in this process."""
    return _begun[token]


def end(token: str) -> None:
    """Forget a staging that was published or discarded."""
    _begun.pop(token, None)


def conflict(keys: Keys) -> ConflictError:
    """Two runs made the same month at once, and this one came second."""
    return ConflictError(
        f"{keys.name}: another run published it while this one was at work",
        fix="run it again, if it should be made once more",
    )
