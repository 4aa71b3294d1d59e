"""A month is published by one conditional write of its manifest: before it the old month stands, after it the new one.

Files have their version in their keys, so none that a manifest names is ever changed. They are uploaded but for the
last step; then that step is done for each of them, then the manifest is swapped, if it is still the one that the run
found when it began. Of two runs of one month one is refused.

Files are only removed after a swap: those that were there before it, in the version they had then, and that the new
manifest does not name. Whoever put one there began before the swap, so it will be refused; and what a later run puts
under the same key has another version. That is why a run puts every file there anew unless the manifest that it
replaces names it, and removes nothing when it fails.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from nyc_tlc.errors import ConflictError, LakeError, TlcError, TransientError
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.lake import Lake, NewFile, SwapRefusedError, Upload
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.threads import ContextPool

log = logging.getLogger(__name__)

#: How many files are sent side by side.
UPLOADS_AT_ONCE = 4


def publish_files(
    lake: Lake, manifest: Manifest, files: Sequence[NewFile], base: str | None, labels: Mapping[str, str]
) -> None:
    """Make files and their manifest the month, in place of what was there.

    Args:
        lake: Where.
        manifest: What is published; it names every file.
        files: The files.
        base: The version of the month's manifest when the run began, None when there was none.
        labels: What the objects say of themselves, where the lake has a place for that.

    Raises:
        ConflictError: when another run published the month since this one began. The month is that run's.
        TransientError: when the lake stopped answering. The month is the old one or the new one.
        LakeError: when the lake can't be written. The month is the old one.
    """
    keys = manifest.month_keys
    found = lake.find_manifest(keys)
    if found.version != base:
        raise _conflict(keys)
    named = _named_files(lake, keys, found.content)
    before = _list_files(lake, keys)
    try:
        with _uploaded(lake, files, labels) as uploads:
            for file in sorted(files, key=_finished_first_and_last):
                _finish(lake, keys, file, uploads[file.key], named)
            _swap(lake, manifest, base, labels)
    except SwapRefusedError as error:
        _remove_unnamed(lake, keys)
        raise _conflict(keys) from error
    _remove(lake, keys, {key: version for key, version in before.items() if key not in manifest.file_keys})


def remove_leftovers(lake: Lake, manifest: Manifest, base: str) -> None:
    """Remove the files that a killed run has left beside the month.

    Raw and clean files tell whether there are any: a run that publishes finishes its raw file first, and one that
    removes an old version removes its clean file last.

    Args:
        lake: Where.
        manifest: The month, which is current.
        base: The version of its manifest.
    """
    prefixes = [prefix for prefix in manifest.month_keys.prefixes if prefix.startswith(("raw/", "clean/"))]
    if {key for prefix in prefixes for key in lake.list_objects(prefix)} - manifest.file_keys:
        _remove_all_but(lake, manifest, base)


def _finished_first_and_last(file: NewFile) -> int:
    """Where a file comes when the uploads are finished: raw first, as ``remove_leftovers`` relies on; clean last.

    Between the clean file's last step and the swap, whoever globs the lake sees two clean files of the month.
    """
    return 0 if file.key.startswith("raw/") else 2 if file.key.startswith("clean/") else 1


def _remove_unnamed(lake: Lake, keys: Keys) -> None:
    """Remove the files that this run, which was refused, has put there and the other one's manifest does not name."""
    found = lake.find_manifest(keys)
    if found.content is not None and found.version is not None:
        _remove_all_but(lake, lake.parse(found.content, keys), found.version)


def _remove_all_but(lake: Lake, manifest: Manifest, base: str) -> None:
    """Remove the month's files that its manifest does not name.

    The manifest is swapped for itself first, so that no run that began earlier can publish a file that is removed.
    """
    unnamed = {key: at for key, at in _list_files(lake, manifest.month_keys).items() if key not in manifest.file_keys}
    if not unnamed:
        return
    same = manifest.model_copy(update={"revision": manifest.revision + 1})
    try:
        lake.swap(manifest.month_keys.manifest, same.to_json(), base, {})
    except SwapRefusedError:
        return
    _remove(lake, manifest.month_keys, unnamed)


def _swap(lake: Lake, manifest: Manifest, base: str | None, labels: Mapping[str, str]) -> None:
    """Swap the manifest. Where the answer was lost, what stands tells whether it was done."""
    keys, content = manifest.month_keys, manifest.to_json()
    try:
        lake.swap(keys.manifest, content, base, labels)
    except (SwapRefusedError, TransientError):
        if lake.read(keys.manifest) != content:
            raise
        log.info("%s: published, though the answer to that was lost", keys.name)


@contextmanager
def _uploaded(lake: Lake, files: Sequence[NewFile], labels: Mapping[str, str]) -> Iterator[dict[str, Upload]]:
    """Send all files, side by side, up to their last step; give up those that are not finished at the end."""
    uploads: dict[str, Upload] = {}

    def upload(file: NewFile) -> None:
        uploads[file.key] = lake.upload(file, labels)

    try:
        with ContextPool(UPLOADS_AT_ONCE, thread_name_prefix="upload") as pool:
            for sent in [pool.submit(upload, file) for file in files]:
                sent.result()
        yield uploads
    finally:
        for unfinished in uploads.values():
            unfinished.abort()


def _finish(lake: Lake, keys: Keys, file: NewFile, upload: Upload, named: Mapping[str, str | None]) -> None:
    """Make an upload an object, unless the manifest names the key and the object is there as it should be."""
    if file.key in named:
        if named[file.key] not in (None, file.sha256):
            raise LakeError(
                f"{keys.name}: {lake.url(file.key)} came out with other bytes than before",
                expected=f"SHA-256 {named[file.key]}",
                got=file.sha256,
                fix="the versions in its name are the same, so this is a fault of this program: please report it",
            )
        if upload.is_there():
            return
    upload.finish()


def _named_files(lake: Lake, keys: Keys, content: bytes | None) -> dict[str, str | None]:
    """The files that the manifest in the lake names, with their digests as far as it has them."""
    if content is None:
        return {}
    try:
        return lake.parse(content, keys).digests
    except LakeError as error:
        log.warning("%s", error)
        return {}


def _list_files(lake: Lake, keys: Keys) -> dict[str, str]:
    with ContextPool(UPLOADS_AT_ONCE, thread_name_prefix="list") as pool:
        listed = pool.map(lake.list_objects, keys.prefixes)
        return {key: version for found in listed for key, version in found.items() if keys.owns(key)}


def _remove(lake: Lake, keys: Keys, objects: Mapping[str, str]) -> None:
    """Remove objects by their versions, clean files last. What can't be removed now is left to the next run."""
    clean, others = ([key for key in objects if key.startswith("clean/") is last] for last in (True, False))
    try:
        with ContextPool(UPLOADS_AT_ONCE, thread_name_prefix="remove") as pool:
            for some in (others, clean):
                list(pool.map(partial(_remove_one, lake), some, [objects[key] for key in some]))
    except TlcError as error:
        log.warning("%s: files that no manifest names are left to the next run: %s", keys.name, error)


def _remove_one(lake: Lake, key: str, version: str) -> None:
    lake.remove(key, version)


def _conflict(keys: Keys) -> ConflictError:
    return ConflictError(
        f"{keys.name}: another run published it while this one was at work",
        fix="the month is that run's; run this again to make it once more",
    )
