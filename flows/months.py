"""List the months in the lake and in each warehouse, without a request to the source."""

from __future__ import annotations

import nyc_tlc.runs.script  # noqa: F401

from prefect import flow

from nyc_tlc.month import COLORS, Color
from nyc_tlc.profiles.opening import choose_warehouses
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
    """List the months in the lake and the warehouses, with their rows and sources.

    Args:
        colors: Which trip records.
    """
    profile, kinds = choose_warehouses(profile, warehouses)
    return Outcome(tasks.report_months(profile, colors, kinds))


if __name__ == "__main__":
    command_line.run(months)
