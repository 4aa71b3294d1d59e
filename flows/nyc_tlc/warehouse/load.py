"""A month in the lake -> a warehouse."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from nyc_tlc.errors import LakeError
from nyc_tlc.lake.clean_file import CleanFile
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.lake import Lake
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.months import Color, Month
from nyc_tlc.warehouse.lookups import read_lookups
from nyc_tlc.warehouse.tables import SCHEMA, list_views, month_tables, trip_tables
from nyc_tlc.warehouse.warehouse import Load, Warehouse

log = logging.getLogger(__name__)


def find_published(lake: Lake, color: Color, month: Month | None, profile: str) -> Manifest:
    """A month that the lake has.

    Args:
        lake: The lake.
        color: The colour.
        month: The month; None for the newest the lake has.
        profile: Named in what the error says to do.

    Raises:
        LakeError: when the lake doesn't have it.
    """
    newest = max(lake.months(color), default=None) if month is None else month
    manifest = lake.manifest(Keys(color, newest)) if newest else None
    if manifest is None:
        which = f"--color {color}" + (f" --year {month.year} --month {month.month}" if month else "")
        raise LakeError(
            f"{color} {month or 'trip records'}: not in the lake {lake.url('')}",
            fix=f"make it: python flows/etl_web_to_gcs.py {which} --profile {profile}",
        )
    return manifest


def load_month(
    file: CleanFile, warehouse: Warehouse, flow_run_id: str | None = None, *, force: bool = False
) -> tuple[Load, bool]:
    """Make a month's rows in a warehouse exactly those in the lake.

    Args:
        file: The month in the lake.
        warehouse: Where it goes.
        flow_run_id: The flow run at work.
        force: Whether to load it even when just that file is loaded.

    Returns:
        The month's row of ``loads``, and whether it is new.

    Raises:
        LakeError: when the lake's file is not the manifest's.
        ContractError: when the table there is not the contract's.
        ReconciliationError: when the counts don't agree.
        TransientError: when time can heal it.
    """
    file.check()
    file.quarantine.check()
    warehouse.prepare(month_tables(file.contract), read_lookups(), list_views(trip_tables(file.contract)))
    load, new = warehouse.replace_month(file, flow_run_id, force=force)
    if new:
        log.info("%s: %s rows loaded into %s", file.name, f"{load.row_count:,}", warehouse.place)
    else:
        log.info("%s: just this file is loaded in %s already", file.name, warehouse.place)
    return load, new


@dataclass(frozen=True)
class Answer:
    """A loaded month, and the first question anyone has, asked of its warehouse.

    Attributes:
        place: The warehouse.
        load: The month's row of ``loads``.
        new: Whether it was loaded just now.
        sql: The question: where most trips began.
        rows: The answer: borough, zone, trips.
    """

    place: str
    load: Load
    new: bool
    sql: str
    rows: tuple[tuple[str | None, str | None, int], ...]


def ask_where_trips_began(load: Load, new: bool, warehouse: Warehouse) -> Answer:
    """Ask a warehouse where most of a month's trips began."""
    at = f"{SCHEMA}.{load.color}_trip_data"
    sql = (
        f"SELECT z.borough, z.zone, COUNT(*) AS trips FROM {at} t LEFT JOIN {SCHEMA}.zones z"
        f" ON z.location_id = t.pickup_location_id WHERE t.file_month = DATE '{load.month.first_day}'"
        " GROUP BY z.borough, z.zone ORDER BY trips DESC, z.zone LIMIT 3"
    )
    rows = tuple((borough, zone, int(trips)) for borough, zone, trips in warehouse.query(sql))
    return Answer(warehouse.place, load, new, sql, rows)
