"""Backfill many months from a source into the lake and warehouses: plan, run, report. The catch-up uses ``last``."""

from __future__ import annotations

import nyc_tlc.runs.script  # noqa: F401

import logging
from dataclasses import replace
from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from pydantic import Field

from nyc_tlc.errors import ArgumentError, DiskFullError, OverdueError, ReportedError, TransientError
from nyc_tlc.month import COLORS, Color, Month
from nyc_tlc.planning.older import WiderPlan
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.planning.plan import list_months, parse_months
from nyc_tlc.planning.record import finish_run, read_runs, start_run, write_last_catch_up, write_run
from nyc_tlc.planning.report import format_plan, format_report
from nyc_tlc.planning.space import check_space, describe_space
from nyc_tlc.planning.troubles import find_failed, find_trouble, find_wrong, name_trouble
from nyc_tlc.profiles.opening import choose_warehouses, open_lake
from nyc_tlc.runs import command_line, tasks
from nyc_tlc.runs.catch_up import count_rows, end_catch_up, find_in_lake, widen
from nyc_tlc.runs.dbt import build_models, find_dbt
from nyc_tlc.runs.flow_runs import RUN_OPTIONS, Outcome, backfill_name, not_published, scheduled_month
from nyc_tlc.runs.limits import warn_of_slots
from nyc_tlc.runs.options import Force, Layout, Models, Profile, Source, Verify, Warehouses
from nyc_tlc.runs.progress import follow
from nyc_tlc.runs.run_here import RunnerName, open_runner, run_here
from nyc_tlc.runs.run_on_workers import MOST_AT_ONCE, run_on_workers
from nyc_tlc.source.location import redact_url

log = logging.getLogger("nyc_tlc.backfill")

MonthOrDay = Annotated[str, Field(pattern=r"^\d{4}-\d{2}(-\d{2})?$")]


