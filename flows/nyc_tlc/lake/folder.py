"""A data lake in a folder: a file is written under a hidden name in its folder, then renamed."""

from __future__ import annotations

import contextlib
import filecmp
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from nyc_tlc.errors import LakeError
from nyc_tlc.lake.keys import describe_key
from nyc_tlc.lake.lake import Lake, NewFile, SwapRefusedError
from nyc_tlc.workspace import exclusive, remove_empty, sync


class FolderLake(Lake):
    """A data lake in a folder. A file's version is its inode number and its time of modification."""

    def __init__(self, root: Path) -> None:
        """Use a folder; the first write creates it."""
        self.root = root

    def url(self, key: str) -> str:
        """Return an object's path, relative if it is below the working directory."""
        path = self.path(key).absolute()
        return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

    def path(self, key: str) -> Path:
        """Return an object's path."""
        return self.root.joinpath(*key.split("/"))

    def local_path(self, key: str) -> Path:
        """Return an object's path on this machine."""
        return self.path(key)

    def size(self, key: str) -> int | None:
        """Return an object's size in bytes; None if it does not exist."""
        with self._translate_errors(key), contextlib.suppress(FileNotFoundError):
            return self.path(key).stat().st_size
        return None

    def open(self, key: str) -> BinaryIO:
        """Open an object for reading."""
        with self._translate_errors(key):
            try:
                return self.path(key).open("rb")
            except FileNotFoundError:
                raise LakeError(f"there is no {key} in the lake", got=str(self.root)) from None

    def read_version(self, key: str) -> tuple[bytes, str] | None:
        """Read a small object. Return its content and version; None if it does not exist."""
        with self._translate_errors(key), contextlib.suppress(FileNotFoundError), self.path(key).open("rb") as file:
            return file.read(), _version(os.fstat(file.fileno()))
        return None

    def write(self, key: str, content: bytes) -> None:
        """Write a small object atomically."""
        with self._translate_errors(key):
            draft = self._prepare_draft(key)
            try:
                draft.write_bytes(content)
                sync(draft)
                self.publish(draft, key)
            finally:
                draft.unlink(missing_ok=True)

    def swap(self, key: str, content: bytes, expected: str | None, labels: Mapping[str, str]) -> None:
        """Write a small object if its version is the expected one. A folder can't store the labels."""
        with self._translate_errors(key):
            target = self.path(key)
            target.parent.mkdir(parents=True, exist_ok=True)
            # All runs use one name: only the holder of the lock writes it, and it overwrites what a killed run left.
            draft = target.with_name(f".{target.name}.part")
            with exclusive(self.root):
                if self._version(key) != expected:
                    raise SwapRefusedError(key)
                draft.write_bytes(content)
                sync(draft)
                self._rename(draft, key)

    def list_objects(self, prefix: str) -> dict[str, str]:
        """Return the keys that start with a prefix, and their versions."""
        folder, _, start = prefix.rpartition("/")
        root = self.path(folder) if folder else self.root
        found: dict[str, str] = {}
        with self._translate_errors(prefix):
            for path in root.glob(f"{start}*") if start else [root]:
                for file in [path] if path.is_file() else path.rglob("*"):
                    with contextlib.suppress(FileNotFoundError):
                        if file.is_file():
                            found[file.relative_to(self.root).as_posix()] = _version(file.stat())
            # Also drafts of uploads: their names start with a dot.
            for file in root.glob(f".{start}*") if start else ():
                with contextlib.suppress(FileNotFoundError):
                    found[file.relative_to(self.root).as_posix()] = _version(file.stat())
        return found

    def remove(self, key: str, version: str | None = None) -> None:
        """Delete an object; with a version, only if the object has it."""
        path = self.path(key)
        with self._translate_errors(key), exclusive(self.root):
            if version in (None, self._version(key)):
                path.unlink(missing_ok=True)
                remove_empty(path.parent, self.root)

    def upload(self, file: NewFile, labels: Mapping[str, str]) -> FolderUpload:
        """Copy a file to a draft, or link it; ``finish`` renames the draft. A folder can't store the labels."""
        with self._translate_errors(file.key):
            draft = self._prepare_draft(file.key)
            try:
                if not (file.temporary and _link(file.path, draft)):
                    with draft.open("wb") as copy:
                        copy.writelines(file.pieces())
                sync(draft)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        return FolderUpload(self, file.key, draft)

    def publish(self, draft: Path, key: str) -> None:
        """Rename a draft, whose bytes are on the disk, to its object's name."""
        with self._translate_errors(key), exclusive(self.root):
            self._rename(draft, key)

    def _rename(self, draft: Path, key: str) -> None:
        """Rename a draft, and sync the folders so that the new name survives a power failure."""
        target = self.path(key)
        draft.replace(target)
        for folder in (target.parent, *target.parent.parents):
            sync(folder)
            if folder == self.root:
                return

    def _prepare_draft(self, key: str) -> Path:
        """Return a new hidden path in an object's folder. Create the folder if it is missing."""
        target = self.path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")

    def _version(self, key: str) -> str | None:
        with contextlib.suppress(FileNotFoundError):
            return _version(self.path(key).stat())
        return None

    @contextlib.contextmanager
    def _translate_errors(self, key: str) -> Iterator[None]:
        """Translate the operating system's errors into a LakeError."""
        try:
            yield
        except OSError as error:
            raise LakeError(
                f"{describe_key(key)}: the lake {self.url('')} can't be used",
                got=f"{error.strerror or type(error).__name__}: {self.url(key)}",
            ) from error


class FolderUpload:
    """A draft of an object that is not renamed yet."""

    def __init__(self, lake: FolderLake, key: str, draft: Path) -> None:
        """Use a draft."""
        self._lake, self._key, self._draft = lake, key, draft

    def is_there(self) -> bool:
        """Return whether the object has these bytes already."""
        there = self._lake.path(self._key)
        return there.is_file() and filecmp.cmp(there, self._draft, shallow=False)

    def finish(self) -> None:
        """Rename the draft: it becomes the object."""
        self._lake.publish(self._draft, self._key)

    def abort(self) -> None:
        """Delete the draft."""
        self._draft.unlink(missing_ok=True)


def _link(file: Path, draft: Path) -> bool:
    """Make the draft a second name of the file. Return False if the draft's file system can't."""
    try:
        draft.hardlink_to(file)
    except OSError:
        return False
    return True


def _version(stat: os.stat_result) -> str:
    return f"{stat.st_ino}-{stat.st_mtime_ns}"
