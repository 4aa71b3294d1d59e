"""Warehouse -> dbt models, for the months that changed."""

from __future__ import annotations

import nyc_tlc.runs.script  # noqa: F401

from prefect import flow

from nyc_tlc.profiles.opening import choose_warehouses
from nyc_tlc.runs import command_line
from nyc_tlc.runs.dbt import build_models
from nyc_tlc.runs.flow_runs import RUN_OPTIONS, Outcome, profile_run_name
from nyc_tlc.runs.options import Profile, Warehouses


@flow(flow_run_name=profile_run_name, **RUN_OPTIONS)
def transform(*, warehouses: Warehouses = None, profile: Profile = None, force: bool = False) -> Outcome:
    """Build and test the dbt models of the loaded months.

    Only months that were loaded, replaced or removed since the last run are built.

    Args:
        force: Build all months again.
    """
    profile, kinds = choose_warehouses(profile, warehouses)
    return Outcome(build_models(profile, kinds, force=force))


if __name__ == "__main__":
    command_line.run(transform)
