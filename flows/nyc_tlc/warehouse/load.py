"""Load a month from the lake into a warehouse."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from nyc_tlc.errors import ConflictError, TlcError
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.lookups import read_lookups
from nyc_tlc.warehouse.protocol import Load, Warehouse
from nyc_tlc.warehouse.tables import list_views, month_tables
from nyc_tlc.warehouse.volume import check_volume, read_trailing

log = logging.getLogger(__name__)


def load_month(
    file: LakeFile, warehouse: Warehouse, flow_run_id: str | None = None, *, force: bool = False
) -> tuple[Load, bool]:
    """Replace a month's rows in a warehouse by those in the lake.

    Returns:
        The month's row of ``loads``, and whether it is new: a file that is loaded already is only loaded by force.

    Raises:
        LakeError: when a file in the lake differs from its manifest.
        ConflictError: when another run replaced the month in the lake meanwhile.
        ContractError: when a table in the warehouse differs from the contract.
        ReconciliationError: when the row counts differ.
        VolumeError: when the month has far fewer or far more rows than the months before it, and force is not set.
        TransientError: when a later attempt can succeed.
    """
    if not force:
        check_volume(file.manifest, read_trailing(file.lake, file.manifest))
    try:
        file.check()
        file.quarantine.check()
        warehouse.prepare(month_tables(), read_lookups(), list_views(warehouse.schema))
        load, new = warehouse.replace_month(file, flow_run_id, force=force)
    except TlcError as error:
        if file.record.key.startswith("history/") or file.lake.manifest(file.manifest.month_keys) == file.manifest:
            raise
        raise ConflictError(
            f"{file.name}: another run replaced it in the lake while it was loaded",
            got=str(error),
            fix="that run loads it; or run this again",
        ) from error
    if new:
        log.info("%s: %s rows loaded into %s", file.name, f"{load.row_count:,}", warehouse.place)
    else:
        log.info("%s: this file is already loaded into %s", file.name, warehouse.place)
    return load, new


@dataclass(frozen=True)
class Answer:
    """A loaded month, and an example query on it with its result: borough, zone and number of trips.

    ``new`` is whether this run loaded it.
    """

    place: str
    load: Load
    new: bool
    sql: str
    rows: tuple[tuple[str | None, str | None, int], ...]


def ask_where_trips_began(load: Load, new: bool, warehouse: Warehouse) -> Answer:
    """Query a warehouse for the zones where most of a month's trips began."""
    at = f"{warehouse.schema}.{load.color}_trip_data"
    sql = (
        f"SELECT z.borough, z.zone, COUNT(*) AS trips FROM {at} t LEFT JOIN {warehouse.schema}.zones z"
        f" ON z.location_id = t.pickup_location_id WHERE t.file_month = DATE '{load.month.first_day}'"
        " GROUP BY z.borough, z.zone ORDER BY trips DESC, z.zone LIMIT 3"
    )
    rows = tuple((borough, zone, int(trips)) for borough, zone, trips in warehouse.query(sql))
    return Answer(warehouse.place, load, new, sql, rows)
