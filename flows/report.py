"""Write the HTML pages into the lake: one about the coverage of months, and one about each colour's trips."""

from __future__ import annotations

import nyc_tlc.runs.script  # noqa: F401

from prefect import flow
from prefect.settings import PREFECT_UI_URL

from nyc_tlc.descriptions.catalog import write_catalog
from nyc_tlc.errors import TlcError
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import COLORS, Month
from nyc_tlc.pages.coverage import find_newest_months, read_coverage
from nyc_tlc.pages.coverage_page import write_coverage_page
from nyc_tlc.pages.trips_page import write_trips_page
from nyc_tlc.planning.month_plan import MonthPlan
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.planning.plan import list_months, plan_months
from nyc_tlc.planning.record import read_last_catch_up
from nyc_tlc.planning.troubles import read_troubles
from nyc_tlc.profiles.opening import choose_warehouses, find_schema, open_lake
from nyc_tlc.runs import command_line, tasks
from nyc_tlc.runs.flow_runs import RUN_OPTIONS, Outcome, profile_run_name
from nyc_tlc.runs.options import Profile


@flow(flow_run_name=profile_run_name, **RUN_OPTIONS)
def report(*, profile: Profile = None, source: str | None = None, offline: bool = False) -> Outcome:
    """Write the coverage page, a page of trips for each colour, and the catalog into the lake.

    The pages are in the lake's folder reports/ and need only a browser, no network; the catalog is datapackage.json.

    Args:
        source: The source to ask which months are published or changed. If it is left out, what the last catch-up saw
            is shown, or TLC_SOURCE is asked if there was none for two days.
        offline: Ask no source: the coverage page then shows only the lake and the warehouses.
    """
    profile, kinds = choose_warehouses(profile, None)
    lake = open_lake(profile)

    loads, away = tasks.read_loads(profile, kinds)
    notes = [f"{kind} is left out: {why}" for kind, why in away.items()]
    notes += [f"{each.kind} since {each.since:%Y-%m-%d}: {each.text}" for each in read_troubles(lake)]
    plans = read_last_catch_up(lake) if source is None and not offline else []
    plans = plans or ([] if offline else _look_at_source(MonthOptions.of(source, profile), lake, notes))
    months = read_coverage(lake, loads, plans)
    ui = PREFECT_UI_URL.value()
    coverage = write_coverage_page(lake, months, list(loads), notes, f"{ui}/runs/flow-run/" if ui else "")
    trips = [page for color in COLORS if (page := write_trips_page(lake, color, find_schema(profile)))]
    catalog = write_catalog(lake)

    written = {"page": [coverage, *trips], "catalog": [catalog]}
    lines = [f"{what:<12}{place}" for what, places in written.items() for place in places]
    links = [f"* {what} {tasks.link_to(place)}" for what, places in written.items() for place in places]
    markdown = "\n".join([*(f"* {note}" for note in notes), *links])
    tasks.write_artifact("The pages in the lake", markdown, profile, "reports")
    for newest in find_newest_months(months, list(loads)):
        tasks.tell_age(newest, profile)
    return Outcome("\n".join([*notes, *lines]))


def _look_at_source(options: MonthOptions, lake: Lake, notes: list[str]) -> list[MonthPlan]:
    """Plan every month from the source; empty, with a note, if the source does not answer."""
    try:
        return plan_months(list_months(COLORS, None, None, 1, None, Month.current()), options, lake, {})
    except TlcError as error:
        notes.append(f"New and changed months are unknown: {error}")
        return []


if __name__ == "__main__":
    command_line.run(report)
