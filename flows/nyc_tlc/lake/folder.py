"""A data lake in a folder: a file is written under a hidden name in its folder, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from nyc_tlc.errors import LakeError
from nyc_tlc.lake.keys import describe_key
from nyc_tlc.lake.store import Found, Lake, SwapRefusedError
from nyc_tlc.shown import short_path
from nyc_tlc.workspace import exclusive, sync


class FolderLake(Lake):
    """A data lake in a folder. A file's version is its inode number and its time of modification."""

    def __init__(self, root: Path) -> None:
        """Use a folder; the first write creates it."""
        self.root = root

    def url(self, key: str) -> str:
        return str(short_path(self.root.joinpath(*key.split("/"))))

    def local_path(self, key: str) -> Path:
        path = self.root.joinpath(*key.split("/"))
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root)):
            raise LakeError(f"{describe_key(key)}: {self.url(key)} is outside of the lake", fix="remove the link")
        return path

    def size(self, key: str) -> int | None:
        with self._translate_errors(key), contextlib.suppress(FileNotFoundError), self._open(key) as file:
            return os.fstat(file.fileno()).st_size
        return None

    def open(self, key: str) -> BinaryIO:
        with self._translate_errors(key):
            try:
                return self._open(key)
            except FileNotFoundError:
                raise LakeError(f"there is no {key} in the lake", got=str(self.root)) from None

    def find(self, key: str) -> Found:
        with self._translate_errors(key), contextlib.suppress(FileNotFoundError), self._open(key) as file:
            return Found(file.read(), _version(os.fstat(file.fileno())))
        return Found()

    def write(self, key: str, content: bytes) -> None:
        with self._translate_errors(key), self._locked(key) as target:
            self._replace(target, content)

    def swap(self, key: str, content: bytes, expected: str | None, labels: Mapping[str, str]) -> None:
        with self._translate_errors(key), self._locked(key) as target:
            if (_version(target.stat()) if target.exists() else None) != expected:
                raise SwapRefusedError(key)
            self._replace(target, content)

    def list_keys(self, prefix: str) -> set[str]:
        folder, _, start = prefix.rpartition("/")
        root, found = self.local_path(folder), set()
        with self._translate_errors(prefix), contextlib.suppress(FileNotFoundError):
            for path in root.iterdir():
                # A draft is hidden: its name begins with a dot.
                if path.name.removeprefix(".").startswith(start):
                    found |= {path, *path.rglob("*")}
        return {path.relative_to(self.root).as_posix() for path in found if path.is_file()}

    def remove(self, key: str) -> None:
        path = self.local_path(key)
        with self._translate_errors(key), exclusive(self.root):
            path.unlink(missing_ok=True)
            # Remove its folders up to the first one that is not empty.
            with contextlib.suppress(OSError):
                for folder in path.relative_to(self.root).parents[:-1]:
                    self.root.joinpath(folder).rmdir()

    def upload(self, key: str, path: Path, sha256: str, labels: Mapping[str, str]) -> None:
        with self._translate_errors(key):
            with self._locked(key) as target:
                draft = _draft(target)
                # With a draft in it, the folder is not removed by another run.
                copy = None if _link(path, draft) else draft.open("xb")
            try:
                if copy:
                    with copy, path.open("rb") as content:
                        shutil.copyfileobj(content, copy)
                sync(draft)
                with exclusive(self.root):
                    self._rename(draft, target)
            finally:
                draft.unlink(missing_ok=True)

    def copy(self, key: str, to: str) -> bool:
        source = self.local_path(key)
        with self._translate_errors(key), self._locked(to) as target:
            if not source.exists():
                return False
            with self._drafted(target) as draft:
                if not _link(source, draft):
                    shutil.copyfile(source, draft)
        return True

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[Path]:
        """Hold the lake's lock. Yield the path of an object, whose folder exists until the lock is released."""
        self.root.mkdir(parents=True, exist_ok=True)
        with exclusive(self.root):
            target = self.local_path(key)
            target.parent.mkdir(parents=True, exist_ok=True)
            yield target

    def _open(self, key: str) -> BinaryIO:
        """Open a regular file. Links are not followed, and a pipe is not waited for."""
        descriptor = os.open(self.local_path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file")
        return os.fdopen(descriptor, "rb")

    def _replace(self, target: Path, content: bytes) -> None:
        with self._drafted(target) as draft, draft.open("xb") as file:
            file.write(content)

    @contextlib.contextmanager
    def _drafted(self, target: Path) -> Iterator[Path]:
        """Yield a new path for the file's content. At the end of the block the file has its name."""
        draft = _draft(target)
        # A killed run's, or a link that somebody put there.
        draft.unlink(missing_ok=True)
        try:
            yield draft
            sync(draft)
            self._rename(draft, target)
        finally:
            draft.unlink(missing_ok=True)

    def _rename(self, draft: Path, target: Path) -> None:
        """Rename a draft, and sync the folders so that the new name survives a power failure."""
        draft.replace(target)
        for folder in target.relative_to(self.root).parents:
            sync(self.root / folder)

    @contextlib.contextmanager
    def _translate_errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LakeError(
                f"{describe_key(key)}: the lake {self.url('')} can't be used",
                got=f"{error.strerror or type(error).__name__}: {self.url(key)}",
            ) from error


def _draft(target: Path) -> Path:
    """Return the hidden path under which a file is written. Only one run writes it: the key is new, or it is locked."""
    return target.with_name(f".{target.name}.part")


def _link(file: Path, draft: Path) -> bool:
    """Make the draft a second name of the file. Return False if the draft's file system can't."""
    try:
        draft.hardlink_to(file)
    except OSError:
        return False
    return True


def _version(found: os.stat_result) -> str:
    return f"{found.st_ino}-{found.st_mtime_ns}"
