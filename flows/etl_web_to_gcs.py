"""Source -> data lake: fetch, clean and publish one month of one colour. The main job."""

from __future__ import annotations

import nyc_tlc.runs.script  # noqa: F401

from prefect import flow
from prefect.client.schemas.objects import State

from nyc_tlc.planning.month_plan import read_requested_month
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.profiles.opening import open_lake
from nyc_tlc.runs import command_line, tasks
from nyc_tlc.runs.flow_runs import RUN_OPTIONS, Outcome, not_published, run_name
from nyc_tlc.runs.month import bring_to_lake
from nyc_tlc.runs.month_report import format_month
from nyc_tlc.runs.options import Color, Force, Layout, MonthNumber, Profile, Source, Verify, Year


@flow(flow_run_name=run_name, **RUN_OPTIONS)
def etl_web_to_gcs(
    color: Color = "yellow",
    year: Year = None,
    month: MonthNumber = None,
    *,
    profile: Profile = None,
    source: Source = None,
    layout: Layout = "month",
    force: Force = False,
    verify: Verify = False,
) -> Outcome | State[None]:
    """Bring one month of trip records into the data lake.

    A month that is current there is not made again; otherwise the whole month is replaced.
    """
    options = MonthOptions.of(source, profile, layout=layout, force=force, verify=verify)
    lake = open_lake(options.profile)

    # Look, fetch, clean, publish and report: each is a task.
    made = bring_to_lake(color, read_requested_month(color, year, month), options)
    if made.manifest is None:
        return not_published(made.plan.why)
    if made.is_new:
        tasks.list_months(options.profile, [color], [])
    return Outcome(format_month(made, lake, options.profile), made.manifest)


if __name__ == "__main__":
    command_line.run(etl_web_to_gcs)
