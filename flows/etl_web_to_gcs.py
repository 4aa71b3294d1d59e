"""Source -> data lake: fetch, clean and publish one month of one colour. The main job."""

from __future__ import annotations

import nyc_tlc.runs.script  # noqa: F401

from datetime import UTC, datetime

from prefect import flow
from prefect.client.schemas.objects import State

from nyc_tlc.lake.keys import Layout
from nyc_tlc.month import Color
from nyc_tlc.profiles.opening import open_lake
from nyc_tlc.runs import command_line, tasks
from nyc_tlc.runs.month_report import Outcome, format_summary, format_unchanged
from nyc_tlc.runs.options import MonthNumber, YearNumber
from nyc_tlc.runs.run_names import not_published, rename_run, run_name
from nyc_tlc.runs.run_options import RUN_OPTIONS
from nyc_tlc.settings import read_settings
from nyc_tlc.source.fetch import scratch_folder
from nyc_tlc.source.location import read_requested_month


@flow(flow_run_name=run_name, **RUN_OPTIONS)
def etl_web_to_gcs(
    color: Color = "yellow",
    year: YearNumber | None = None,
    month: MonthNumber | None = None,
    *,
    profile: str | None = None,
    source: str | None = None,
    layout: Layout = "month",
    force: bool = False,
    verify: bool = False,
) -> Outcome | State[None]:
    """Bring one month of trip records into the data lake.

    A month that is current there is not made again; otherwise the whole month is replaced.

    Args:
        color: Which trip records.
        year: The month's year; leave year and month out for the newest month of the source.
        month: The month, 1 to 12.
        profile: Which set of blocks to use; TLC_PROFILE or local if left out.
        source: tlc, dtc (the CSV.gz releases, which have ended), sample (generated, offline), a URL template with
            {color}, {year} and {month}, or $NAME for the environment variable that has the template; TLC_SOURCE or tlc
            if left out.
        layout: month writes one clean file; day also writes a folder for each pick-up date.
        force: Make the month again even if it is current.
        verify: Compare the digests of the lake's files, not only their sizes, before the month counts as current.
    """
    started_at = datetime.now(UTC)
    profile, source = profile or read_settings().profile, source or read_settings().source
    lake, asked = open_lake(profile), read_requested_month(color, year, month)

    plan = tasks.look(color, asked, source, profile, layout, force, verify)
    if plan.remote is None:
        return not_published(plan)
    rename_run(plan.remote)
    manifest = plan.manifest
    if manifest is None or plan.action != "current":
        with scratch_folder() as folder:
            fetched = tasks.fetch(plan, profile, folder)
            if manifest is None or not plan.settled_by(fetched):
                cleaned = tasks.clean(fetched, folder, layout)
                manifest = tasks.publish(cleaned, plan, profile, force, started_at)
                tasks.report(manifest, profile)
                tasks.list_months(profile, [color], [])
    describe = format_unchanged if manifest == plan.manifest else format_summary
    return Outcome(describe(manifest, lake, profile), manifest)


if __name__ == "__main__":
    command_line.run(etl_web_to_gcs)
