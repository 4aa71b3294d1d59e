"""Decide what has to be done with a month, and why, from its source and the lake."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from nyc_tlc.cleaning.raw import describe_source
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import LakeError, NotPublished, TransientError
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import FileRecord, Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Color, Month
from nyc_tlc.source.fetch import FetchedFile
from nyc_tlc.source.location import RemoteFile, source_kind
from nyc_tlc.source.published import find_newest, look_at, require_unpublished

#: ``ingest``: not in the lake. ``reload``: its source changed, or its raw file is not in the lake. ``clean again``: the
#: source is the same, and the lake's raw file would give another result today. ``kept``: in the lake from another kind
#: of source; only ``force`` replaces it.
Action = Literal["ingest", "reload", "clean again", "current", "kept", "unpublished"]

log = logging.getLogger(__name__)

SOURCE_IS_SILENT = "the source does not tell whether it changed"


@dataclass(frozen=True)
class Plan:
    """What has to be done with a month.

    Attributes:
        action: What has to be done.
        why: The reason, for people.
        remote: The month at its source; None when it is not published.
        manifest: The month's manifest in the lake; None when there is none or it can't be read.
        base: The version of the manifest that the publication replaces; None when there is none.
        may_be_current: Whether only the file's bytes show if the source changed; the same bytes: the month is current.
    """

    action: Action
    why: str
    remote: RemoteFile | None = None
    manifest: Manifest | None = None
    base: str | None = None
    may_be_current: bool = False

    def settled_by(self, fetched: FetchedFile) -> bool:
        """Return whether the fetched bytes show that the month is current."""
        known = self.manifest.source.sha256 if self.manifest else None
        return self.may_be_current and known == fetched.sha256


def plan_month(
    source: str,
    color: Color,
    month: Month | None,
    lake: Lake,
    *,
    days: bool = False,
    force: bool = False,
    verify: bool = False,
    up_to: Month | None = None,
) -> Plan:
    """Decide what has to be done with a month.

    Args:
        source: A source's name or a template.
        color: The colour.
        month: The month; None for the newest the source has.
        lake: Where the month is kept.
        days: Whether daily folders are wanted.
        force: Whether to make it again even when it is current.
        verify: Whether to compare the lake's files with their digests, and not only their sizes.
        up_to: The latest month to consider as the newest.

    Raises:
        TransientError: when the source doesn't answer.
        SourceError: when it refuses a month that was published before.
    """
    try:
        remote = look_at(source, color, month) if month else find_newest(source, color, up_to)
    except NotPublished as error:
        if month:
            require_unpublished(error, month, known=lake.find_manifest(Keys(color, month)).content is not None)
        return Plan("unpublished", str(error))
    except TransientError as error:
        if month is None or force or (again := _plan_without_source(color, month, lake, days)) is None:
            raise
        log.warning("%s; it is cleaned again from the lake's raw file", error)
        return again
    keys = Keys(color, remote.month)
    found = lake.find_manifest(keys)
    if found.content is None:
        return Plan("ingest", "the lake does not have it", remote)
    try:
        manifest = lake.parse(found.content, keys)
    except LakeError as error:
        return Plan("reload", f"{error.what}: {error.got}", remote, base=found.version)
    was, would_be = source_kind(manifest.source.url), source_kind(remote.url)
    if was != would_be and not force:
        kept = f"the lake has it from the source {was} ({manifest.source.url}); --force replaces it by {would_be}"
        return Plan("kept", kept, remote, manifest, found.version)
    action, why = _decide(manifest, remote, lake, days=days, force=force, verify=verify)
    return Plan(action, why, remote, manifest, found.version, may_be_current=why == SOURCE_IS_SILENT)


def _plan_without_source(color: Color, month: Month, lake: Lake, days: bool) -> Plan | None:
    """Return the plan for a month that only has to be cleaned again; None if its source is needed."""
    keys = Keys(color, month)
    found = lake.find_manifest(keys)
    manifest = None if found.content is None else lake.parse(found.content, keys)
    if manifest is None or _is_damaged(manifest.source, lake, verify=False):
        return None
    why = _find_outdated(manifest, days)
    return Plan("clean again", why, describe_source(manifest), manifest, found.version) if why else None


def _decide(
    manifest: Manifest, remote: RemoteFile, lake: Lake, *, days: bool, force: bool, verify: bool
) -> tuple[Action, str]:
    """Return what has to be done with a month that is in the lake, and why."""
    change = _find_source_change(manifest, remote)
    if change and change != SOURCE_IS_SILENT:
        return "reload", change
    outdated = _find_outdated(manifest, days)
    if force:
        return "reload", outdated or "it was asked for"
    if _is_damaged(manifest.source, lake, verify):
        return "reload", f"{manifest.source.key} is not what the manifest says"
    if why := outdated or _find_damage(manifest, lake, verify):
        return "reload" if change else "clean again", why
    return ("reload", change) if change else ("current", f"made {manifest.finished_at:%Y-%m-%d %H:%M} UTC")


def _find_source_change(manifest: Manifest, remote: RemoteFile) -> str | None:
    """Return why the source's file is another one than the month's: by its ETag, else its size and time of change."""
    made_of = manifest.source
    if made_of.etag or remote.etag:
        same = made_of.etag == remote.etag
    elif remote.last_modified is None:
        return SOURCE_IS_SILENT
    else:
        same = (made_of.url, made_of.last_modified) == (remote.shown, remote.last_modified)
        same = same and remote.bytes in (None, made_of.bytes)
    return None if same else "the source changed"


def _find_outdated(manifest: Manifest, days: bool) -> str | None:
    """Return why the raw file would give other clean files today."""
    contract = read_contract(manifest.color)
    if manifest.contract_version != contract.contract_version:
        return f"the contract changed from {manifest.contract_version} to {contract.contract_version}"
    if manifest.rules_version != contract.rules_version:
        return f"the rules changed from {manifest.rules_version} to {contract.rules_version}"
    if days and not manifest.daily and manifest.clean.rows:
        return "it was made without daily folders"
    return None


def _find_damage(manifest: Manifest, lake: Lake, verify: bool) -> str | None:
    """Return a message about the first clean, quarantine or daily file that is not the manifest's."""
    # The days are listed, which takes fewer requests than a look at each.
    folders = [prefix for prefix in manifest.month_keys.prefixes if prefix.startswith("daily/")]
    listed = {key for folder in folders for key in lake.list_keys(folder)} if manifest.daily else set()
    for file in (manifest.clean, manifest.quarantine, *manifest.daily):
        if (verify or file.key not in listed) and _is_damaged(file, lake, verify):
            return f"{file.key} is not what the manifest says"
    return None


def _is_damaged(file: FileRecord, lake: Lake, verify: bool) -> bool:
    """Return whether a file is missing or has another size, or, to verify it, another digest."""
    size = lake.size(file.key)
    if size is None or file.bytes not in (None, size):
        return True
    return verify and file.sha256 is not None and lake.digest(file.key) != file.sha256
