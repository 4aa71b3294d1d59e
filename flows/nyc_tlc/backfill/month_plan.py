"""Decide what has to be done with a month, and why, from its source and the lake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nyc_tlc.contract.contract import Contract, read_contract
from nyc_tlc.errors import LakeError, NotPublished
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.lake import Lake
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.months import Color, Month
from nyc_tlc.source.fetch import FetchedFile
from nyc_tlc.source.location import RemoteFile, source_kind
from nyc_tlc.source.published import find_newest, look_at, require_unpublished

#: ``ingest``: not in the lake. ``reload``: in the lake, but a run would give another result today. ``kept``: in the
#: lake from another kind of source; only ``force`` replaces it.
Action = Literal["ingest", "reload", "current", "kept", "unpublished"]


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
    why = _why_stale(manifest, remote, lake, read_contract(color), days)
    why = why or (_find_damage(manifest, lake) if verify else None) or ("it was asked for" if force else None)
    if why:
        silent = why == SOURCE_IS_SILENT and not force
        return Plan("reload", why, remote, manifest, found.version, may_be_current=silent)
    return Plan("current", f"made {manifest.finished_at:%Y-%m-%d %H:%M} UTC", remote, manifest, found.version)


def _find_damage(manifest: Manifest, lake: Lake) -> str | None:
    """Return a message about the month's first damaged file; None if all digests are right."""
    for key, digest in manifest.digests.items():
        if digest and lake.digest(key) != digest:
            return f"{key} is damaged: its digest is not the manifest's"
    return None


def _why_stale(manifest: Manifest, remote: RemoteFile, lake: Lake, contract: Contract, days: bool) -> str | None:
    """Return why a run would give another result than the month in the lake; None if it would not."""
    if manifest.contract_version != contract.contract_version:
        return f"the contract changed from {manifest.contract_version} to {contract.contract_version}"
    if manifest.rules_version != contract.rules_version:
        return f"the rules changed from {manifest.rules_version} to {contract.rules_version}"
    if days and not manifest.daily and manifest.clean.rows:
        return "it was made without daily folders"
    sizes = {
        manifest.clean.key: manifest.clean.bytes,
        manifest.source.key: manifest.source.bytes,
        manifest.quarantine.key: manifest.quarantine.bytes,
    }
    for key, size in sizes.items():
        there = lake.size(key)
        if there is None or size not in (None, there):
            return f"{key} is not what the manifest says"
    daily = {day.key for day in manifest.daily}
    folders = [prefix for prefix in manifest.month_keys.prefixes if prefix.startswith("daily/")] if daily else []
    if missing := daily.difference(*map(lake.list_objects, folders)):
        return f"{min(missing)} is not what the manifest says"
    # Compare the ETag, else size and time of change. If the source gives neither, only its bytes can show a change.
    made_of = manifest.source
    if made_of.etag or remote.etag:
        same = made_of.etag == remote.etag
    elif remote.last_modified is None:
        return SOURCE_IS_SILENT
    else:
        same = (made_of.url, made_of.last_modified) == (remote.shown, remote.last_modified)
        same = same and remote.bytes in (None, made_of.bytes)
    return None if same else "the source changed"
