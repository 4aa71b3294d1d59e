"""Check that a profile can use its lake, its source and its warehouses."""

from __future__ import annotations

import nyc_tlc.runs.script  # noqa: F401

from prefect import flow
from prefect.runtime import deployment

from nyc_tlc.errors import ReportedError
from nyc_tlc.profiles.connections import Part
from nyc_tlc.profiles.opening import choose_warehouses
from nyc_tlc.runs import command_line, tasks
from nyc_tlc.runs.flow_runs import RUN_OPTIONS, Outcome, profile_run_name
from nyc_tlc.runs.options import Profile, Source, Warehouses
from nyc_tlc.settings import read_settings


@flow(flow_run_name=profile_run_name, **RUN_OPTIONS)
def check_connections(*, warehouses: Warehouses = None, profile: Profile = None, source: Source = None) -> Outcome:
    """Check that a profile can use its lake, its source and its warehouses, and that the next months have room.

    In the lake, an object is written under a scratch key, read back and deleted. In a warehouse, SELECT 1 is run and
    the permission to create tables is checked. BigQuery also loads one row from the bucket into a scratch table. The
    source is asked for the newest month of each colour, without a download; one that is overdue is an error. A
    deployment's run also checks the settings of its server.
    """
    profile, kinds = choose_warehouses(profile, warehouses)
    parts: list[Part] = ["lake", *kinds, "source", "disk"]
    findings = [tasks.check(part, profile, source or read_settings().source) for part in parts]
    if deployment.id:
        findings.append(tasks.check_server())
    text = "\n".join(about for _, about in findings)
    tasks.write_artifact(f"Profile {profile}", f"```\n{text}\n```\n", profile, "connections")
    if not all(fine for fine, _ in findings):
        raise ReportedError(f"the profile {profile} can't be used: see the lines with FAIL", text)
    return Outcome(text)


if __name__ == "__main__":
    command_line.run(check_connections)
