"""A data lake in a folder: temporary files beside it, then renames."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from nyc_tlc.errors import LakeError
from nyc_tlc.lake.keys import Keys, months_of
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.staging import StagedFile, begin, conflict, end
from nyc_tlc.months import Color, Month
from nyc_tlc.workspace import Workspace, exclusive, remove_empty, sync


class FolderLake:
    """A data lake in a folder."""

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

    def local_path(self, key: str) -> Path:
        """Where an object is on this machine."""
        return self.path(key)

    def open(self, key: str) -> BinaryIO:
        """An object for reading."""
        try:
            return self.path(key).open("rb")
        except FileNotFoundError:
            raise LakeError(f"there is no {key} in the lake", got=str(self.root)) from None

    def months(self, color: Color) -> list[Month]:
        """The months of a colour the lake has, oldest first."""
        return months_of(path.name for path in self.path(f"manifest/{color}").glob("*.json"))

    def read(self, key: str) -> bytes | None:
        """A small object's content, None when there is none."""
        with contextlib.suppress(FileNotFoundError):
            return self.path(key).read_bytes()
        return None

    def write(self, key: str, content: bytes) -> None:
        """Write a small object, whole or not at all."""
        target = self.path(key)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", delete=False) as draft:
                draft.write(content)
            sync(Path(draft.name))
            _move(Path(draft.name), target)
        except OSError as error:
            raise LakeError(f"cannot write {key} to the lake {self.root}", got=str(error)) from error

    def remove(self, key: str) -> None:
        """Delete an object; one that is gone is gone."""
        path = self.path(key)
        path.unlink(missing_ok=True)
        remove_empty(path.parent, self.root)

    def stage(self, keys: Keys, labels: Mapping[str, str]) -> FolderStaging:
        """Begin a month; what runs that died left staged is cleared away. A folder has no place for labels."""
        return FolderStaging(self, keys)


class FolderStaging:
    """A month on its way into a folder: files in a workspace beside it, then renames under a lock."""

    def __init__(self, lake: FolderLake, keys: Keys) -> None:
        """Begin; see ``FolderLake.stage``."""
        self._lake, self._keys = lake, keys
        self._manifest = lake.path(keys.manifest)
        try:
            self._workspace = Workspace(lake.path(f"staging/{keys.color}/{keys.month}"))
        except OSError as error:
            raise LakeError(f"{keys.name}: cannot write to the lake {lake.root}", got=str(error)) from error
        self.token = self._workspace.path.name
        self._staged: list[str] = []
        self._found = self._manifest_version()
        begin(self)

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
        """Make the staged objects and the manifest the month, replacing what was there."""
        try:
            draft = self._workspace.path / "manifest.json"
            draft.write_bytes(manifest.to_json())
            for path in (draft, *map(self._staged_path, self._staged)):
                sync(path)
            self._manifest.parent.mkdir(parents=True, exist_ok=True)
            with exclusive(self._manifest.parent):
                if self._manifest_version() != self._found:
                    raise conflict(self._keys)
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
        end(self.token)

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
