"""The versions of a month: when its source changes, the month that is replaced is copied to ``history/``.

A version is a source file. A month that is only cleaned again stays the same version, for its raw file is the same. A
copy is a version when a month with another source has replaced it; until then it is the copy of a run that was refused,
was killed or is still at work.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from nyc_tlc.errors import ArgumentError, LakeError
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Color, Month

log = logging.getLogger(__name__)

MANIFEST = "/manifest.json"


class Version(NamedTuple):
    """A version of a month; ``manifest`` has the keys that its files have now.

    ``until`` is when the next one replaced it; None for the current one, and if versions after it were not kept.
    """

    manifest: Manifest
    until: datetime | None = None


def keep_version(lake: Lake, manifest: Manifest) -> None:
    """Copy a month's files to its folder in the history, and last its manifest. Without one of them it is not kept."""
    for file in manifest.files:
        if not lake.copy(file.key, f"{manifest.history_folder}/{file.key}"):
            log.warning("%s: the old version is not kept: the lake has no %s", manifest.name, file.key)
            return
    lake.write(manifest.history_folder + MANIFEST, manifest.to_json())


def list_versions(lake: Lake, keys: Keys) -> list[Version]:
    """Return the versions of a month, oldest first; the last one is the current one."""
    current = lake.manifest(keys)
    kept = [_read_kept(lake, keys, key) for key in lake.list_keys(keys.history) if key.endswith(MANIFEST)]
    # Of two copies of one version, made before and after it was cleaned again, the later one is what stood last.
    found = [*sorted(filter(None, kept), key=lambda each: each.finished_at), *filter(None, [current])]
    by_time = {each.published_at: each for each in found}
    ordered = [by_time[at] for at in sorted(by_time)]
    ends = [new.published_at if new.replaces == old.published_at else None for old, new in pairwise(ordered)]
    return list(map(Version, ordered, [*ends, None]))


def find_version(lake: Lake, keys: Keys, which: str | date | None = None) -> Manifest | None:
    """Return a version of a month; None if the lake did not have the month then.

    Args:
        which: A day or a time at which it stood, in UTC; a day is its end. Or the 12 digits of its name. None for the
            current one.

    Raises:
        ArgumentError: when it is none of these.
        LakeError: when that version is not kept.
    """
    if which is None:
        return lake.manifest(keys)
    at, versions = _read_time(str(which)), list_versions(lake, keys)
    if at is None:
        found = [each for each in versions if each.manifest.version == which]
    else:
        found = [each for each in versions if each.manifest.published_at <= at]
    if found and (found[-1].until or at is None or found[-1] == versions[-1]):
        return found[-1].manifest
    if at and (not versions or (not found and versions[0].manifest.replaces is None)):
        return None
    raise LakeError(
        f"{keys.name}: the lake does not have the version {'of ' if at else ''}{which}",
        got=", ".join(f"{each.version} of {each.published_at:%Y-%m-%d %H:%M} UTC" for each, _ in versions) or "none",
        fix="older ones were not kept (TLC_KEEP_VERSIONS)",
    )


def list_changed_months(lake: Lake, color: Color) -> list[Month]:
    """Return the months of a colour that have something in the history."""
    return sorted({Month.parse(key.split("/")[2]) for key in lake.list_keys(f"history/{color}/")})


def find_prunable(lake: Lake, keys: Keys, keep: int) -> set[str]:
    """Return the keys of all versions but the newest ``keep`` and the current one, and of copies that are none.

    The copies of the current version are left: a run that replaces it may be making them.
    """
    folders = [each.manifest.history_folder for each in list_versions(lake, keys)]
    stay = tuple(f"{folder}/" for folder in folders[-1 - keep : -1])
    current = folders[-1].rpartition(".")[0] if folders else ""
    return {key for key in lake.list_keys(keys.history) if key < current and not key.startswith(stay)}


def remove_versions(lake: Lake, found: Iterable[str]) -> None:
    """Remove versions, manifests first: what a killed run leaves is no version."""
    for key in sorted(found, key=lambda key: not key.endswith(MANIFEST)):
        lake.remove(key)


def _read_kept(lake: Lake, keys: Keys, key: str) -> Manifest | None:
    """Return the manifest of a kept version, with the keys of its copies; None if it can't be read."""
    try:
        manifest = lake.parse(lake.read(key) or b"", keys)
    except LakeError as error:
        log.warning("%s: a kept version is left out: %s", keys.name, error)
        return None
    return manifest.with_keys(lambda each: f"{key.removesuffix(MANIFEST)}/{each}")


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
