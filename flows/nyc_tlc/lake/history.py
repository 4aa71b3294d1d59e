"""The versions of a month: when its source changes, the month that is replaced is copied to ``history/``.

A version is a source file. A month that is only cleaned again stays the same version, for its raw file is the same. A
copy is a version when a month with another source has replaced it; until then it is the copy of a run that was refused,
was killed or is still at work.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from nyc_tlc.errors import ArgumentError, LakeError, NotThereYetError, TlcError
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Color, Month
from nyc_tlc.threads import ContextPool

log = logging.getLogger(__name__)

#: How many files are sent, copied, listed or removed at the same time.
FILES_AT_ONCE = 4
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Version:
    """A version of a month.

    Attributes:
        manifest: Its manifest; the keys are those that its files have now. ``published_at`` is when it began to stand.
        until: When it was replaced; None for the current one.
        gap: Whether versions between it and the next one were not kept: then it was replaced before ``until``.
    """

    manifest: Manifest
    until: datetime | None = None
    gap: bool = False


def follow(manifest: Manifest, before: Manifest | None) -> Manifest:
    """Return a month's new manifest with the times of its version: those of the old one if the source is the same."""
    if before and before.source.sha256 == manifest.source.sha256:
        times = {"published_at": before.published_at, "replaces": before.replaces}
    else:
        times = {"published_at": datetime.now(UTC), "replaces": before.published_at if before else None}
    return manifest.model_copy(update=times)


def keep_version(lake: Lake, manifest: Manifest) -> None:
    """Copy a month's files to its folder in the history, and last its manifest. A missing file can't be kept."""
    folder, files = manifest.history_folder, [file.key for file in manifest.files]
    with ContextPool(FILES_AT_ONCE, thread_name_prefix="keep") as pool:
        copied = list(pool.map(lake.copy, files, [folder + key for key in files]))
    if all(copied):
        lake.write(folder + MANIFEST, manifest.to_json())
    else:
        missing = ", ".join(key for key, there in zip(files, copied, strict=True) if not there)
        log.warning("%s: the version %s is not kept: the lake has no %s", manifest.name, manifest.version, missing)


def list_versions(lake: Lake, keys: Keys) -> list[Version]:
    """Return the versions of a month, oldest first; the last one is the current one. None if it is not in the lake."""
    current = lake.manifest(keys)
    kept = (_read_kept(lake, keys, key) for key in lake.list_keys(keys.history))
    # Of two copies of one version, made before and after it was cleaned again, the later one is what stood last.
    found = sorted(filter(None, kept), key=lambda manifest: manifest.finished_at)
    by_time = {each.published_at: each for each in [*found, *([current] if current else [])]}
    ordered = [by_time[at] for at in sorted(by_time)]
    return [
        *(Version(one, later.published_at, later.replaces != one.published_at) for one, later in pairwise(ordered)),
        *map(Version, ordered[-1:]),
    ]


def find_version(lake: Lake, keys: Keys, which: str) -> Manifest:
    """Return a version of a month.

    Args:
        which: The 12 digits of its name, or a time at which it stood: a day, ``2024-06-01``, which is its end in UTC,
            or ``2024-06-01T12:00``, in UTC too.

    Raises:
        ArgumentError: when it is none of these.
        NotThereYetError: when the month came into the lake later.
        LakeError: when the lake has no such version, or not the one that stood at that time.
    """
    at, versions = _read_time(which), list_versions(lake, keys)
    if at is None:
        found = [each for each in versions if each.manifest.version == which]
    else:
        found = [each for each in versions if each.manifest.published_at <= at]
    if found and not (at and found[-1].gap):
        return found[-1].manifest
    oldest = versions[0].manifest if versions else None
    if not oldest or (at and at < oldest.published_at and oldest.replaces is None):
        raise NotThereYetError(
            f"{keys.name}: not in the lake {lake.url('')}{f' at {which}' if at else ''}",
            got=f"its first version, published {oldest.published_at:%Y-%m-%d %H:%M} UTC" if oldest else "",
        )
    raise LakeError(
        f"{keys.name}: the version {'of ' if at else ''}{which} is not kept",
        got=f"{len(versions)} of its versions, the oldest published {oldest.published_at:%Y-%m-%d %H:%M} UTC",
        fix=f"they are listed by python flows/history.py --color {keys.color} --year {keys.month.year}"
        f" --month {keys.month.month}",
    )


def list_changed_months(lake: Lake, color: Color) -> list[Month]:
    """Return the months of a colour that have more than one version, or a copy that is none."""
    return sorted({Month.parse(key.split("/")[2]) for key in lake.list_keys(f"history/{color}/")})


def find_prunable(lake: Lake, keys: Keys, keep: int) -> set[str]:
    """Return the keys of all versions but the newest ``keep`` and the current one, and of copies that are none.

    The copies of the current version are left: a run that replaces it may be making them.
    """
    manifests = [each.manifest for each in list_versions(lake, keys)]
    stay = tuple(each.history_folder for each in manifests[-1 - keep : -1])
    current = manifests[-1].history_folder.rpartition(".")[0] if manifests else ""
    return {key for key in lake.list_keys(keys.history) if key < current and not key.startswith(stay)}


def remove_versions(lake: Lake, found: Iterable[str]) -> None:
    """Remove versions, manifests first: what a killed run leaves is no version."""
    for key in sorted(found, key=lambda key: not key.endswith(f"/{MANIFEST}")):
        lake.remove(key)


def prune_after_publication(lake: Lake, keys: Keys, keep: int) -> None:
    """Remove all but the newest versions. After an error they are left for the next publication."""
    try:
        remove_versions(lake, find_prunable(lake, keys, keep))
    except TlcError as error:
        log.warning("%s: old versions could not be removed: %s", keys.name, error)


def _read_kept(lake: Lake, keys: Keys, key: str) -> Manifest | None:
    """Return the manifest of a kept version, with the keys of its copies; None if the key is not that of a manifest."""
    folder, _, name = key.removeprefix(keys.history).partition("/")
    content = lake.read(key) if name == MANIFEST else None
    try:
        manifest = lake.parse(content, keys) if content else None
    except LakeError as error:
        log.warning("%s: the kept version %s is left out: %s", keys.name, folder, error)
        return None
    return manifest and manifest.with_keys(lambda each: f"{keys.history}{folder}/{each}")


def _read_time(which: str) -> datetime | None:
    """Return the time that a text names; None if it is the name of a version."""
    if re.fullmatch("[0-9a-f]{12}", which):
        return None
    try:
        at = datetime.fromisoformat(which)
    except ValueError:
        expected = "a day (2024-06-01), a time in UTC (2024-06-01T12:00) or the 12 digits of a version"
        raise ArgumentError(f"{which!r} is no version", expected=expected) from None
    if len(which) <= len("2024-06-01"):
        at += timedelta(days=1, microseconds=-1)
    return at if at.tzinfo else at.replace(tzinfo=UTC)
