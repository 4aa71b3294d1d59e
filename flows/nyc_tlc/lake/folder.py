"""A data lake in a folder: files are copied under a hidden name beside their place, then renamed."""

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
    """A data lake in a folder. A file's version is its inode and its time."""

    def __init__(self, root: Path) -> None:
        """Use a folder, which need not exist yet."""
        self.root = root

    def url(self, key: str) -> str:
        """The path, relative where it is below the working directory."""
        path = self.path(key).absolute()
        return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

    def path(self, key: str) -> Path:
        """Where an object is."""
        return self.root.joinpath(*key.split("/"))

    def local_path(self, key: str) -> Path:
        """Where an object is on this machine."""
        return self.path(key)

    def size(self, key: str) -> int | None:
        """An object's size in bytes, None when there is none."""
        with self._explained(key), contextlib.suppress(FileNotFoundError):
            return self.path(key).stat().st_size
        return None

    def open(self, key: str) -> BinaryIO:
        """An object for reading."""
        with self._explained(key):
            try:
                return self.path(key).open("rb")
            except FileNotFoundError:
                raise LakeError(f"there is no {key} in the lake", got=str(self.root)) from None

    def read_version(self, key: str) -> tuple[bytes, str] | None:
        """A small object's content and version, None when there is none."""
        with self._explained(key), contextlib.suppress(FileNotFoundError), self.path(key).open("rb") as file:
            return file.read(), _version(os.fstat(file.fileno()))
        return None

    def write(self, key: str, content: bytes) -> None:
        """Write a small object, whole or not at all."""
        with self._explained(key):
            draft = self._draft(key)
            try:
                draft.write_bytes(content)
                self._put(draft, key)
            finally:
                draft.unlink(missing_ok=True)

    def swap(self, key: str, content: bytes, expected: str | None, labels: Mapping[str, str]) -> None:
        """Write a small object if the expected version is there. A folder has no place for labels."""
        with self._explained(key):
            target = self.path(key)
            target.parent.mkdir(parents=True, exist_ok=True)
            # One name for all: only who holds the lock writes it, and the next one writes over what a kill has left.
            draft = target.with_name(f".{target.name}.part")
            with exclusive(self.root):
                if self._version(key) != expected:
                    raise SwapRefusedError(key)
                draft.write_bytes(content)
                sync(draft)
                self._rename(draft, key)

    def list_objects(self, prefix: str) -> dict[str, str]:
        """The objects whose keys begin with a prefix, and their versions."""
        folder, _, start = prefix.rpartition("/")
        root = self.path(folder) if folder else self.root
        found: dict[str, str] = {}
        with self._explained(prefix):
            for path in root.glob(f"{start}*") if start else [root]:
                for file in [path] if path.is_file() else path.rglob("*"):
                    with contextlib.suppress(FileNotFoundError):
                        if file.is_file():
                            found[file.relative_to(self.root).as_posix()] = _version(file.stat())
            # An upload's draft has its key's name with a dot in front.
            for file in root.glob(f".{start}*") if start else ():
                with contextlib.suppress(FileNotFoundError):
                    found[file.relative_to(self.root).as_posix()] = _version(file.stat())
        return found

    def remove(self, key: str, version: str | None = None) -> None:
        """Delete an object; with a version, only that one."""
        path = self.path(key)
        with self._explained(key), exclusive(self.root):
            if version in (None, self._version(key)):
                path.unlink(missing_ok=True)
                remove_empty(path.parent, self.root)

    def upload(self, file: NewFile, labels: Mapping[str, str]) -> FolderUpload:
        """Copy a file to a hidden name beside its place. A folder has no place for labels."""
        with self._explained(file.key):
            draft = self._draft(file.key)
            try:
                with draft.open("wb") as copy:
                    copy.writelines(file.pieces())
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        return FolderUpload(self, file.key, draft)

    def publish(self, draft: Path, key: str) -> None:
        """Give a draft its name."""
        with self._explained(key):
            self._put(draft, key)

    def _put(self, draft: Path, key: str) -> None:
        sync(draft)
        with exclusive(self.root):
            self._rename(draft, key)

    def _rename(self, draft: Path, key: str) -> None:
        """Rename, and make the new name outlast a power failure."""
        target = self.path(key)
        draft.replace(target)
        for folder in (target.parent, *target.parent.parents):
            sync(folder)
            if folder == self.root:
                return

    def _draft(self, key: str) -> Path:
        """A new name beside an object's place, in a folder that is there."""
        target = self.path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")

    def _version(self, key: str) -> str | None:
        with contextlib.suppress(FileNotFoundError):
            return _version(self.path(key).stat())
        return None

    @contextlib.contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        """Turn what the operating system refuses into one line."""
        try:
            yield
        except OSError as error:
            raise LakeError(
                f"{describe_key(key)}: the lake {self.url('')} can't be used",
                got=f"{error.strerror or type(error).__name__}: {self.url(key)}",
            ) from error


class FolderUpload:
    """A copy beside its place, to be renamed."""

    def __init__(self, lake: FolderLake, key: str, draft: Path) -> None:
        """Take a draft."""
        self._lake, self._key, self._draft = lake, key, draft

    def is_there(self) -> bool:
        """Whether the object has these bytes already."""
        there = self._lake.path(self._key)
        return there.is_file() and filecmp.cmp(there, self._draft, shallow=False)

    def finish(self) -> None:
        """Make it the object."""
        self._lake.publish(self._draft, self._key)

    def abort(self) -> None:
        """Remove the copy."""
        self._draft.unlink(missing_ok=True)


def _version(stat: os.stat_result) -> str:
    return f"{stat.st_ino}-{stat.st_mtime_ns}"
