"""Decide what has to be done with a month, and why, from its source and the lake."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from nyc_tlc.cleaning.raw import describe_source
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import ArgumentError, LakeError, NotPublished, TransientError
from nyc_tlc.lake.history import find_version
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import FileRecord, Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Color, Month, OfMonth
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.source.fetch import FetchedFile
from nyc_tlc.source.location import RemoteFile, source_kind
from nyc_tlc.source.published import find_newest, look_at, require_unpublished
from nyc_tlc.warehouse.protocol import Kind

#: What a month needs. ``ingest``: it is not in the lake. ``reload``: its source changed, or its raw file is not in the
#: lake. ``clean again``: the source is the same, and the lake's raw file would give another result today. ``load``: it
#: is current in the lake and not in a warehouse. ``kept``: it is in the lake from another kind of source, and only
#: ``force`` replaces it. ``overdue``: the source lacks it and must have it by now. ``unknown``: the source or the lake
#: gave an error.
Need = Literal["ingest", "reload", "clean again", "load", "current", "kept", "unpublished", "overdue", "unknown"]

log = logging.getLogger(__name__)

SOURCE_IS_SILENT = "the source does not say whether it changed"


@dataclass(frozen=True)
class MonthPlan(OfMonth):
    """What a month needs.

    Attributes:
        remote: The month at its source; None when it is not published, or the source was not asked.
        manifest: The month's manifest in the lake; None when there is none or it can't be read.
        manifest_version: The version of the manifest that a publication replaces; None when there is none.
        recount: Those of them whose rows are not as many as their table ``loads`` says.
        planned_at: When work on the month began.
    """

    color: Color
    month: Month
    need: Need
    why: str
    remote: RemoteFile | None = None
    manifest: Manifest | None = None
    manifest_version: str | None = None
    warehouses: tuple[Kind, ...] = ()
    recount: tuple[Kind, ...] = ()
    planned_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def is_due(self) -> bool:
        return self.need not in ("current", "kept", "unpublished")

    @property
    def is_due_in_lake(self) -> bool:
        return self.need in ("ingest", "reload", "clean again")

    def is_current_with(self, fetched: FetchedFile) -> bool:
        """Return whether the fetched bytes, where only they can show it, show that the month is current."""
        known = self.manifest.source.sha256 if self.manifest else None
        return self.why == SOURCE_IS_SILENT and known == fetched.sha256


def read_requested_month(color: Color, year: int | None, month: int | None) -> Month | None:
    """Return the requested month, None for the newest.

    Raises:
        ArgumentError: when only one of year and month is given, or the month is before the colour's first or in the
            future.
        ConfigurationError: when the user's rules can't be used.
    """
    first = read_contract(color).first_month
    if year is None and month is None:
        return None
    if year is None or month is None:
        raise ArgumentError(
            "year and month go together", got=f"year={year}, month={month}", fix="leave both out for the newest month"
        )
    asked, current = Month(year, month), Month.current()
    if asked < first:
        raise ArgumentError(f"there is no {color} {asked}: the records begin in {first}")
    if asked > current:
        raise ArgumentError(f"there is no {color} {asked} yet: it is in the future", expected=f"{current} or before")
    return asked


def plan_month(
    color: Color, month: Month | None, options: MonthOptions, lake: Lake, newest: Month | None = None
) -> MonthPlan:
    """Decide what has to be done with a month in the lake.

    Args:
        month: None for the newest that the source has.
        newest: The latest month to consider as the newest; None for the current month.

    Raises:
        TransientError: when the source does not answer, and the month does not only need to be cleaned again.
        OverdueError: when it lacks a month that was published before, or must be by now.
    """
    try:
        remote = look_at(options.source, color, month) if month else find_newest(options.source, color, newest)
    except NotPublished as error:
        if month:
            require_unpublished(error, month, known=lake.find_manifest(Keys(color, month)).content is not None)
        return MonthPlan(color, month or newest or Month.current(), "unpublished", str(error))
    except TransientError as error:
        if month is None or options.force or (again := _plan_without_source(color, month, options, lake)) is None:
            raise
        log.warning("%s; it is cleaned again from the lake's raw file", error)
        return again
    keys = Keys(color, remote.month)
    found = lake.find_manifest(keys)
    if found.content is None:
        return MonthPlan(color, keys.month, "ingest", "the lake does not have it", remote)
    try:
        manifest = lake.parse(found.content, keys)
    except LakeError as error:
        why = f"{error.what}: {error.got}"
        return MonthPlan(color, keys.month, "reload", why, remote, manifest_version=found.version)
    need, why = _decide(manifest, remote, lake, options)
    return MonthPlan(color, keys.month, need, why, remote, manifest, found.version)


def find_published(lake: Lake, color: Color, month: Month | None, profile: str, as_of: str | None = None) -> Manifest:
    """Return the manifest of a month in the lake; of the newest if month is None.

    Args:
        as_of: Which version of it, as ``find_version`` takes it; None for the current one.

    Raises:
        LakeError: when the month is not in the lake, or not in that version.
    """
    newest = max(lake.months(color), default=None) if month is None else month
    manifest = find_version(lake, Keys(color, newest), as_of) if newest else None
    if manifest is None:
        which = f"--color {color}" + (f" --year {month.year} --month {month.month}" if month else "")
        fix = f"make it: python flows/etl_web_to_gcs.py {which} --profile {profile}"
        if as_of:
            fix = f"see since when it was: python flows/history.py {which} --profile {profile}"
        raise LakeError(
            f"{color} {month or 'trip records'}: not in the lake {lake.url('')}{f' at {as_of}' if as_of else ''}",
            fix=fix,
        )
    return manifest


def _plan_without_source(color: Color, month: Month, options: MonthOptions, lake: Lake) -> MonthPlan | None:
    """Return the plan for a month that only has to be cleaned again; None if its source is needed."""
    keys = Keys(color, month)
    found = lake.find_manifest(keys)
    manifest = None if found.content is None else lake.parse(found.content, keys)
    if manifest is None or _is_damaged(manifest.source, lake, verify=False):
        return None
    why = find_outdated(manifest, options)
    remote = describe_source(manifest)
    return MonthPlan(color, month, "clean again", why, remote, manifest, found.version) if why else None


def _decide(manifest: Manifest, remote: RemoteFile, lake: Lake, options: MonthOptions) -> tuple[Need, str]:
    """Return what a month that is in the lake needs, and why."""
    was, would_be = source_kind(manifest.source.url), source_kind(remote.url)
    if was != would_be and not options.force:
        made_of = f"the lake has it from the source {was} ({manifest.source.url})"
        return "kept", f"{made_of}; --force replaces it by {would_be}"
    change = _find_source_change(manifest, remote)
    if change and change != SOURCE_IS_SILENT:
        return "reload", change
    outdated = find_outdated(manifest, options)
    if options.force:
        return "reload", outdated or "it was asked for"
    if _is_damaged(manifest.source, lake, options.verify):
        return "reload", f"{manifest.source.key} is not what the manifest says"
    if why := outdated or _find_damage(manifest, lake, options.verify):
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


def find_outdated(manifest: Manifest, options: MonthOptions) -> str | None:
    """Return why the raw file would give other clean files today."""
    contract = read_contract(manifest.color)
    if manifest.contract_version != contract.contract_version:
        return f"the contract changed from {manifest.contract_version} to {contract.contract_version}"
    if manifest.rules_version != contract.rules_version:
        return f"the rules changed from {manifest.rules_version} to {contract.rules_version}"
    if options.layout == "day" and not manifest.daily and manifest.clean.rows:
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
