"""Write the HTML pages into the lake: one about the coverage of months, and one about each colour's trips."""

from __future__ import annotations

import nyc_tlc.runs.script  # noqa: F401

from collections.abc import Mapping, Sequence

from prefect import flow
from prefect.settings import PREFECT_UI_URL

from nyc_tlc.descriptions.catalog import write_catalog
from nyc_tlc.errors import TlcError
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import COLORS, Color, Month
from nyc_tlc.pages.coverage import Loads, read_coverage
from nyc_tlc.pages.coverage_page import write_coverage_page
from nyc_tlc.pages.trips_page import write_trips_page
from nyc_tlc.planning.month_plan import MonthPlan
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.planning.plan import list_months, plan_months
from nyc_tlc.profiles.opening import choose_warehouses, open_lake, open_warehouse
from nyc_tlc.runs import command_line, tasks
from nyc_tlc.runs.flow_runs import RUN_OPTIONS, Outcome, profile_run_name
from nyc_tlc.runs.options import Profile
from nyc_tlc.source.published import find_newest
from nyc_tlc.warehouse.protocol import Kind, Load


@flow(flow_run_name=profile_run_name, **RUN_OPTIONS)
def report(*, profile: Profile = None, source: str | None = None, offline: bool = False) -> Outcome:
    """Write the coverage page, a page of trips for each colour, and the catalog into the lake.

    The pages are in the lake's folder reports/ and need only a browser, no network; the catalog is datapackage.json.

    Args:
        source: The source to ask which months are published or changed; TLC_SOURCE or tlc if left out.
        offline: Ask no source: the coverage page then shows only the lake and the warehouses.
    """
    profile, kinds = choose_warehouses(profile, None)
    lake, notes = open_lake(profile), list[str]()

    loads = _read_loads(profile, kinds, notes)
    plans = [] if offline else _look_at_source(MonthOptions.of(source, profile), lake, notes)
    months = read_coverage(lake, loads, plans)
    ui = PREFECT_UI_URL.value()
    coverage = write_coverage_page(lake, months, list(loads), notes, f"{ui}/runs/flow-run/" if ui else "")
    trips = [page for color in COLORS if (page := write_trips_page(lake, color))]
    catalog = write_catalog(lake)

    lines = [*notes, *(f"page        {place}" for place in (coverage, *trips)), f"catalog     {catalog}"]
    tasks.write_artifact("The pages in the lake", "\n".join(f"* `{line}`" for line in lines), "reports")
    return Outcome("\n".join(lines))


def _read_loads(profile: str, kinds: Sequence[Kind], notes: list[str]) -> Loads:
    """Return the loads of each warehouse. A warehouse that does not answer is left out, with a note."""
    loads: dict[Kind, Mapping[tuple[Color, Month], Load]] = {}
    for kind in kinds:
        try:
            loads[kind] = open_warehouse(profile, kind).loads()
        except TlcError as error:
            notes.append(f"{kind} is left out: {error}")
    return loads


def _look_at_source(options: MonthOptions, lake: Lake, notes: list[str]) -> list[MonthPlan]:
    """Plan every month from the source; empty, with a note, if the source does not answer."""
    try:
        # Without this, a source that does not answer would be asked once for each month.
        find_newest(options.source, "yellow", Month.current())
        asked = list_months(COLORS, None, None, 1, None, Month.current())
        return plan_months(asked, options, lake, {})
    except TlcError as error:
        notes.append(f"New and changed months are unknown: {error}")
        return []


if __name__ == "__main__":
    command_line.run(report)
