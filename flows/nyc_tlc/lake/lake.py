"""The interface of a data lake: objects, and one conditional write. The modules named after stores implement it.

Manifests, publication and removal of files use only these methods, so they are the same for every store.
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
    """Return an object's media type."""
    return _CONTENT_TYPES.get(PurePosixPath(key).suffix, "application/octet-stream")


class SwapRefusedError(Exception):
    """A conditional write found another version of the object than it expected."""


@dataclass(frozen=True)
class ManifestFound:
    """A month's manifest as found in the lake, not parsed.

    Attributes:
        content: Its bytes; None when the lake does not have the month.
        version: The object's version, which changes with each write; None when the lake does not have the month.
    """

    content: bytes | None
    version: str | None


@dataclass(frozen=True)
class NewFile:
    """A file on this machine that will be an object of a lake.

    Attributes:
        key: The object's key.
        path: The file's path.
        size: Its size in bytes.
        sha256: Its digest.
        temporary: Whether this run made the file and will only delete it, so that a lake may link it instead of
            copying it.
    """

    key: str
    path: Path
    size: int
    sha256: str
    temporary: bool = False

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes, one MiB at a time.

        Raises:
            SourceError: after the last byte, when the bytes do not have the digest.
        """
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
                yield piece
        if digest.hexdigest() != self.sha256:
            raise SourceError(f"{self.path} changed while it was read", fix="nothing was published; run it again")


class Upload(Protocol):
    """A file that was sent to a lake; one step is left that makes it an object."""

    def is_there(self) -> bool:
        """Return whether the object with this key has these bytes already."""

    def finish(self) -> None:
        """Do the last step: the file becomes the object, and replaces an existing one.

        Raises:
            LakeError: when the lake can't be written.
        """

    def abort(self) -> None:
        """Cancel the upload: the file never becomes an object. Has no effect after ``finish``."""


class Lake(ABC):
    """A store of months: objects by their keys."""

    @abstractmethod
    def url(self, key: str) -> str:
        """Return an object's URL or path, for messages."""

    @abstractmethod
    def local_path(self, key: str) -> Path | None:
        """Return an object's path on this machine; None if the lake is not on this machine."""

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Return an object's size in bytes; None if it does not exist."""

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """Open an object for reading, with ``seek``. Only the ranges that are read are transferred.

        Raises:
            LakeError: when it does not exist.
        """

    @abstractmethod
    def read_version(self, key: str) -> tuple[bytes, str] | None:
        """Read a small object. Return its content and version; None if it does not exist."""

    @abstractmethod
    def write(self, key: str, content: bytes) -> None:
        """Write a small object atomically; replace an existing one."""

    @abstractmethod
    def swap(self, key: str, content: bytes, expected: str | None, labels: Mapping[str, str]) -> None:
        """Write a small object if its version is the expected one. Comparing and writing are one atomic step.

        Args:
            key: Its key.
            content: Its bytes.
            expected: The version to replace; None if the object must not exist.
            labels: The object's metadata, in stores that have metadata.

        Raises:
            SwapRefusedError: when the object has another version.
            TransientError: when the lake did not answer; the object may or may not have been written.
        """

    @abstractmethod
    def list_objects(self, prefix: str) -> dict[str, str]:
        """Return the keys that start with a prefix, and their versions."""

    @abstractmethod
    def remove(self, key: str, version: str | None = None) -> None:
        """Delete an object; with a version, only if the object has it. A missing object is no error."""

    @abstractmethod
    def upload(self, file: NewFile, labels: Mapping[str, str]) -> Upload:
        """Send a file, except for the last step, which makes it an object.

        Args:
            file: The file.
            labels: The object's metadata, in stores that have metadata.

        Raises:
            SourceError: when the file has changed.
            LakeError: when the lake can't be written.
        """

    def read(self, key: str) -> bytes | None:
        """Return a small object's content; None if it does not exist."""
        found = self.read_version(key)
        return found[0] if found else None

    def digest(self, key: str) -> str | None:
        """Read a whole object and return its SHA-256; None if it does not exist."""
        if self.size(key) is None:
            return None
        digest = hashlib.sha256()
        with self.open(key) as file:
            while piece := file.read(1 << 23):
                digest.update(piece)
        return digest.hexdigest()

    def find_manifest(self, keys: Keys) -> ManifestFound:
        """Return a month's manifest without parsing it."""
        return ManifestFound(*(self.read_version(keys.manifest) or (None, None)))

    def manifest(self, keys: Keys) -> Manifest | None:
        """Return the month's manifest; None if the lake does not have the month.

        Raises:
            LakeError: when the manifest can't be parsed.
        """
        content = self.find_manifest(keys).content
        return None if content is None else self.parse(content, keys)

    def parse(self, content: bytes, keys: Keys) -> Manifest:
        """Parse a manifest's bytes.

        Raises:
            LakeError: when they are not a valid manifest.
        """
        try:
            return Manifest.model_validate_json(content)
        except (ValidationError, ReconciliationError) as error:
            why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.what
            raise LakeError(
                f"{keys.name}: the manifest {self.url(keys.manifest)} can't be read",
                got=f"{len(content):,} bytes: {why}",
                fix="make the month again: that replaces the manifest",
            ) from None

    def months(self, color: Color) -> list[Month]:
        """Return the months of a colour in the lake, oldest first. Files with other names are skipped."""
        months = []
        for key in self.list_objects(f"manifest/{color}/"):
            name = key.rpartition("/")[2]
            if name.startswith("."):
                continue  # the draft of a manifest
            try:
                months.append(Month.parse(name.removesuffix(".json")))
            except ArgumentError:
                log.warning("%s: %s is not a month's manifest; skipped", color, self.url(key))
        return sorted(months)