@flow(flow_run_name=backfill_name, **RUN_OPTIONS)
def backfill(
    colors: list[Color] = list(COLORS),  # noqa: B006  the UI's form shows this default
    start: MonthOrDay | None = None,
    end: MonthOrDay | None = None,
    *,
    last: Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^[1-9]\d{0,4}d$")] | None = None,
    older: bool = False,
    months: list[str] | None = None,
    all_months: bool = False,
    every: Annotated[int, Field(ge=1)] = 1,
    warehouses: Warehouses = None,
    lake_only: bool = False,
    models: Models = False,
    profile: Profile = None,
    source: Source = None,
    layout: Layout = "month",
    force: Force = False,
    verify: Verify = False,
    plan_only: bool = False,
    at_once: Annotated[int, Field(ge=1, le=MOST_AT_ONCE)] = 2,
    runner: RunnerName = "threads",
    address: str | None = None,
    via: str | None = None,
    per_run: Annotated[int, Field(ge=1)] = 1,
    name: str | None = None,
    reason: str = "",
) -> Outcome | State[None]:
    """Bring many months into the data lake and the warehouses: only those that are new or changed.

    It can be killed at any point and run again. A failed month does not stop the others. Choose the months with start
    (and end), last, months or all_months.

    Args:
        colors: Which trip records.
        start: The first month, YYYY-MM, or the month of a day, YYYY-MM-DD.
        end: The last month, or the month of a day; the newest that can be published if left out.
        last: Instead of start and end, a number of months up to the newest that can be published, or of days, like 7d.
        older: Also the months before these that failed, are missing in the lake after its first, are outdated or are
            not in a warehouse; each day a share of all others, to see whether their source or their files changed.
            The troubles that are found are kept in the lake's troubles.json and told once.
        months: Instead of colors, start and end, single months like green-2024-01.
        all_months: All months since each colour's first one; with all colours 604 months, some 65 GB to download.
        every: Take only every n-th month, counted from the first.
        lake_only: Load no warehouse.
        plan_only: Print the plan and stop.
        at_once: How many months run at the same time; with via, how many runs are submitted and not finished.
        runner: What runs the months: threads or processes of this machine, or a cluster of Dask or Ray.
        address: Of the cluster; without it one is started on this machine.
        via: Instead of runner, run the months as runs of this flow's deployments, one for each colour, on any worker:
            etl-month takes one month a run, backfill takes per_run.
        per_run: With via, how many months a run has at most, because its start can take as long as a month.
        name: The name of the backfill's record in the lake; the flow run's name if left out.
        reason: Why it is run; it is kept in the record.
    """
    if models and not plan_only:
        find_dbt()
    profile, kinds = choose_warehouses(profile, () if lake_only else warehouses)
    options = MonthOptions.of(source, profile, kinds, layout, force=force, verify=verify)
    lake, name = open_lake(profile), name or backfill_name()
    if options.source == "sample" and force:
        raise ArgumentError("a backfill of samples does not replace months", fix="leave out --force")
    if not (start or end or last or months or all_months):
        raise ArgumentError("no months were given", fix="give --start (and --end), --last, --months or --all-months")
    now = scheduled_month() or Month.current()
    asked = parse_months(months) if months else list_months(colors, start, end, every, last, now)
    earlier = read_runs(lake, name)

    loads, away = tasks.read_loads(profile, kinds)
    options, kinds = replace(options, warehouses=tuple(loads)), tuple(loads)
    found = [find_trouble("warehouse away", why, place=kind) for kind, why in away.items()]
    wider = widen(asked, lake, loads, options) if older else WiderPlan(asked)
    if verify and not older:
        wider = replace(wider, wrong=count_rows(profile, loads))
    try:
        plans = tasks.plan(wider, options, loads)
        log.info("%s", describe_space(plans, lake, kinds))
        if plan_only:
            return Outcome(f"{format_plan(plans)}\n\n{describe_space(plans, lake, kinds)}")
        check_space(plans, lake, kinds)
    except (TransientError, OverdueError, DiskFullError) as error:
        if not older:
            raise
        found.append(find_trouble(name_trouble(error), str(error), place=redact_url(options.source)))
        return end_catch_up(lake, profile, found)
    due = [plan for plan in plans if plan.is_due]
    if via:
        months_done = run_on_workers(due, options, via, at_once, per_run)
    else:
        months_done = run_here(due, options, open_runner(runner, at_once, address))
    warn_of_slots(due, at_once)
    run = start_run(plans, options, via, reason, flow_run.id)
    # A catch-up without anything to do leaves nothing behind.
    is_quiet = older and not due
    if not is_quiet:
        write_run(lake, name, earlier, run)
    run = finish_run(run, follow(months_done, len(due)))
    report = format_report(name, run)
    if not is_quiet:
        write_run(lake, name, earlier, run)
        tasks.write_artifact(f"The result of each month of the backfill {name}", report, profile, "backfill", name)
        tasks.list_months(profile, sorted({plan.color for plan in plans}, key=COLORS.index), kinds)
    troubled = None
    if older:
        write_last_catch_up(lake, run)
        found += [*find_failed(run), *find_wrong(wider.wrong), *find_in_lake(lake, colors)]
        troubled = end_catch_up(lake, profile, found, report)
    # Also when some months failed: the loaded months get their models.
    if models and any(month.result in ("done", "current", "kept") for month in run.months):
        report = build_models(profile, kinds, before=report)
    if troubled:
        return troubled
    if failed := [month for month in run.months if month.result == "failed"]:
        raise ReportedError(f"backfill {name}: {len(failed)} of {len(run.months)} months failed", report)
    if away:
        raise ReportedError(f"backfill {name}: {', '.join(away)} did not answer; the lake is up to date", report)
    if all(month.result == "unpublished" for month in run.months):
        return not_published(report)
    return Outcome(report)


if __name__ == "__main__":
    command_line.run(backfill)
