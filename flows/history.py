"""List the versions of a month: since when each stood, its source, its rows, and what changed."""

from __future__ import annotations

import nyc_tlc.runs.script  # noqa: F401

from prefect import flow

from nyc_tlc.lake.diff import compare
from nyc_tlc.lake.history import find_prunable, list_changed_months, list_versions, remove_versions
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

HEADER = "Month,Version,From (UTC),Until,Bytes,ETag,SHA-256,Rows,Clean,Changed,Flow run".split(",")
MINUTE = "%Y-%m-%d %H:%M"


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
    months = [Keys(color, each) for each in ([one] if one else list_changed_months(lake, color))]
    if prune:
        return Outcome("\n".join(line for keys in months for line in _prune(lake, keys, force)) or "nothing to remove")
    rows = [row for keys in months for row in _describe(lake, keys, compared=one is not None)]
    text = "\n".join(format_table(HEADER, rows, right=("Bytes", "Rows", "Clean"), pad=True))
    tasks.write_artifact(f"Versions of {color}", text, profile, color, str(one or "changed"), "history")
    return Outcome(text)


def _describe(lake: Lake, keys: Keys, *, compared: bool) -> list[tuple[str, ...]]:
    """Return a row of the table for each version of a month."""
    rows, before = [], None
    for version, until in list_versions(lake, keys):
        source, changed = version.source, ""
        if before and compared:
            with scratch_folder() as folder:
                changed = str(compare((lake, before), (lake, version), folder))
        elif before:
            changed = f"{source.rows - before.source.rows:+,} rows"
        times = (f"{version.published_at:{MINUTE}}", f"{until:{MINUTE}}" if until else "")
        file = (f"{source.bytes:,}", source.etag or "", source.sha256[:12])
        counts = (f"{source.rows:,}", f"{version.clean.rows:,}")
        rows.append((version.month, version.version, *times, *file, *counts, changed, version.flow_run_id or ""))
        before = version
    return rows


def _prune(lake: Lake, keys: Keys, force: bool) -> list[str]:
    """Return a line for each folder that can be removed. Remove them if it is forced."""
    prunable = find_prunable(lake, keys, read_settings().keep_versions)
    if force:
        remove_versions(lake, prunable)
    done = "removed" if force else "to be removed by --force"
    return [f"{keys.name}  {folder}  {done}" for folder in sorted({key.split("/")[3] for key in prunable})]


if __name__ == "__main__":
    command_line.run(history)
