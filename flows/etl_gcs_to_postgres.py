"""Data lake -> Postgres: one month of one colour."""

from __future__ import annotations

import nyc_tlc.runs.script  # noqa: F401

from prefect import flow

from nyc_tlc.runs import command_line
from nyc_tlc.runs.flow_runs import RUN_OPTIONS, Outcome, run_name
from nyc_tlc.runs.month import load_from_lake
from nyc_tlc.runs.options import AsOf, Color, Force, MonthNumber, Profile, Year


@flow(flow_run_name=run_name, **RUN_OPTIONS)
def etl_gcs_to_postgres(
    color: Color = "yellow",
    year: Year = None,
    month: MonthNumber = None,
    *,
    as_of: AsOf = None,
    profile: Profile = None,
    force: Force = False,
) -> Outcome:
    """Replace a month's rows in Postgres by those of the data lake.

    The month is a partition. A new partition is filled, and replaces the old one in one transaction.
    """
    return load_from_lake("postgres", color, year, month, as_of, profile, force)


if __name__ == "__main__":
    command_line.run(etl_gcs_to_postgres)
