"""Load one month from the data lake into one warehouse: the body of the three flows ``etl_gcs_to_*``."""

from __future__ import annotations

from nyc_tlc.month import Color
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.runs import tasks
from nyc_tlc.runs.month_report import Outcome, format_answers
from nyc_tlc.source.location import read_requested_month
from nyc_tlc.warehouse.protocol import Kind


def load_from_lake(
    kind: Kind, color: Color, year: int | None, month: int | None, profile: str | None, force: bool
) -> Outcome:
    """Replace a month's rows in a warehouse by those of the data lake; see the flows for the parameters.

    Returns:
        The text for the terminal, and the month's manifest.
    """
    options = MonthOptions.of(None, profile, force=force)
    manifest = tasks.find(color, read_requested_month(color, year, month), options.profile)
    answer = tasks.query(manifest, options, kind, tasks.load(manifest, options, kind))
    tasks.report_load(manifest, options.profile, [answer])
    return Outcome(format_answers(manifest, [answer]), manifest)
