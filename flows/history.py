"""List the versions of a month: since when each stood, its source, its rows, and what changed."""

from __future__ import annotations

import nyc_tlc.runs.script  # noqa: F401

from collections.abc import Sequence
from datetime import UTC, datetime

from prefect import flow

from nyc_tlc.lake.diff import MonthVersion, compare
from nyc_tlc.lake.history import Version, find_prunable, list_changed_months, list_versions, remove_versions
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.store import Lake
from nyc_tlc.planning.month_plan import read_requested_month
from nyc_tlc.profiles.opening import open_lake
from nyc_tlc.runs import command_line, tasks
from nyc_tlc.runs.flow_runs import RUN_OPTIONS, Outcome
from nyc_tlc.runs.options import Color, MonthNumber, Profile, Year
from nyc_tlc.settings import read_settings
from nyc_tlc.source.fetch import scratch_folder
from nyc_tlc.text_tables import format_table

HEADER = ("Month", "Version", "From (UTC)", "Until", "Bytes", "ETag", "SHA-256", "Rows", "Clean", "Changed", "Flow run")


@flow(flow_run_name="history-{color}", **RUN_OPTIONS)
def history(
    color: Color = "yellow",
    year: Year = None,
    month: MonthNumber = None,
    *,
    profile: Profile = None,
    prune: bool = False,
    force: bool = False,
) -> Outcome:
    """List the versions of a month, or of all months of a colour whose source changed.

    The rows of one month's versions are compared; of many months only their numbers.

    Args:
        year: The month's year; leave year and month out for all months that changed.
        prune: Say what exceeds the TLC_KEEP_VERSIONS versions of each month, and what killed runs left.
        force: With prune, remove it.
    """
    profile = profile or read_settings().profile
    lake, one = open_lake(profile), read_requested_month(color, year, month)
    found = [Keys(color, each) for each in ([one] if one else list_changed_months(lake, color))]
    if prune:
        return Outcome(_prune(lake, found, force))
    rows = [row for keys in found for row in _describe(lake, list_versions(lake, keys), with_rows=one is not None)]
    if not rows:
        return Outcome(f"{color}{f' {one}' if one else ''}: the lake has no versions")
    text = "\n".join(format_table(HEADER, rows, right=("Bytes", "Rows", "Clean"), pad=True))
    tasks.write_artifact(f"Versions of {color}", text, profile, color, str(one or "changed"), "history")
    return Outcome(text)


def _describe(lake: Lake, versions: Sequence[Version], *, with_rows: bool) -> list[tuple[str, ...]]:
    """Return a row of the table for each version."""
    rows, before = [], None
    for version in versions:
        manifest = version.manifest
        source = manifest.source
        until = f"before {_minute(version.until)}" if version.until and version.gap else _minute(version.until)
        changed = "" if before is None else f"{source.rows - before.source.rows:+,} rows"
        if before and with_rows:
            with scratch_folder() as folder:
                changed = str(compare(MonthVersion(lake, before), MonthVersion(lake, manifest), folder))
        rows.append(
            (
                manifest.month,
                manifest.version,
                _minute(manifest.published_at),
                until,
                f"{source.bytes:,}",
                source.etag or "",
                source.sha256[:12],
                f"{source.rows:,}",
                f"{manifest.clean.rows:,}",
                changed,
                manifest.flow_run_id or "",
            )
        )
        before = manifest
    return rows


def _prune(lake: Lake, months: Sequence[Keys], force: bool) -> str:
    """Return what can be removed, and remove it if it is forced."""
    lines = []
    for keys in months:
        prunable = find_prunable(lake, keys, read_settings().keep_versions)
        for folder in sorted({key.split("/")[3] for key in prunable}):
            lines.append(f"{keys.name}  {folder}  {'removed' if force else 'can be removed'}")
        if force:
            remove_versions(lake, prunable)
    hint = [] if force or not lines else ["--force removes them"]
    return "\n".join([*lines, *hint]) or f"nothing exceeds {read_settings().keep_versions} versions of a month"


def _minute(at: datetime | None) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}" if at else ""


if __name__ == "__main__":
    command_line.run(history)
