"""The data lake: object keys, and months that appear in it whole or not at all.

A month's objects are staged where no reader looks, then published: the old manifest goes, the
objects take their keys, strays of the old month go, the new manifest comes last. Whoever finds a
manifest finds the files it names; a run that dies on the way leaves the old month or none.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import BinaryIO, Protocol

from nyc_tlc.contract import SourceFormat
from nyc_tlc.errors import ConflictError, LakeError
from nyc_tlc.manifest import Manifest
from nyc_tlc.months import Color, Month
from nyc_tlc.workspace import Workspace, exclusive, remove_empty, sync


@dataclass(frozen=True)
class Keys:
    """The object keys of one month: POSIX paths under the lake's root, on every platform."""

    color: Color
    month: Month

    @property
    def name(self) -> str:
        """What errors and log lines call the month."""
        return f"{self.color} {self.month}"

    @property
    def file(self) -> str:
        """TLC's own name of the month's file, without extension."""
        return f"{self.color}_tripdata_{self.month}"

    @property
    def partition(self) -> str:
        """The Hive partition of clean and quarantine."""
        return f"{self.color}/year={self.month.year:04d}/month={self.month.month:02d}/{self.file}.parquet"

    def raw(self, source_format: SourceFormat) -> str:
        """The source's untouched bytes."""
        return f"raw/{self.color}/{self.file}.{source_format}"

    @property
    def clean(self) -> str:
        """The clean rows."""
        return f"clean/{self.partition}"

    @property
    def quarantine(self) -> str:
        """The rejected rows."""
        return f"quarantine/{self.partition}"

    def daily(self, day: date) -> str:
        """The clean rows of one pick-up day."""
        return f"daily/{self.color}/pickup_date={day.isoformat()}/{self.file}.parquet"

    @property
    def manifest(self) -> str:
        """The record that makes all of these count."""
        return f"manifest/{self.color}/{self.month}.json"


class StagedFile(io.BufferedIOBase):
    """A sink that counts and digests what passes through.

    Attributes:
        bytes: What was written so far.
        sha256: Its digest, once closed.
    """

    def __init__(self, sink: BinaryIO) -> None:
        """Wrap a sink; closing closes it."""
        self._sink, self._digest, self.bytes, self.sha256 = sink, hashlib.sha256(), 0, ""

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: object) -> int:
        """Write all of ``data``."""
        view = memoryview(data)  # type: ignore[arg-type]
        self._sink.write(view)
        self._digest.update(view)
        self.bytes += view.nbytes
        return view.nbytes

    def close(self) -> None:
        """Close the sink."""
        if not self.closed:
            self._sink.close()
            self.sha256 = self._digest.hexdigest()
            super().close()


class Staging(Protocol):
    """A month's objects on their way into a lake."""

    token: str

    def create(self, key: str) -> contextlib.AbstractContextManager[StagedFile]:
        """Open an object for writing. It is staged when the block ends, and gone when it fails."""

    def publish(self, manifest: Manifest) -> None:
        """Make the staged objects and the manifest the month, replacing what was there.

        Raises:
            ConflictError: when another run published the month since this one began; nothing changed.
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

    def stage(self, keys: Keys) -> Staging:
        """Begin a month."""

    def staging(self, token: str) -> Staging:
        """A month begun earlier in this process."""


class LocalLake:
    """A data lake in a folder."""

    def __init__(self, root: Path) -> None:
        """Use a folder, which need not exist yet."""
        self.root = root
        self._staged: dict[str, LocalStaging] = {}

    def url(self, key: str) -> str:
        """The path, relative where it is below the working directory."""
        path = self.path(key).absolute()
        return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

    def path(self, key: str) -> Path:
        """Where an object is."""
        return self.root.joinpath(*key.split("/"))

    def manifest(self, keys: Keys) -> Manifest | None:
        """The month's manifest, None when the lake doesn't have the month."""
        try:
            return Manifest.model_validate_json(self.path(keys.manifest).read_bytes())
        except FileNotFoundError:
            return None

    def size(self, key: str) -> int | None:
        """An object's size in bytes, None when there is none."""
        with contextlib.suppress(FileNotFoundError):
            return self.path(key).stat().st_size
        return None

    def stage(self, keys: Keys) -> LocalStaging:
        """Begin a month; what runs that died left staged is cleared away."""
        staging = LocalStaging(self, keys)
        self._staged[staging.token] = staging
        return staging

    def staging(self, token: str) -> LocalStaging:
        """A month begun earlier in this process."""
        return self._staged[token]

    def forget(self, token: str) -> None:
        """Drop a finished staging."""
        del self._staged[token]


