"""Compare the rows of a warehouse's tables with its table ``loads``."""

from __future__ import annotations

from collections.abc import Mapping

from nyc_tlc.month import Color, Month
from nyc_tlc.warehouse.protocol import Kind, Load, Warehouse

#: Warehouse -> month -> a message, for months whose rows are not as many as ``loads`` says.
Wrong = Mapping[Kind, Mapping[tuple[Color, Month], str]]


def find_wrong_counts(
    warehouse: Warehouse, loads: Mapping[tuple[Color, Month], Load]
) -> dict[tuple[Color, Month], str]:
    """Return the loaded months whose rows are not as many as ``loads`` says, with a message for each.

    One query for each table of trips and of quarantine.
    """
    wrong = {}
    for color in dict.fromkeys(color for color, _ in loads):
        trips, quarantine = (_count(warehouse, f"{color}_{table}") for table in ("trip_data", "quarantine"))
        for (_, month), load in ((which, load) for which, load in loads.items() if which[0] == color):
            counted = (trips.get(month, 0), quarantine.get(month, 0))
            if counted != (load.row_count, load.quarantine_rows):
                rows = f"{counted[0]:,} rows and {counted[1]:,} in quarantine"
                said = f"{load.row_count:,} and {load.quarantine_rows or 0:,}"
                wrong[color, month] = f"{color} {month}: {warehouse.place} has {rows}; loads says {said}"
    return wrong


def _count(warehouse: Warehouse, table: str) -> dict[Month, int]:
    rows = warehouse.query(f"SELECT file_month, COUNT(*) FROM {warehouse.schema}.{table} GROUP BY file_month")
    return {Month(day.year, day.month): int(count) for day, count in rows}
