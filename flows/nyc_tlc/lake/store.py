"""The interface of a data lake: objects, and one conditional write. The modules named after stores implement it.

Manifests, publication and removal of files use only these methods, so they are the same for every store.
"""

from __future__ import annotations

import hashlib
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from pydantic import ValidationError

from nyc_tlc.errors import ArgumentError, LakeError, ReconciliationError
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import FileRecord, Manifest
from nyc_tlc.month import Color, Month
from nyc_tlc.shown import shown

log = logging.getLogger(__name__)

#: Bytes of one request for an object that is read from its start to its end.
CHUNK_BYTES = 8 << 20
#: Small files read in parallel: a bucket needs some 50 milliseconds for each.
PARALLEL_READS = 16

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


class Found(NamedTuple):
    """A small object's content, and its version, which changes with each write; both None if it does not exist."""

    content: bytes | None = None
    version: str | None = None


class Lake(ABC):
    """A store of months: objects by their keys. All methods raise ``LakeError`` when the store can't be used."""

    @abstractmethod
    def url(self, key: str) -> str:
        """Return an object's URL or path, for messages."""

    def local_path(self, key: str) -> Path | None:
        """Return an object's path on this machine; None if the lake is not on this machine."""
        return None

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Return an object's size in bytes; None if it does not exist."""

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """Open an existing object for reading, with ``seek``. Only the ranges that are read are transferred."""

    @abstractmethod
    def find(self, key: str) -> Found:
        """Read a small object."""

    @abstractmethod
    def write(self, key: str, content: bytes) -> None:
        """Write a small object atomically; replace an existing one."""

    @abstractmethod
    def swap(self, key: str, content: bytes, expected: str | None, labels: Mapping[str, str]) -> None:
        """Write a small object if its version is the expected one. Comparing and writing are one atomic step.

        Args:
            expected: The version to replace; None if the object must not exist.

        Raises:
            SwapRefusedError: when the object has another version.
            TransientError: when the lake did not answer; the object may or may not have been written.
        """

    @abstractmethod
    def list_keys(self, prefix: str) -> set[str]:
        """Return the keys that start with a prefix."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """Delete an object. A missing one is no error."""

    @abstractmethod
    def copy(self, key: str, to: str) -> bool:
        """Copy an object inside the lake, atomically. Return False if it does not exist."""

    @abstractmethod
    def upload(self, key: str, path: Path, sha256: str, labels: Mapping[str, str]) -> None:
        """Send a file under a key that no object has had. It becomes an object when all of it has arrived.

        The run made the file, and nobody changes it: a lake on the same disk has it as a second name.
        """

    def read(self, key: str) -> bytes | None:
        """Return a small object's content; None if it does not exist."""
        return self.find(key).content

    def digest(self, key: str) -> str | None:
        """Read a whole object and return its SHA-256; None if it does not exist."""
        return None if self.size(key) is None else self._copy(key, Path(os.devnull))

    def download(self, file: FileRecord, name: str, path: Path) -> None:
        """Copy a month's file to this machine. ``name`` is the month's.

        Raises:
            LakeError: when it is not the file in the manifest.
        """
        size = self.size(file.key)
        digest = self._copy(file.key, path) if size == file.bytes else "not read"
        if digest != file.sha256:
            raise LakeError(
                f"{name}: {self.url(file.key)} is not the file in the manifest",
                expected=f"{file.bytes:,} bytes with SHA-256 {file.sha256}",
                got="no file" if size is None else f"{size:,} bytes, {digest}",
                fix="make the month again with --force",
            )

    def _copy(self, key: str, path: Path) -> str:
        digest = hashlib.sha256()
        with self.open(key) as file, path.open("wb") as copy:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                copy.write(chunk)
        return digest.hexdigest()

    def find_manifest(self, keys: Keys) -> Found:
        """Return a month's manifest without parsing it."""
        return self.find(keys.manifest)

    def manifest(self, keys: Keys) -> Manifest | None:
        """Return the month's manifest; None if the lake does not have the month.

        Raises:
            LakeError: when the manifest can't be parsed.
        """
        content = self.read(keys.manifest)
        return None if content is None else self.parse(content, keys)

    def read_manifests(self, keys: Iterable[Keys]) -> list[Manifest]:
        """Read manifests in parallel. Months that are not in the lake are left out.

        So is a manifest that can't be read, with a warning in the log.
        """

        def read(month: Keys) -> Manifest | None:
            try:
                return self.manifest(month)
            except LakeError as error:
                log.warning("%s", error)
                return None

        with ThreadPoolExecutor(PARALLEL_READS, thread_name_prefix="manifest") as pool:
            return [manifest for manifest in pool.map(read, keys) if manifest]

    def read_all_manifests(self, colors: Iterable[Color]) -> list[Manifest]:
        """Read the manifests of all months of the colours, by colour and month."""
        return self.read_manifests(Keys(color, month) for color in colors for month in self.months(color))

    def parse(self, content: bytes, keys: Keys) -> Manifest:
        """Parse a manifest's bytes.

        Raises:
            LakeError: when they are not a valid manifest of the month.
        """
        try:
            manifest = Manifest.model_validate_json(content)
            manifest.require_files_of(keys)
        except (ValueError, ReconciliationError) as error:
            why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise LakeError(
                f"{keys.name}: the manifest {self.url(keys.manifest)} can't be read",
                got=f"{len(content):,} bytes: {why}",
                fix="make the month again: that replaces the manifest",
            ) from None
        return manifest

    def months(self, color: Color) -> list[Month]:
        """Return the months of a colour in the lake, oldest first. Files with other names are skipped."""
        months = []
        for key in self.list_keys(f"manifest/{color}/"):
            name = key.rpartition("/")[2]
            if name.startswith("."):
                continue  # the draft of a manifest
            try:
                months.append(Month.parse(name.removesuffix(".json")))
            except ArgumentError:
                log.warning("%s: %s is not a month's manifest; skipped", color, shown(self.url(key)))
        return sorted(months)
