"""Load one month from the data lake into one warehouse: the body of the three flows ``etl_gcs_to_*``."""

from __future__ import annotations

from nyc_tlc.month import Color
from nyc_tlc.runs import tasks
from nyc_tlc.runs.month_report import Outcome, format_answers
from nyc_tlc.runs.run_names import rename_run
from nyc_tlc.settings import read_settings
from nyc_tlc.source.location import read_requested_month
from nyc_tlc.warehouse.protocol import Kind


def load_from_lake(
    kind: Kind, color: Color, year: int | None, month: int | None, profile: str | None, force: bool
) -> Outcome:
    """Replace a month's rows in a warehouse by those of the data lake.

    Args:
        kind: Which warehouse.
        color: Which trip records.
        year: The month's year; None, with month, for the newest month in the lake.
        month: The month, 1 to 12.
        profile: Which set of blocks to use; None for TLC_PROFILE or local.
        force: Whether to load files that are already loaded.

    Returns:
        The text for the terminal, and the month's manifest.
    """
    profile = profile or read_settings().profile
    manifest = tasks.find(color, read_requested_month(color, year, month), profile)
    rename_run(manifest)
    answer = tasks.load(manifest, profile, kind, force)
    tasks.report_load(manifest, [answer])
    return Outcome(format_answers(manifest, [answer]), manifest)
