"""Tests for all three warehouses: a month there has exactly the rows of the lake's file, or its old rows."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import bucket
from factories import GREEN_2024, JANUARY, make_month, trip
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import ContractError, LakeError, ReconciliationError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.gcs import GcsLake
from nyc_tlc.month import Month
from nyc_tlc.planning.month_plan import find_published
from nyc_tlc.source.sample import write_sample
from nyc_tlc.warehouse.counts import find_wrong_counts
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import ask_where_trips_began, load_month
from nyc_tlc.warehouse.lookups import read_lookups
from nyc_tlc.warehouse.protocol import Kind, Warehouse
from nyc_tlc.warehouse.tables import trip_table
from stand_ins.bigquery import BigQuery
from stand_ins.gcs import Gcs
from waiting import eventually
from warehouse_cases import (
    FEBRUARY,
    client,
    fares,
    half_way,
    in_february,
    in_lake,
    job_at_work,
    month_jobs,
    ready,
    start_loader,
    trips,
)


@pytest.fixture
def stand_in(kind: Kind, request: pytest.FixtureRequest) -> BigQuery | None:
    """Return the BigQuery stand-in; None for the other warehouses."""
    return request.getfixturevalue("big_query") if kind == "bigquery" else None


def test_a_month_arrives_row_by_row_as_it_is_in_the_lake_and_once_unless_forced(
    warehouse: Warehouse, gcs: Gcs, tmp_path: Path
) -> None:
    lake = GcsLake(bucket(gcs.url), "taxi")
    file = in_lake(lake, tmp_path, *trips(50), trip(passenger_count=0), trip(VendorID=None, store_and_fwd_flag=None))
    load, new = load_month(file, warehouse, "a flow run")
    assert new
    with file.open() as source:
        expected = [tuple(row.values()) for row in pq.read_table(source).to_pylist()]
    names = ", ".join(file.contract.clean_schema.names)
    assert warehouse.query(f"SELECT {names} FROM ny_taxi.green_trip_data ORDER BY source_row") == expected
    assert len(expected) == 51
    assert warehouse.loads() == {("green", JANUARY): load}
    assert (load.row_count, load.clean_sha256) == (51, file.manifest.clean.sha256)
    assert (load.source_sha256, load.flow_run_id) == (file.manifest.source.sha256, "a flow run")
    assert load_month(file, warehouse, "second") == (load, False)
    forced, new = load_month(file, warehouse, "third", force=True)
    assert (new, forced.flow_run_id, len(fares(warehouse))) == (True, "third", 51)


def test_a_changed_month_replaces_the_old_one_and_leaves_its_neighbours(
    warehouse: Warehouse, lake: FolderLake, tmp_path: Path
) -> None:
    neighbour, _ = load_month(in_lake(lake, tmp_path, *in_february(4), month=FEBRUARY), warehouse)
    required = {"VendorID", "lpep_pickup_datetime", "lpep_dropoff_datetime"}
    nothing = {name: None for name in GREEN_2024 if name not in required}
    # The fourth file is the first one again.
    for rows in (trips(3), trips(7), [], trips(3), [trip(**nothing)]):
        load, new = load_month(in_lake(lake, tmp_path, *rows), warehouse)
        assert (new, fares(warehouse)) == (True, [row["fare_amount"] for row in rows])
    assert fares(warehouse, FEBRUARY) == [0, 1, 2, 3]
    assert warehouse.loads() == {("green", JANUARY): load, ("green", FEBRUARY): neighbour}


def test_a_schema_of_ones_own_holds_everything(
    reopen: Callable[..., Warehouse], lake: FolderLake, tmp_path: Path
) -> None:
    mine, file = reopen(schema="my_taxi"), in_lake(lake, tmp_path, *trips(3))
    for force in (False, True):
        load, _ = load_month(file, mine, None, force=force)
    answer = ask_where_trips_began(load, True, mine)
    assert (answer.rows[0][2], mine.loads()) == (3, {("green", JANUARY): load})
    assert " FROM my_taxi.green_trip_data t LEFT JOIN my_taxi.zones z" in answer.sql
    for view in ("trips_by_zone", "green_source"):
        assert mine.query(f"SELECT COUNT(*) FROM my_taxi.{view}") == [(3,)]
    assert find_wrong_counts(mine, mine.loads()) == {}
    assert reopen().loads() == {}


def test_rows_and_tables_that_someone_deleted_are_loaded_again(
    warehouse: Warehouse,
    kind: Kind,
    execute: Callable[[str], None],
    lake: FolderLake,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    file = in_lake(lake, tmp_path, *trips(3), trip(passenger_count=0))
    load_month(file, warehouse)
    for statement in (
        "DELETE FROM ny_taxi.green_trip_data WHERE fare_amount = 1",
        "DELETE FROM ny_taxi.green_quarantine WHERE source_row = 3",
        "DROP TABLE ny_taxi.green_trip_data CASCADE",
    ):
        if kind == "bigquery" and statement.startswith("DROP"):
            client(request.getfixturevalue("big_query").url).delete_table("test.ny_taxi.green_trip_data")
        else:
            execute(statement)
        assert load_month(file, warehouse)[1], statement
        assert fares(warehouse) == [0, 1, 2]
        assert warehouse.query("SELECT source_row FROM ny_taxi.green_quarantine") == [(3,)]


def test_all_eras_lie_in_one_table(warehouse: Warehouse, lake: FolderLake, tmp_path: Path) -> None:
    sample = tmp_path / "sample"
    for month in (Month(2009, 1), Month(2025, 1)):
        write_sample("yellow", month, 100, sample)
        load_month(ready(lake, make_month(lake, sample.read_bytes(), tmp_path, month, "yellow")), warehouse)
    found = warehouse.query(
        "SELECT file_month, COUNT(*), COUNT(pickup_location_id), COUNT(pickup_longitude), COUNT(cbd_congestion_fee)"
        " FROM ny_taxi.yellow_trip_data GROUP BY file_month ORDER BY file_month"
    )
    (old, old_rows, old_zones, old_places, old_fee), (new, new_rows, new_zones, new_places, new_fee) = found
    assert (old, old_zones, old_fee) == (date(2009, 1, 1), 0, 0)
    assert (new, new_places) == (date(2025, 1, 1), 0)
    assert old_places > old_rows / 2
    assert (new_zones, new_fee) == (new_rows, new_rows)


def test_a_table_gains_the_column_that_the_contract_gained(
    reopen: Callable[[], Warehouse], execute: Callable[[str], None], lake: FolderLake, tmp_path: Path
) -> None:
    warehouse = reopen()
    whole = read_contract("green")
    without = tuple(column for column in whole.columns if column.name != "cbd_congestion_fee")
    warehouse.prepare([trip_table(dataclasses.replace(whole, columns=without))], [], [])
    if warehouse.kind == "postgres":
        execute(
            "CREATE TABLE ny_taxi.older PARTITION OF ny_taxi.green_trip_data"
            " FOR VALUES FROM ('2023-12-01') TO ('2024-01-01')"
        )
    execute(
        "INSERT INTO ny_taxi.green_trip_data (file_month, source_row, fare_amount) VALUES (DATE '2023-12-01', 0, 9.5)"
    )
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    assert fares(warehouse, JANUARY.plus(-1)) == [9.5]
    assert fares(warehouse) == [0, 1, 2]
    sql = "SELECT COUNT(*), COUNT(cbd_congestion_fee) FROM ny_taxi.trips WHERE color = 'green'"
    assert warehouse.query(sql) == [(4, 0)]


def test_a_table_that_is_not_the_contracts_is_an_error_that_shows_both(
    reopen: Callable[[], Warehouse], lake: FolderLake, tmp_path: Path
) -> None:
    warehouse = reopen()
    file = in_lake(lake, tmp_path, *trips(3))
    as_text = tuple(
        column.model_copy(update={"type": "string"}) if column.name == "trip_distance" else column
        for column in file.contract.columns
    )
    table = trip_table(dataclasses.replace(file.contract, columns=as_text))
    warehouse.prepare([table], [], [])
    with pytest.raises(ContractError, match="green_trip_data") as caught:
        load_month(file, warehouse)
    assert caught.value.expected.startswith("trip_distance ")
    assert caught.value.got.startswith("trip_distance ")
    assert caught.value.expected != caught.value.got


@pytest.mark.parametrize("kind", ["duckdb"], indirect=True)
def test_a_file_that_is_not_the_manifests_is_not_loaded(warehouse: Warehouse, lake: FolderLake, tmp_path: Path) -> None:
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    file = in_lake(lake, tmp_path, *trips(5))
    path = lake.local_path(file.record.key)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(LakeError, match="green 2024-01"):
        load_month(file, warehouse)
    assert fares(warehouse) == [0, 1, 2]


def test_a_month_the_lake_lacks_is_an_error_with_the_command_that_makes_it(lake: FolderLake) -> None:
    with pytest.raises(LakeError, match=r"etl_web_to_gcs\.py --color green --year 2024 --month 1 --profile dev"):
        find_published(lake, "green", JANUARY, "dev")


def test_the_newest_month_of_the_lake_is_taken_when_none_is_named(lake: FolderLake, tmp_path: Path) -> None:
    for month, some in ((FEBRUARY, in_february(1)), (JANUARY, trips(1))):
        in_lake(lake, tmp_path, *some, month=month)
    assert find_published(lake, "green", None, "local").month == "2024-02"


class Cut(LakeFile):
    """A file that lacks one row, or has one more."""

    is_longer = False

    @property
    def path(self) -> Path | None:
        """None, so that every warehouse reads the batches."""
        return None

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows except one, or the first one twice."""
        rows = pa.Table.from_batches(super().batches())
        yield from (pa.concat_tables([rows.slice(0, 1), rows]) if self.is_longer else rows.slice(1)).to_batches()


