"""Data lake -> Postgres: one month of one colour."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from nyc_tlc.months import Color
from nyc_tlc.orchestration import command_line, tasks
from nyc_tlc.orchestration.month_report import Outcome, format_answers
from nyc_tlc.orchestration.run_names import name_run, run_name
from nyc_tlc.settings import read_settings
from nyc_tlc.source.location import read_requested_month


@flow(flow_run_name=run_name)
def etl_gcs_to_postgres(
    color: Color = "yellow",
    year: Annotated[int, Field(ge=2009, le=2100)] | None = None,
    month: Annotated[int, Field(ge=1, le=12)] | None = None,
    *,
    profile: str | None = None,
    force: bool = False,
) -> Outcome:
    """Make a month's rows in Postgres exactly those of the data lake.

    The month becomes a partition, swapped in for the old one in one transaction.

    Args:
        color: Which trip records.
        year: The month's year; leave year and month out for the newest month the lake has.
        month: The month, 1 to 12.
        profile: Which set of blocks to use; TLC_PROFILE or local if left out.
        force: Load the month even when just this file of it is loaded.
    """
    profile = profile or read_settings().profile
    manifest = tasks.find(color, read_requested_month(color, year, month), profile)
    name_run(manifest)
    answer = tasks.load(manifest, profile, "postgres", force)
    tasks.report_load(manifest, [answer])
    return Outcome(format_answers(manifest, [answer]), manifest)


if __name__ == "__main__":
    command_line.run(etl_gcs_to_postgres)