class LocalStaging:
    """A month on its way into a folder: files in a workspace beside it, then renames under a lock."""

    def __init__(self, lake: LocalLake, keys: Keys) -> None:
        """Begin; see ``LocalLake.stage``."""
        self._lake, self._keys = lake, keys
        self._manifest = lake.path(keys.manifest)
        try:
            self._workspace = Workspace(lake.path(f"staging/{keys.color}/{keys.month}"))
        except OSError as error:
            raise LakeError(f"{keys.name}: cannot write to the lake {lake.root}", got=str(error)) from error
        self.token = self._workspace.path.name
        self._staged: list[str] = []
        self._found = self._manifest_version()

    @contextlib.contextmanager
    def create(self, key: str) -> Iterator[StagedFile]:
        """Open an object for writing. It is staged when the block ends, and gone when it fails."""
        path = self._staged_path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file, StagedFile(file) as staged:
                yield staged
        except OSError as error:
            path.unlink(missing_ok=True)
            raise LakeError(f"{self._keys.name}: cannot write {key} to the lake", got=str(error)) from error
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._staged.append(key)

    def publish(self, manifest: Manifest) -> None:
        """Make the staged objects and the manifest the month, replacing what was there.

        Raises:
            ConflictError: when another run published the month since this one began; nothing changed.
            LakeError: when the folder can't be written.
        """
        try:
            draft = self._workspace.path / "manifest.json"
            draft.write_bytes(manifest.to_json())
            for path in (draft, *map(self._staged_path, self._staged)):
                sync(path)
            self._manifest.parent.mkdir(parents=True, exist_ok=True)
            with exclusive(self._manifest.parent):
                if self._manifest_version() != self._found:
                    raise ConflictError(
                        f"{self._keys.name}: another run published it while this one was at work",
                        fix="run it again, if it should be made once more",
                    )
                strays = self._month_files() - {self._lake.path(key) for key in self._staged}
                self._manifest.unlink(missing_ok=True)
                sync(self._manifest.parent)
                for key in self._staged:
                    _move(self._staged_path(key), self._lake.path(key))
                for stray in strays:
                    stray.unlink()
                    remove_empty(stray.parent, self._lake.root)
                _move(draft, self._manifest)
        except OSError as error:
            raise LakeError(f"{self._keys.name}: cannot publish to the lake", got=str(error)) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Drop what was staged."""
        self._workspace.remove(up_to=self._lake.root)
        self._lake.forget(self.token)

    def _staged_path(self, key: str) -> Path:
        return self._workspace.path.joinpath(*key.split("/"))

    def _month_files(self) -> set[Path]:
        """The month's files of which an earlier run may have written others than this one."""
        keys = self._keys
        patterns = (f"raw/{keys.color}/{keys.file}.*", f"daily/{keys.color}/*/{keys.file}.parquet")
        return {path for pattern in patterns for path in self._lake.root.glob(pattern)}

    def _manifest_version(self) -> tuple[int, int] | None:
        """What tells one writing of the manifest from another."""
        with contextlib.suppress(FileNotFoundError):
            stat = self._manifest.stat()
            return stat.st_ino, stat.st_mtime_ns
        return None


def _move(source: Path, target: Path) -> None:
    """Rename, and make the new name outlast a power failure."""
    made = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
    for folder in (target.parent, *(folder.parent for folder in made)):
        sync(folder)