@pytest.mark.parametrize("kind", ["duckdb", "postgres"], indirect=True)
def test_a_load_that_brings_other_rows_than_the_manifest_says_leaves_the_old_month(
    warehouse: Warehouse, lake: FolderLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    file = in_lake(lake, tmp_path, *trips(9))
    for is_longer in (False, True):
        monkeypatch.setattr(Cut, "is_longer", is_longer)
        with pytest.raises(ReconciliationError, match="green 2024-01"):
            load_month(Cut(file.manifest, file.lake), warehouse)
        assert fares(warehouse) == [0, 1, 2]
        assert warehouse.loads() == {("green", JANUARY): old}


@pytest.mark.parametrize("kind", ["postgres", "bigquery"], indirect=True)
def test_a_reader_sees_the_old_month_or_the_new_one(
    warehouse: Warehouse,
    reopen: Callable[[], Warehouse],
    stand_in: BigQuery | None,
    lake: FolderLake,
    tmp_path: Path,
) -> None:
    load_month(in_lake(lake, tmp_path, *trips(30)), warehouse)
    seen: list[int] = []
    done = threading.Event()

    def poll() -> None:
        reader = reopen()
        while not done.wait(0.02):
            seen.append(len(fares(reader)))

    def wait_for_three_looks() -> None:
        polled = len(seen)
        eventually(lambda: polling.done() or len(seen) >= polled + 3)

    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(poll)
        try:
            with half_way(in_lake(lake, tmp_path, *trips(50)), warehouse, stand_in):
                wait_for_three_looks()
                assert set(seen) == {30}
            wait_for_three_looks()
        finally:
            done.set()
        polling.result(30)
    assert set(seen) == {30, 50}
    assert seen == sorted(seen)


@pytest.mark.parametrize("kind", ["postgres", "bigquery"], indirect=True)
def test_two_loads_of_one_month_leave_one_copy(
    warehouse: Warehouse,
    reopen: Callable[[], Warehouse],
    stand_in: BigQuery | None,
    lake: FolderLake,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = in_lake(lake, tmp_path, *trips(40))
    load_month(in_lake(lake, tmp_path, *in_february(1), month=FEBRUARY), warehouse)
    caplog.set_level("INFO")
    with ThreadPoolExecutor(1) as pool:
        with half_way(file, warehouse, stand_in):
            second = pool.submit(load_month, file, reopen())
            met = "was already submitted" if stand_in else "waiting for up to"
            eventually(lambda: second.done() or met in caplog.text)
        load, new = second.result(60)
    assert fares(warehouse) == [float(number) for number in range(40)]
    assert warehouse.loads()["green", JANUARY] == load
    assert new == bool(stand_in), "Postgres waits and finds the month loaded, BigQuery shares the job"
    assert not stand_in or len(month_jobs(stand_in)) == 1


def test_loads_of_different_months_go_on_side_by_side(
    reopen: Callable[[], Warehouse], lake: FolderLake, tmp_path: Path
) -> None:
    files = [in_lake(lake, tmp_path, *trips(20))]
    files += [in_lake(lake, tmp_path, *in_february(10), month=FEBRUARY)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda file: load_month(file, reopen()), files))
    assert (len(fares(reopen())), len(fares(reopen(), FEBRUARY))) == (20, 10)


@pytest.mark.parametrize(
    "kind",
    ["duckdb", *(pytest.param(each, marks=pytest.mark.torture) for each in ("postgres", "bigquery"))],
    indirect=True,
)
def test_a_loader_killed_half_way_leaves_the_old_month_and_the_next_one_completes(
    warehouse: Warehouse,
    kind: Kind,
    stand_in: BigQuery | None,
    lake: FolderLake,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    file = in_lake(lake, tmp_path, *trips(40))
    where = str(tmp_path / "warehouse.duckdb")
    if stand_in:
        where, stand_in.pause = stand_in.url, threading.Event()
    elif kind == "postgres":
        where = json.dumps(request.getfixturevalue("postgres"))
    with start_loader(kind, where, lake) as loader:
        if stand_in:
            job_at_work(stand_in)
        else:
            assert loader.stdout
            assert loader.stdout.readline() == "half\n"
        loader.kill()
        assert loader.wait(30) == -signal.SIGKILL
    assert fares(warehouse) == [0, 1, 2]
    assert warehouse.loads()["green", JANUARY].row_count == 3
    if stand_in and stand_in.pause:
        stand_in.pause.set()
    load, new = load_month(file, warehouse)
    assert (load.row_count, new) == (40, True)
    assert len(fares(warehouse)) == 40
    if stand_in:
        assert len(month_jobs(stand_in)) == 2, "the job that the dead loader asked for was found, not done again"


def test_zones_and_codes_can_be_joined_at_once(warehouse: Warehouse, lake: FolderLake, tmp_path: Path) -> None:
    load_month(in_lake(lake, tmp_path, trip(PULocationID=264, DOLocationID=138), trip(PULocationID=74)), warehouse)
    assert warehouse.query("SELECT COUNT(*), COUNT(zone), COUNT(service_zone) FROM ny_taxi.zones") == [(265, 265, 265)]
    assert warehouse.query("SELECT zone, service_zone FROM ny_taxi.zones WHERE location_id = 265") == [
        ("Outside of NYC", "N/A")
    ]
    assert warehouse.query("SELECT name FROM ny_taxi.payment_types WHERE payment_type = 2") == [("Cash",)]
    shapes = dict(warehouse.query("SELECT location_id, shape FROM ny_taxi.zone_shapes"))
    assert len(shapes) == 260
    assert shapes[74].startswith("MULTIPOLYGON (((-73.9")
    found = warehouse.query(
        "SELECT color, pickup_borough, pickup_zone, dropoff_zone FROM ny_taxi.trips_by_zone ORDER BY source_row"
    )
    assert found[0] == ("green", "Unknown", "N/A", "LaGuardia Airport")
    load, _ = load_month(ready(lake, find_published(lake, "green", None, "local")), warehouse)
    assert ask_where_trips_began(load, False, warehouse).rows == (
        ("Manhattan", "East Harlem North", 1),
        ("Unknown", "N/A", 1),
    )


def test_lookups_are_replaced_as_a_whole(reopen: Callable[[], Warehouse]) -> None:
    warehouse = reopen()
    zones, *codes = read_lookups()
    fewer = dataclasses.replace(zones, rows=zones.rows.slice(0, 200))
    warehouse.prepare([], [fewer, *codes], [])
    warehouse.replace_lookups([zones])
    warehouse.replace_lookups([zones])
    assert warehouse.query("SELECT COUNT(*) FROM ny_taxi.zones") == [(265,)]
