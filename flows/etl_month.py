"""Source -> data lake -> warehouses: one month of one colour."""

from __future__ import annotations

import nyc_tlc.runs.script  # noqa: F401

from prefect import flow
from prefect.client.schemas.objects import State

from nyc_tlc.planning.month_plan import read_requested_month
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.profiles.opening import choose_warehouses, open_lake
from nyc_tlc.runs import command_line, tasks
from nyc_tlc.runs.dbt import build_models, find_dbt
from nyc_tlc.runs.flow_runs import RUN_OPTIONS, Outcome, not_published, run_name
from nyc_tlc.runs.month import bring_to_lake
from nyc_tlc.runs.month_report import format_answers, format_month
from nyc_tlc.runs.options import Color, Force, Layout, Models, MonthNumber, Profile, Source, Verify, Warehouses, Year


@flow(flow_run_name=run_name, **RUN_OPTIONS)
def etl_month(
    color: Color = "yellow",
    year: Year = None,
    month: MonthNumber = None,
    *,
    warehouses: Warehouses = None,
    models: Models = False,
    profile: Profile = None,
    source: Source = None,
    layout: Layout = "month",
    force: Force = False,
    verify: Verify = False,
) -> Outcome | State[None]:
    """Bring one month of trip records into the data lake and from there into warehouses.

    A month that is current in the lake is not made again, and a warehouse that has it is not loaded again.
    """
    if models:
        find_dbt()
    profile, kinds = choose_warehouses(profile, warehouses)
    options = MonthOptions.of(source, profile, kinds, layout, force=force, verify=verify)
    lake = open_lake(profile)

    # Look, fetch, clean, publish and report: each is a task.
    made = bring_to_lake(color, read_requested_month(color, year, month), options)
    if made.manifest is None:
        return not_published(made.plan.why)
    loads = {kind: tasks.load(made.manifest, options, kind) for kind in kinds}
    answers = [tasks.query(made.manifest, options, kind, loaded) for kind, loaded in loads.items()]
    tasks.report_load(made.manifest, options.profile, answers)
    if made.is_new or any(answer.new for answer in answers):
        tasks.list_months(profile, [color], kinds)
    report = "\n".join(filter(None, (format_month(made, lake, profile), format_answers(made.manifest, answers))))
    if models:
        report = build_models(profile, kinds, before=report)
    return Outcome(report, made.manifest)


if __name__ == "__main__":
    command_line.run(etl_month)
