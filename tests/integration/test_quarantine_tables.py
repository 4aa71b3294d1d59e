"""Rejected rows are in the warehouse too, so SQL can count all rows of the source file."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from factories import JANUARY, trip
from nyc_tlc.errors import ReconciliationError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.protocol import Warehouse
from warehouse_cases import FEBRUARY, in_february, in_lake, trips

LOST = trip(lpep_pickup_datetime=datetime(2009, 1, 1), passenger_count=0)


def test_rejected_rows_are_there_with_rule_and_source_and_replaced_with_their_month(
    warehouse: Warehouse, lake: FolderLake, tmp_path: Path
) -> None:
    file = in_lake(lake, tmp_path, *trips(5), trip(passenger_count=0), LOST)
    load, _ = load_month(file, warehouse)
    assert (load.row_count, load.source_rows, load.quarantine_rows) == (5, 7, 2)
    assert (load.source_kind, load.source_url) == ("template", file.manifest.source.url)
    assert warehouse.query("SELECT COUNT(*) FROM ny_taxi.green_source") == [(7,)]
    rejected = warehouse.query(
        "SELECT source_row, rejection_rule, passenger_count, source_kind FROM ny_taxi.green_source"
        " WHERE is_quarantined ORDER BY source_row"
    )
    assert rejected == [(5, "zero_passengers", 0, "template"), (6, "pickup_outside_month", 0, "template")]
    rules = warehouse.query("SELECT rejection_rules FROM ny_taxi.green_quarantine ORDER BY source_row")
    assert [list(row[0]) for row in rules] == [["zero_passengers"], ["pickup_outside_month", "zero_passengers"]]

    zero = trip(passenger_count=0, lpep_pickup_datetime=datetime(2024, 2, 10))
    load_month(in_lake(lake, tmp_path, *in_february(2), zero, month=FEBRUARY), warehouse)
    load_month(in_lake(lake, tmp_path, *trips(4), LOST), warehouse)
    counts = warehouse.query(
        "SELECT file_month, COUNT(*) FROM ny_taxi.green_quarantine GROUP BY file_month ORDER BY file_month"
    )
    assert counts == [(JANUARY.first_day, 1), (FEBRUARY.first_day, 1)]
    load_month(in_lake(lake, tmp_path, *trips(4)), warehouse)
    assert warehouse.query("SELECT COUNT(*) FROM ny_taxi.green_quarantine") == [(1,)]


@pytest.mark.parametrize("kind", ["duckdb", "postgres"], indirect=True)
def test_a_quarantine_file_that_is_short_leaves_the_old_month(
    warehouse: Warehouse, lake: FolderLake, tmp_path: Path
) -> None:
    load_month(in_lake(lake, tmp_path, *trips(3), LOST), warehouse)
    file = in_lake(lake, tmp_path, *trips(9), LOST, LOST)
    other = in_lake(FolderLake(tmp_path / "other"), tmp_path, *trips(9), LOST)
    assert file.quarantine.path
    assert other.quarantine.path
    file.quarantine.path.write_bytes(other.quarantine.path.read_bytes())
    with pytest.raises(ReconciliationError):
        # As a reader meets it that does not look at the size first.
        warehouse.replace_month(file, None)
    assert warehouse.query("SELECT COUNT(*) FROM ny_taxi.green_trip_data") == [(3,)]
    assert warehouse.query("SELECT COUNT(*) FROM ny_taxi.green_quarantine") == [(1,)]
