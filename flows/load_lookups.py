"""Zones and code tables -> warehouses."""

from __future__ import annotations

import nyc_tlc.runs.script  # noqa: F401

from prefect import flow

from nyc_tlc.profiles.opening import choose_warehouses
from nyc_tlc.runs import command_line, tasks
from nyc_tlc.runs.flow_runs import RUN_OPTIONS, Outcome, profile_run_name
from nyc_tlc.runs.options import Profile, Warehouses
from nyc_tlc.warehouse.lookups import fetch_zone_shapes, fetch_zones


@flow(flow_run_name=profile_run_name, **RUN_OPTIONS)
def load_lookups(*, warehouses: Warehouses = None, profile: Profile = None, offline: bool = False) -> Outcome:
    """Load the current taxi zones, their shapes and the meanings of the trip records' codes into warehouses.

    Args:
        offline: Use the embedded copies, whose shapes are simplified, and do not download TLC's files.
    """
    profile, kinds = choose_warehouses(profile, warehouses)
    zones, shapes = (None, None) if offline else (fetch_zones(), fetch_zone_shapes())
    places = [tasks.load_lookups(zones, shapes, profile, kind) for kind in kinds]
    return Outcome("\n".join(f"zones and code tables are in {place}" for place in places))


if __name__ == "__main__":
    command_line.run(load_lookups)
