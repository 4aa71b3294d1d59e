"""Publish a month by one conditional write of its manifest: before it readers find the old month, after it the new one.

Each publication has a version of its own in the keys of its files, so no key is written twice. A file that no manifest
names belongs to a run that was refused, was killed or is still at work. What is listed before the swap and not named
after it can be removed: a run that wrote such a file began before the swap, so its own swap is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from nyc_tlc.errors import ConflictError, LakeError, TlcError, TransientError
from nyc_tlc.lake.history import find_prunable, keep_version, remove_versions
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Found, Lake, SwapRefusedError
from nyc_tlc.settings import read_settings
from nyc_tlc.threads import ContextPool

log = logging.getLogger(__name__)

#: How many files are sent, listed or removed at the same time.
FILES_AT_ONCE = 4


def publish_files(lake: Lake, manifest: Manifest, files: Mapping[str, Path], old_version: str | None) -> Manifest:
    """Publish a month: upload its files and replace its manifest. Keep the old month if its source was another file.

    Args:
        files: Key -> path of the files that are not in the lake yet.

    Returns:
        The manifest in the lake: the new one, with the time of its version.

    Raises:
        ConflictError: when another run published the month since this one began. The lake has that run's month.
        TransientError: when the lake stopped answering. The lake has the old month or the new one.
        LakeError: when the lake can't be written. The lake has the old month.
    """
    keys = manifest.month_keys
    found = lake.find_manifest(keys)
    if found.version != old_version:
        raise _conflict(keys)
    before = _parse_old(lake, keys, found)
    if before and before.source.sha256 == manifest.source.sha256:
        keep, times = 0, {"published_at": before.published_at, "replaces": before.replaces}
    else:
        keep = read_settings().keep_versions
        times = {"published_at": datetime.now(UTC), "replaces": before.published_at if before else None}
    manifest = manifest.model_copy(update=times)
    old = _list_files(lake, keys) - manifest.file_keys
    try:
        _upload(lake, manifest, files)
        if before and keep:
            keep_version(lake, before)
    except TlcError:
        _remove(lake, keys, files)
        raise
    try:
        _swap(lake, manifest, old_version)
    except SwapRefusedError as error:
        _remove(lake, keys, files)
        raise _conflict(keys) from error
    _remove(lake, keys, old)
    if before and keep:
        _prune(lake, keys, keep)
    return manifest


def remove_leftovers(lake: Lake, manifest: Manifest, version: str) -> None:
    """Remove the files of a current month that a killed run left. ``version`` is the version of its manifest."""
    keys = manifest.month_keys
    # A quarantine file is the first that a run writes and the last that it removes, so with any leftover there is one.
    if not any(keys.owns(key) for key in lake.list_keys(keys.partition("quarantine")) - manifest.file_keys):
        return
    leftovers = _list_files(lake, keys) - manifest.file_keys
    # The manifest is replaced by itself: a run that is still at work then has an old version of it and is refused.
    same = manifest.model_copy(update={"revision": manifest.revision + 1})
    try:
        lake.swap(keys.manifest, same.to_json(), version, same.labels)
    except SwapRefusedError:
        return
    _remove(lake, keys, leftovers)


def _parse_old(lake: Lake, keys: Keys, found: Found) -> Manifest | None:
    """Return the manifest that is replaced; None if there is none, or if it can't be read and so can't be kept."""
    try:
        return lake.parse(found.content, keys) if found.content else None
    except LakeError as error:
        log.warning("%s: the month is replaced and not kept: %s", keys.name, error)
        return None


def _upload(lake: Lake, manifest: Manifest, files: Mapping[str, Path]) -> None:
    """Send the files: quarantine first, as ``remove_leftovers`` needs; clean last, so that a glob finds two briefly."""
    digests = {file.key: file.sha256 for file in manifest.files}
    for some in _order(files):
        with ContextPool(FILES_AT_ONCE, thread_name_prefix="upload") as pool:
            for sent in [pool.submit(lake.upload, key, files[key], digests[key], manifest.labels) for key in some]:
                sent.result()


def _swap(lake: Lake, manifest: Manifest, old_version: str | None) -> None:
    """Swap the manifest. If the lake's answer was lost, read the manifest to find out whether it was written."""
    keys, content = manifest.month_keys, manifest.to_json()
    try:
        lake.swap(keys.manifest, content, old_version, manifest.labels)
    except (SwapRefusedError, TransientError):
        if lake.read(keys.manifest) != content:
            raise
        log.info("%s: published; only the lake's answer was lost", keys.name)


def _list_files(lake: Lake, keys: Keys) -> set[str]:
    with ContextPool(FILES_AT_ONCE, thread_name_prefix="list") as pool:
        return {key for found in pool.map(lake.list_keys, keys.prefixes) for key in found if keys.owns(key)}


def _remove(lake: Lake, keys: Keys, unnamed: Iterable[str]) -> None:
    """Remove objects, clean files first and quarantine last. After an error the rest is left for the next run."""
    try:
        for some in reversed(_order(unnamed)):
            with ContextPool(FILES_AT_ONCE, thread_name_prefix="remove") as pool:
                list(pool.map(lake.remove, some))
    except TlcError as error:
        log.warning("%s: old files could not be removed; the next run removes them: %s", keys.name, error)


def _prune(lake: Lake, keys: Keys, keep: int) -> None:
    try:
        remove_versions(lake, find_prunable(lake, keys, keep))
    except TlcError as error:
        log.warning("%s: older versions could not be removed; the next change removes them: %s", keys.name, error)


def _order(keys: Iterable[str]) -> list[list[str]]:
    """Return keys in the order in which a run writes them: quarantine, what is left, clean."""

    def rank(key: str) -> int:
        return {"quarantine": 0, "clean": 2}.get(key.partition("/")[0], 1)

    return [list(some) for _, some in groupby(sorted(keys, key=rank), rank)]


def _conflict(keys: Keys) -> ConflictError:
    return ConflictError(
        f"{keys.name}: another run published it while this one was running",
        fix="the lake has that run's month; run this again to replace it",
    )
