"""List the months in the lake and in each warehouse, without a request to the source."""

from __future__ import annotations

import nyc_tlc.runs.script  # noqa: F401

from prefect import flow

from nyc_tlc.month import COLORS, Color
from nyc_tlc.planning.troubles import format_troubles, read_troubles
from nyc_tlc.profiles.opening import choose_warehouses, open_lake
from nyc_tlc.runs import command_line, tasks
from nyc_tlc.runs.flow_runs import RUN_OPTIONS, Outcome, profile_run_name
from nyc_tlc.runs.options import Profile, Warehouses


@flow(flow_run_name=profile_run_name, **RUN_OPTIONS)
def months(
    *,
    colors: list[Color] = list(COLORS),  # noqa: B006  the UI's form shows this default
    warehouses: Warehouses = None,
    profile: Profile = None,
) -> Outcome:
    """List the months in the lake and the warehouses, with their rows and sources, and the open troubles.

    Args:
        colors: Which trip records.
    """
    profile, kinds = choose_warehouses(profile, warehouses)
    troubles = format_troubles(read_troubles(open_lake(profile)))
    return Outcome("\n\n".join(filter(None, (tasks.report_months(profile, colors, kinds), troubles))))


if __name__ == "__main__":
    command_line.run(months)
