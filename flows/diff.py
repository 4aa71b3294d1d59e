"""Compare two versions of a month, or a month of two lakes: which rows and which columns differ."""

from __future__ import annotations

import nyc_tlc.runs.script  # noqa: F401

import os
from pathlib import Path

from prefect import flow

from nyc_tlc.errors import LakeError
from nyc_tlc.lake.diff import compare
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.history import list_versions
from nyc_tlc.planning.month_plan import find_published, read_requested_month
from nyc_tlc.profiles.opening import open_lake
from nyc_tlc.runs import command_line, tasks
from nyc_tlc.runs.flow_runs import RUN_OPTIONS, Outcome
from nyc_tlc.runs.options import Color, MonthNumber, Profile, Year
from nyc_tlc.settings import read_settings
from nyc_tlc.source.fetch import scratch_folder


@flow(flow_run_name="diff-{color}-{year}-{month}", **RUN_OPTIONS)
def diff(
    color: Color = "yellow",
    year: Year = None,
    month: MonthNumber = None,
    *,
    from_: str | None = None,
    to: str | None = None,
    with_: str | None = None,
    rows: str | None = None,
    profile: Profile = None,
) -> Outcome:
    """Compare the last two versions of a month: all rows of the source, as multisets over all columns.

    Rows that only one of them has are then matched by vendor, times and zones, to tell which columns differ.

    Args:
        from_: The old version: its 12 digits, or a day or a time at which it stood, in UTC; the last one but one, or
            with another lake the current one, if left out.
        to: The new version; the current one if left out.
        with_: The lake that has the new version, as a profile or as the path of a folder with a slash in it.
        rows: A Parquet file to write, with the rows that only one of them has.
    """
    profile = profile or read_settings().profile
    lake = open_lake(profile)
    other = lake if not with_ else FolderLake(Path(with_)) if os.sep in with_ else open_lake(with_)
    old = find_published(lake, color, read_requested_month(color, year, month), profile, from_)
    new = find_published(other, color, old.month_keys.month, with_ or profile, to)
    if not from_ and not with_:
        versions = list_versions(lake, old.month_keys)
        if len(versions) < 2:
            raise LakeError(f"{old.name}: the lake has one version of it", fix="compare it with another lake: --with")
        old = versions[-2].manifest
    with scratch_folder() as folder:
        difference = compare((lake, old), (other, new), folder, Path(rows) if rows else None)
    text = difference.format()
    tasks.write_artifact(f"Difference of {old.name}", text, profile, color, old.month, "diff")
    return Outcome(f"{text}\n\nrows  {rows}" if rows else text)


if __name__ == "__main__":
    command_line.run(diff)
