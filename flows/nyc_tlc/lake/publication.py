"""Publish a month by one conditional write of its manifest: before it readers find the old month, after it the new one.

Files have their version in their keys, so no file that a manifest names ever changes. All files are uploaded except for
their last step. Then that step is done for each file. Then the manifest is swapped, if it is still the one that the run
found when it began. So if two runs publish the same month, one of them is refused.

Files are removed only after a swap: those that were listed before it, with the version that they had then, and that the
new manifest does not name. A run that wrote such a file began before the swap, so its own swap will be refused. A file
that a later run writes under the same key has another version, so it is not removed. For this a run must write every
file again, unless the manifest that it replaces names the file, and must remove nothing when it fails.
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

#: How many files are sent, listed or removed at the same time.
UPLOADS_AT_ONCE = 4


def publish_files(
    lake: Lake, manifest: Manifest, files: Sequence[NewFile], base: str | None, labels: Mapping[str, str]
) -> None:
    """Publish a month: upload its files and replace its manifest.

    Args:
        lake: The lake.
        manifest: The new manifest; it names every file.
        files: The files.
        base: The version of the month's manifest when the run began; None when there was none.
        labels: The objects' metadata, in stores that have metadata.

    Raises:
        ConflictError: when another run published the month since this one began. The lake has that run's month.
        TransientError: when the lake stopped answering. The lake has the old month or the new one.
        LakeError: when the lake can't be written. The lake has the old month.
    """
    keys = manifest.month_keys
    found = lake.find_manifest(keys)
    if found.version != base:
        raise _conflict(keys)
    named = _read_named_files(lake, keys, found.content)
    before = _list_files(lake, keys)
    try:
        with _upload_all(lake, files, labels) as uploads:
            for file in sorted(files, key=_finishing_order):
                _finish(lake, keys, file, uploads[file.key], named)
            _swap(lake, manifest, base, labels)
    except SwapRefusedError as error:
        _remove_unnamed(lake, keys)
        raise _conflict(keys) from error
    _remove(lake, keys, {key: version for key, version in before.items() if key not in manifest.file_keys})


def remove_leftovers(lake: Lake, manifest: Manifest, base: str) -> None:
    """Remove the files of a current month that a killed run left.

    Only raw and clean files are listed to find out whether there are any. That is enough, because a run that publishes
    finishes its raw file first, and a run that removes an old version removes the clean file last.

    Args:
        lake: The lake.
        manifest: The month's manifest.
        base: The version of the manifest.
    """
    prefixes = [prefix for prefix in manifest.month_keys.prefixes if prefix.startswith(("raw/", "clean/"))]
    if {key for prefix in prefixes for key in lake.list_objects(prefix)} - manifest.file_keys:
        _remove_all_but(lake, manifest, base)


def _finishing_order(file: NewFile) -> int:
    """Return a sort key for finishing the uploads: raw first, because ``remove_leftovers`` needs that; clean last.

    Between the clean file's last step and the swap, a glob of the lake finds two clean files of the month.
    """
    return 0 if file.key.startswith("raw/") else 2 if file.key.startswith("clean/") else 1


def _remove_unnamed(lake: Lake, keys: Keys) -> None:
    """Remove the files of this run, which was refused, that the other run's manifest does not name."""
    found = lake.find_manifest(keys)
    if found.content is not None and found.version is not None:
        _remove_all_but(lake, lake.parse(found.content, keys), found.version)


def _remove_all_but(lake: Lake, manifest: Manifest, base: str) -> None:
    """Remove the month's files that its manifest does not name.

    The manifest is first replaced by itself with a new revision. It then has a new version, so a run that began earlier
    is refused and can't publish a file that is removed here.
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
    """Swap the manifest. If the lake's answer was lost, read the manifest to find out whether it was written."""
    keys, content = manifest.month_keys, manifest.to_json()
    try:
        lake.swap(keys.manifest, content, base, labels)
    except (SwapRefusedError, TransientError):
        if lake.read(keys.manifest) != content:
            raise
        log.info("%s: published; only the lake's answer was lost", keys.name)


@contextmanager
def _upload_all(lake: Lake, files: Sequence[NewFile], labels: Mapping[str, str]) -> Iterator[dict[str, Upload]]:
    """Send all files, except for their last step; cancel the uploads that are not finished at the end of the block."""
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
    """Finish an upload, unless the manifest names the file and the object has its bytes already."""
    if file.key in named:
        if named[file.key] not in (None, file.sha256):
            raise LakeError(
                f"{keys.name}: {lake.url(file.key)} was made again with other bytes",
                expected=f"SHA-256 {named[file.key]}",
                got=file.sha256,
                fix="the same inputs must give the same bytes, so this is a bug: please report it",
            )
        if upload.is_there():
            return
    upload.finish()


def _read_named_files(lake: Lake, keys: Keys, content: bytes | None) -> dict[str, str | None]:
    """Return the files that the manifest in the lake names, and their digests; empty if it can't be parsed."""
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
    """Remove objects by their versions, clean files last. After an error the rest is left for the next run."""
    clean, others = ([key for key in objects if key.startswith("clean/") is last] for last in (True, False))
    try:
        with ContextPool(UPLOADS_AT_ONCE, thread_name_prefix="remove") as pool:
            for some in (others, clean):
                list(pool.map(partial(_remove_one, lake), some, [objects[key] for key in some]))
    except TlcError as error:
        log.warning("%s: old files could not be removed; the next run removes them: %s", keys.name, error)


def _remove_one(lake: Lake, key: str, version: str) -> None:
    lake.remove(key, version)


def _conflict(keys: Keys) -> ConflictError:
    return ConflictError(
        f"{keys.name}: another run published it while this one was running",
        fix="the lake has that run's month; run this again to replace it",
    )
