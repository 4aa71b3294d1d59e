"""Many months, from source to warehouses: plan, run, report. With ``last``, the scheduled catch-up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import Field

from nyc_tlc.backfill.plan import months_asked
from nyc_tlc.backfill.record import keep, runs_so_far
from nyc_tlc.backfill.report import plan_table, report_table
from nyc_tlc.cleaning.clean import Layout
from nyc_tlc.errors import ReportedError
from nyc_tlc.months import COLORS, Color, Month
from nyc_tlc.orchestration import command_line, sweep, tasks
from nyc_tlc.orchestration.report import Outcome
from nyc_tlc.profiles.opening import open_lake, warehouses_of
from nyc_tlc.settings import read_settings
from nyc_tlc.warehouse.warehouse import Kind


@flow(flow_run_name=tasks.backfill_name)
def backfill(
    colors: list[Color] = list(COLORS),  # noqa: B006  the form in the UI shows it
    start: Annotated[str, Field(pattern=r"^\d{4}-\d{2}$")] | None = None,
    end: Annotated[str, Field(pattern=r"^\d{4}-\d{2}$")] | None = None,
    *,
    every: Annotated[int, Field(ge=1)] = 1,
    last: Annotated[int, Field(ge=1)] | None = None,
    warehouses: list[Kind] | None = None,
    profile: str | None = None,
    source: str | None = None,
    layout: Layout = "month",
    force: bool = False,
    plan_only: bool = False,
    via: str | None = None,
    at_once: Annotated[int, Field(ge=1, le=64)] = 2,
    name: str | None = None,
    reason: str = "",
) -> Outcome | State[None]:
    """Bring a range of months into the lake and the warehouses: only those that are new or changed.

    It can be killed at any point and run again. One month's failure does not stop the rest.

    Args:
        colors: Which trip records.
        start: The first month, YYYY-MM; the first there is if left out.
        end: The last month, YYYY-MM; the newest that can be published if left out.
        every: Take one month in so many.
        last: Instead of start and end, so many months up to the newest that can be published.
        warehouses: Any of duckdb, postgres and bigquery; all the profile has if left out.
        profile: Which set of blocks to use; TLC_PROFILE or local if left out.
        source: As for the main job; TLC_SOURCE or tlc if left out.
        layout: month writes one clean file, day also a folder per pick-up date.
        force: Redo and reload months even when they are current.
        plan_only: Say what would be done, and stop.
        via: A flow with a deployment for each colour, etl-month: one deployment run a month, on any worker.
        at_once: How many months are under way at once; with via, how many runs are submitted and not yet ended.
        name: What its record in the lake is called; the flow run's name if left out.
        reason: Why it is run, for whoever reads the record in a year.
    """
    started_at = datetime.now(UTC)
    profile, source = profile or read_settings().profile, source or read_settings().source
    lake, name = open_lake(profile), name or tasks.backfill_name()
    terms = sweep.Terms(
        source, profile, tuple(warehouses_of(profile) if warehouses is None else warehouses), layout, force
    )
    asked = months_asked(colors, start, end, every, last, tasks.meant_for() or Month.current())
    earlier = runs_so_far(lake, name)

    plans = tasks.plan(asked, terms.source, terms.profile, terms.warehouses, terms.layout, terms.force)
    if plan_only:
        return Outcome(plan_table(plans))
    run = sweep.begin(plans, terms, reason, started_at)
    keep(lake, name, earlier, run)
    run = sweep.finish(run, sweep.on_workers(plans, terms, via, at_once) if via else sweep.here(plans, terms, at_once))
    keep(lake, name, earlier, run)

    told = report_table(name, run)
    tasks.report_backfill(name, told)
    if failed := [month for month in run.months if month.result == "failed"]:
        raise ReportedError(f"backfill {name}: {len(failed)} of {len(run.months)} months failed", told)
    if all(month.result == "unpublished" for month in run.months):
        return tasks.nothing_published(told)
    return Outcome(told)


if __name__ == "__main__":
    command_line.run(backfill)
