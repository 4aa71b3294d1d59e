"""What a data lake is: a place for objects, with one conditional write. The modules named after stores have them.

Everything else about a month (its manifest, its publication, what is removed) is written once, over these methods.
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from pydantic import ValidationError

from nyc_tlc.errors import ArgumentError, LakeError, ReconciliationError, SourceError
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.months import Color, Month

log = logging.getLogger(__name__)

_CONTENT_TYPES = {
    ".parquet": "application/vnd.apache.parquet",
    ".json": "application/json",
    ".gz": "application/gzip",
    ".csv": "text/csv",
}


def content_type(key: str) -> str:
    """The media type that a store is given with an object."""
    return _CONTENT_TYPES.get(PurePosixPath(key).suffix, "application/octet-stream")


class SwapRefusedError(Exception):
    """An object is not in the version that a conditional write expected."""


@dataclass(frozen=True)
class ManifestFound:
    """A month's manifest as it stands in the lake.

    Attributes:
        content: Its bytes; None when the lake doesn't have the month.
        version: What tells this writing of it from another; None when there is none.
    """

    content: bytes | None
    version: str | None


@dataclass(frozen=True)
class NewFile:
    """A file on this machine that is to be an object of a lake.

    Attributes:
        key: Its key there.
        path: Where it is now.
        size: Its bytes.
        sha256: Its digest.
    """

    key: str
    path: Path
    size: int
    sha256: str

    def pieces(self) -> Iterator[bytes]:
        """Its bytes, a mebibyte at a time.

        Raises:
            SourceError: at the end, when they are not those of the digest.
        """
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
                yield piece
        if digest.hexdigest() != self.sha256:
            raise SourceError(f"{self.path} changed while it was read", fix="nothing was published; run it again")


class Upload(Protocol):
    """A file on its way into a lake, complete but for the step that makes it an object."""

    def is_there(self) -> bool:
        """Whether the object of that key has these bytes already."""

    def finish(self) -> None:
        """Make it an object, replacing what is there.

        Raises:
            LakeError: when it can't be.
        """

    def abort(self) -> None:
        """Give it up: what was sent never becomes an object. Harmless after ``finish``."""


class Lake(ABC):
    """Where months are kept."""

    @abstractmethod
    def url(self, key: str) -> str:
        """Where an object is, for people."""

    @abstractmethod
    def local_path(self, key: str) -> Path | None:
        """Where an object is on this machine, None when it is elsewhere."""

    @abstractmethod
    def size(self, key: str) -> int | None:
        """An object's size in bytes, None when there is none."""

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """An object for reading, with ``seek``: what is asked for is read, not the whole.

        Raises:
            LakeError: when there is none.
        """

    @abstractmethod
    def read_version(self, key: str) -> tuple[bytes, str] | None:
        """A small object's content and version, None when there is none."""

    @abstractmethod
    def write(self, key: str, content: bytes) -> None:
        """Write a small object, whole or not at all, whatever is there."""

    @abstractmethod
    def swap(self, key: str, content: bytes, expected: str | None, labels: Mapping[str, str]) -> None:
        """Write a small object if what is there is of the expected version, in one step.

        Args:
            key: Its key.
            content: Its bytes.
            expected: The version that must be there; None when there must be none.
            labels: What the object says of itself, where the lake has a place for that.

        Raises:
            SwapRefusedError: when another version is there.
            TransientError: when no answer came: it may have been written or not.
        """

    @abstractmethod
    def list_objects(self, prefix: str) -> dict[str, str]:
        """The objects whose keys begin with a prefix, and their versions."""

    @abstractmethod
    def remove(self, key: str, version: str | None = None) -> None:
        """Delete an object; with a version, only that one. What is gone is gone."""

    @abstractmethod
    def upload(self, file: NewFile, labels: Mapping[str, str]) -> Upload:
        """Send a file up to the step that makes it an object.

        Args:
            file: The file.
            labels: What the object says of itself, where the lake has a place for that.

        Raises:
            SourceError: when the file has changed.
            LakeError: when the lake can't be written.
        """

    def read(self, key: str) -> bytes | None:
        """A small object's content, None when there is none."""
        found = self.read_version(key)
        return found[0] if found else None

    def digest(self, key: str) -> str | None:
        """The SHA-256 of an object, None when there is none. All of it is read."""
        if self.size(key) is None:
            return None
        digest = hashlib.sha256()
        with self.open(key) as file:
            while piece := file.read(1 << 23):
                digest.update(piece)
        return digest.hexdigest()

    def find_manifest(self, keys: Keys) -> ManifestFound:
        """A month's manifest as it stands, whether it can be read or not."""
        return ManifestFound(*(self.read_version(keys.manifest) or (None, None)))

    def manifest(self, keys: Keys) -> Manifest | None:
        """The month's manifest, None when the lake doesn't have the month.

        Raises:
            LakeError: when it can't be read.
        """
        content = self.find_manifest(keys).content
        return None if content is None else self.parse(content, keys)

    def parse(self, content: bytes, keys: Keys) -> Manifest:
        """Read a manifest's bytes.

        Raises:
            LakeError: when they are no manifest that this version knows.
        """
        try:
            return Manifest.model_validate_json(content)
        except (ValidationError, ReconciliationError) as error:
            why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.what
            raise LakeError(
                f"{keys.name}: the manifest {self.url(keys.manifest)} can't be read",
                got=f"{len(content):,} bytes: {why}",
                fix="make the month again: it will be replaced",
            ) from None

    def months(self, color: Color) -> list[Month]:
        """The months of a colour the lake has, oldest first. What has no month's name is passed over."""
        months = []
        for key in self.list_objects(f"manifest/{color}/"):
            name = key.rpartition("/")[2]
            if name.startswith("."):
                continue  # a draft
            try:
                months.append(Month.parse(name.removesuffix(".json")))
            except ArgumentError:
                log.warning("%s: %s is not a month's manifest", color, self.url(key))
        return sorted(months)
