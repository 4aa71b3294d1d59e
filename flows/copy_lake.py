"""Data lake -> another data lake: months with the same keys and bytes, verified by the digests in their manifests."""

from __future__ import annotations

import nyc_tlc.runs.script  # noqa: F401

from prefect import flow

from nyc_tlc.errors import ArgumentError, ReportedError, TlcError
from nyc_tlc.planning.month_plan import read_requested_month
from nyc_tlc.profiles.opening import open_lake
from nyc_tlc.runs import command_line, tasks
from nyc_tlc.runs.flow_runs import RUN_OPTIONS, Outcome
from nyc_tlc.runs.options import Color, MonthNumber, Year
from nyc_tlc.runs.progress import bar
from nyc_tlc.settings import read_settings


@flow(flow_run_name="copy-{color}-to-{to}", **RUN_OPTIONS)
def copy_lake(
    color: Color,
    to: str,
    year: Year = None,
    month: MonthNumber = None,
    *,
    profile: str | None = None,
    force: bool = False,
) -> Outcome:
    """Copy months from one profile's lake to another's. Keys and bytes stay the same.

    A month is published in the other lake after all of its files are copied. A month that the other lake already has is
    not copied, so an interrupted copy continues when it is run again.

    Args:
        to: The profile of the lake to copy to.
        year: The month's year; leave year and month out for all months of the colour.
        profile: The profile of the lake to copy from; TLC_PROFILE or local if left out.
        force: Replace another version of a month in the other lake.
    """
    profile = profile or read_settings().profile
    if to == profile:
        raise ArgumentError(f"{to} can't be copied to itself", fix="name another profile with --to")
    one = read_requested_month(color, year, month)
    months = [one] if one else open_lake(profile).months(color)
    lines, failed, kept = [], 0, 0
    with bar(f"copy {color}", "months") as show:
        for done, each in enumerate(months, 1):
            try:
                copied = tasks.copy(color, each, profile, to, force)
                kept += copied == "another version is there"
                lines.append(f"{color} {each}  {copied}")
            except TlcError as error:
                failed += 1
                lines.append(f"{color} {each}  failed: {error}")
            show(done, len(months))
    text = "\n".join(lines) or f"{profile} has no months of {color}"
    if failed:
        raise ReportedError(f"{failed} of {len(months)} months were not copied", text)
    if kept:
        text += f"\n{kept} months have another version in {to} and were kept: replace them with --force"
    return Outcome(text)


if __name__ == "__main__":
    command_line.run(copy_lake)
