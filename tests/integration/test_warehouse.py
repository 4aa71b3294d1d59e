"""One suite for the three warehouses: a month there is exactly the lake's file, or what it was before."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from conftest import ROOT, bucket
from factories import GREEN_2024, JANUARY, fetched, green_parquet, make_month, trip
from nyc_tlc.cleaning.clean import clean_month
from nyc_tlc.cleaning.publish import publish_month
from nyc_tlc.contract.contract import read_contract
from nyc_tlc.errors import ConfigurationError, ContractError, LakeError, ReconciliationError, TlcError, TransientError
from nyc_tlc.lake.clean_file import CleanFile
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.gcs import GcsLake
from nyc_tlc.lake.lake import Lake
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.months import Color, Month
from nyc_tlc.source.sample import write_sample
from nyc_tlc.warehouse.bigquery import BigQueryWarehouse
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from nyc_tlc.warehouse.load import ask, load_month, published
from nyc_tlc.warehouse.lookups import read_lookups
from nyc_tlc.warehouse.postgres import PostgresWarehouse
from nyc_tlc.warehouse.tables import trip_table
from nyc_tlc.warehouse.warehouse import Kind, Warehouse
from stand_ins.bigquery import BigQuery, Fault
from stand_ins.gcs import Gcs

FEBRUARY = JANUARY.plus(1)
ALL: tuple[Kind, ...] = ("duckdb", "postgres", "bigquery")


@pytest.fixture
def big_query(gcs: Gcs) -> Iterator[BigQuery]:
    """BigQuery, which reads the bucket."""

    def read(bucket_name: str, name: str) -> bytes | None:
        return gcs.read(bucket_name, name) if name in gcs.names(bucket_name) else None

    with BigQuery("test", read).running() as big_query:
        yield big_query


@pytest.fixture(params=ALL)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Which warehouse."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def reopen(kind: Kind, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Warehouse]:
    """Opens the test's warehouse."""
    if kind == "duckdb":
        return lambda: DuckDbWarehouse(tmp_path / "warehouse.duckdb")
    if kind == "postgres":
        parameters = request.getfixturevalue("postgres")
        return lambda: PostgresWarehouse(parameters)
    url = request.getfixturevalue("big_query").url
    return lambda: BigQueryWarehouse(client(url))


@pytest.fixture
def warehouse(reopen: Callable[[], Warehouse]) -> Warehouse:
    """The test's warehouse."""
    return reopen()


@pytest.fixture
def lake(tmp_path: Path) -> FolderLake:
    """A lake."""
    return FolderLake(tmp_path / "lake")


def client(url: str) -> bigquery.Client:
    return bigquery.Client("test", AnonymousCredentials(), client_options={"api_endpoint": url})


def in_lake(lake: Lake, folder: Path, *trips: dict[str, Any], month: Month = JANUARY) -> CleanFile:
    """Green trips, in the lake and ready to be loaded."""
    return ready(lake, make_month(lake, green_parquet(*trips), folder, month))


def ready(lake: Lake, manifest: Manifest) -> CleanFile:
    return CleanFile(manifest, lake, read_contract(manifest.color))


def trips(count: int, **changes: Any) -> list[dict[str, Any]]:
    return [trip(fare_amount=float(number), **changes) for number in range(count)]


def in_february(count: int) -> list[dict[str, Any]]:
    pickup = FEBRUARY.start.replace(day=10)
    return trips(count, lpep_pickup_datetime=pickup)


def fares(warehouse: Warehouse, month: Month = JANUARY, color: Color = "green") -> list[float]:
    return [
        row[0]
        for row in warehouse.query(
            f"SELECT fare_amount FROM ny_taxi.{color}_trip_data"
            f" WHERE file_month = DATE '{month.first_day}' ORDER BY source_row"
        )
    ]


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_a_month_arrives_row_by_row_as_it_is_in_the_lake(
    warehouse: Warehouse, gcs: Gcs, tmp_path: Path, place: str
) -> None:
    lake = FolderLake(tmp_path / "lake") if place == "folder" else GcsLake(bucket(gcs.url), "taxi")
    file = in_lake(lake, tmp_path, *trips(50), trip(passenger_count=0), trip(VendorID=None, store_and_fwd_flag=None))
    load, new = load_month(file, warehouse, "a flow run")
    assert new
    with file.open() as source:
        expected = [tuple(row.values()) for row in pq.read_table(source).to_pylist()]
    names = ", ".join(file.terms.clean_schema.names)
    assert warehouse.query(f"SELECT {names} FROM ny_taxi.green_trip_data ORDER BY source_row") == expected
    assert len(expected) == 51
    assert warehouse.loads() == {("green", JANUARY): load}
    assert (load.row_count, load.clean_sha256) == (51, file.manifest.clean.sha256)
    assert (load.source_sha256, load.flow_run_id) == (file.manifest.source.sha256, "a flow run")


def test_bigquery_loads_from_the_bucket_without_passing_through_this_machine(
    big_query: BigQuery, gcs: Gcs, tmp_path: Path
) -> None:
    file = in_lake(GcsLake(bucket(gcs.url), "taxi"), tmp_path, *trips(5))
    load_month(file, BigQueryWarehouse(client(big_query.url)))
    loaded = [
        call.json["configuration"]
        for call in big_query.calls
        if call.method == "POST" and call.path.endswith("/jobs") and b"$202401" in call.body
    ]
    assert [job["load"]["sourceUris"] for job in loaded] == [[file.url]]
    assert loaded[0]["load"]["destinationTable"]["tableId"] == "green_trip_data$202401"
    assert loaded[0]["load"]["writeDisposition"] == "WRITE_TRUNCATE"
    assert loaded[0]["labels"]["clean_sha256"] == file.manifest.clean.sha256[:63]
    assert loaded[0]["load"]["schema"]["fields"][1] == {
        "name": "pickup_datetime",
        "type": "DATETIME",
        "mode": "NULLABLE",
        "description": "When the meter was engaged (New York wall-clock time)",
    }


def test_the_same_file_is_loaded_once_unless_forced(warehouse: Warehouse, lake: FolderLake, tmp_path: Path) -> None:
    file = in_lake(lake, tmp_path, *trips(3))
    first, _ = load_month(file, warehouse, "first")
    assert load_month(file, warehouse, "second") == (first, False)
    forced, new = load_month(file, warehouse, "third", force=True)
    assert new
    assert forced.flow_run_id == "third"
    assert fares(warehouse) == [0, 1, 2]


def test_a_changed_month_replaces_the_old_one_and_leaves_its_neighbours(
    warehouse: Warehouse, lake: FolderLake, tmp_path: Path
) -> None:
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    neighbour, _ = load_month(in_lake(lake, tmp_path, *in_february(4), month=FEBRUARY), warehouse)
    changed, _ = load_month(in_lake(lake, tmp_path, *trips(7)), warehouse)
    assert fares(warehouse) == [0, 1, 2, 3, 4, 5, 6]
    assert fares(warehouse, FEBRUARY) == [0, 1, 2, 3]
    assert warehouse.loads() == {("green", JANUARY): changed, ("green", FEBRUARY): neighbour}


def test_going_back_to_an_earlier_file_is_a_change_too(warehouse: Warehouse, lake: FolderLake, tmp_path: Path) -> None:
    for count in (3, 5, 3):
        load_month(in_lake(lake, tmp_path, *trips(count)), warehouse)
        assert len(fares(warehouse)) == count


def test_rows_that_someone_deleted_are_loaded_again(
    warehouse: Warehouse, reopen: Callable[[], Warehouse], kind: Kind, lake: FolderLake, tmp_path: Path, request: Any
) -> None:
    file = in_lake(lake, tmp_path, *trips(3))
    load_month(file, warehouse)
    delete = "DELETE FROM ny_taxi.green_trip_data WHERE fare_amount = 1"
    if kind == "duckdb":
        with duckdb.connect(tmp_path / "warehouse.duckdb") as connection:
            connection.execute(delete)
    elif kind == "postgres":
        with psycopg2.connect(**request.getfixturevalue("postgres")) as connection, connection.cursor() as cursor:
            cursor.execute(delete)
    else:
        client(request.getfixturevalue("big_query").url).query_and_wait(delete)
    assert load_month(file, reopen())[1]
    assert fares(warehouse) == [0, 1, 2]


def test_all_eras_lie_in_one_table(warehouse: Warehouse, lake: FolderLake, tmp_path: Path) -> None:
    sample = tmp_path / "sample"
    for month in (Month(2009, 1), Month(2025, 1)):
        write_sample("yellow", month, 300, sample)
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


def test_an_empty_month_and_columns_of_nulls_are_fine(warehouse: Warehouse, lake: FolderLake, tmp_path: Path) -> None:
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    load, new = load_month(in_lake(lake, tmp_path), warehouse)
    assert (load.row_count, new) == (0, True)
    assert fares(warehouse) == []
    required = {"VendorID", "lpep_pickup_datetime", "lpep_dropoff_datetime"}
    nothing = {name: None for name in GREEN_2024 if name not in required}
    load_month(in_lake(lake, tmp_path, trip(**nothing)), warehouse)
    assert fares(warehouse) == [None]


def test_a_table_gains_the_column_that_the_contract_gained(
    warehouse: Warehouse, lake: FolderLake, tmp_path: Path
) -> None:
    whole = read_contract("green")
    without = tuple(column for column in whole.columns if column.name != "cbd_congestion_fee")
    terms = dataclasses.replace(whole, columns=without)
    cleaned = clean_month(fetched(green_parquet(*trips(3)), tmp_path), terms, lake)
    load_month(CleanFile(publish_month(cleaned, terms, lake, datetime.now(UTC)), lake, terms), warehouse)
    later = in_lake(lake, tmp_path, *in_february(2), month=FEBRUARY)
    load_month(later, warehouse)
    assert fares(warehouse) == [0, 1, 2]
    assert warehouse.query("SELECT COUNT(*), COUNT(cbd_congestion_fee) FROM ny_taxi.trips WHERE color = 'green'") == [
        (5, 0)
    ]


def test_a_table_that_is_not_the_contracts_is_an_error_that_shows_both(
    warehouse: Warehouse, lake: FolderLake, tmp_path: Path
) -> None:
    file = in_lake(lake, tmp_path, *trips(3))
    as_text = tuple(
        column.model_copy(update={"type": "string"}) if column.name == "trip_distance" else column
        for column in file.terms.columns
    )
    table = trip_table(dataclasses.replace(file.terms, columns=as_text))
    warehouse.prepare([table], [], [])
    with pytest.raises(ContractError, match="green_trip_data") as caught:
        load_month(file, warehouse)
    assert caught.value.expected.startswith("trip_distance ")
    assert caught.value.got.startswith("trip_distance ")
    assert caught.value.expected != caught.value.got


def test_a_file_that_is_not_the_manifests_is_not_loaded(warehouse: Warehouse, lake: FolderLake, tmp_path: Path) -> None:
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    file = in_lake(lake, tmp_path, *trips(5))
    assert file.path
    file.path.write_bytes(file.path.read_bytes() + b"more")
    with pytest.raises(LakeError, match="green 2024-01"):
        load_month(file, warehouse)
    assert fares(warehouse) == [0, 1, 2]


def test_a_month_the_lake_lacks_is_an_error_with_the_command_that_makes_it(lake: FolderLake) -> None:
    with pytest.raises(LakeError, match=r"etl_web_to_gcs\.py --color green --year 2024 --month 1 --profile dev"):
        published(lake, "green", JANUARY, "dev")


def test_the_newest_month_of_the_lake_is_taken_when_none_is_named(lake: FolderLake, tmp_path: Path) -> None:
    for month, some in ((FEBRUARY, in_february(1)), (JANUARY, trips(1))):
        in_lake(lake, tmp_path, *some, month=month)
    assert published(lake, "green", None, "local").month == "2024-02"


class HalfOf(CleanFile):
    """A file of which a load gets half the batches, until it is told to go on, or the end."""

    path = None  # type: ignore[assignment]
    reached = threading.Event()
    go_on = threading.Event()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The first half, a pause, the rest."""
        whole = pa.Table.from_batches(super().batches())
        half = len(whole) // 2
        yield from whole.slice(0, half).to_batches()
        self.reached.set()
        self.go_on.wait(60)
        yield from whole.slice(half).to_batches()


class Cut(CleanFile):
    """A file that ends before its last row."""

    path = None  # type: ignore[assignment]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows but one."""
        yield from pa.Table.from_batches(super().batches()).slice(1).to_batches()


@pytest.mark.parametrize("kind", ["duckdb", "postgres"], indirect=True)
def test_a_load_that_brings_fewer_rows_than_the_manifest_says_leaves_the_old_month(
    warehouse: Warehouse, lake: FolderLake, tmp_path: Path
) -> None:
    old, _ = load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    file = in_lake(lake, tmp_path, *trips(9))
    with pytest.raises(ReconciliationError, match="green 2024-01"):
        load_month(Cut(file.manifest, file.lake, file.terms), warehouse)
    assert fares(warehouse) == [0, 1, 2]
    assert warehouse.loads() == {("green", JANUARY): old}


@contextmanager
def half_way(file: CleanFile, warehouse: Warehouse, kind: Kind, request: pytest.FixtureRequest) -> Iterator[None]:
    """While the block runs, a load of the file has done half its work; then it goes on to its end."""
    HalfOf.reached, HalfOf.go_on = threading.Event(), threading.Event()
    if kind == "bigquery":
        big_query = request.getfixturevalue("big_query")
        big_query.pause = HalfOf.go_on
    loader = ThreadPoolExecutor(1)
    running = loader.submit(load_month, HalfOf(file.manifest, file.lake, file.terms), warehouse)
    if kind == "bigquery":
        while not any(job.state == "RUNNING" for job in list(big_query.jobs.values())):
            time.sleep(0.01)
    else:
        assert HalfOf.reached.wait(30)
    try:
        yield
    finally:
        HalfOf.go_on.set()
        running.result(60)
        loader.shutdown()


@pytest.mark.parametrize("kind", ["postgres", "bigquery"], indirect=True)
def test_a_reader_sees_the_old_month_or_the_new_one(
    warehouse: Warehouse,
    reopen: Callable[[], Warehouse],
    kind: Kind,
    lake: FolderLake,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    load_month(in_lake(lake, tmp_path, *trips(30)), warehouse)
    seen: list[int] = []
    done = threading.Event()

    def poll() -> None:
        reader = reopen()
        while not done.is_set():
            seen.append(len(fares(reader)))

    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(poll)
        try:
            with half_way(in_lake(lake, tmp_path, *trips(50)), warehouse, kind, request):
                polled = len(seen)
                while len(seen) < polled + 3:
                    time.sleep(0.01)
                assert set(seen) == {30}
            polled = len(seen)
            while len(seen) < polled + 3:
                time.sleep(0.01)
        finally:
            done.set()
        polling.result(30)
    assert set(seen) == {30, 50}
    assert seen == sorted(seen)


def test_a_postgres_reader_whose_snapshot_is_older_never_finds_the_month_empty(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    warehouse = PostgresWarehouse(postgres)
    load_month(in_lake(lake, tmp_path, *trips(30)), warehouse)
    file = in_lake(lake, tmp_path, *trips(50))
    reader = psycopg2.connect(**postgres)
    reader.set_session(isolation_level="REPEATABLE READ")
    with reader.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_class LIMIT 1")
        load_month(file, warehouse)
        cursor.execute("SELECT count(*) FROM ny_taxi.green_trip_data")
        assert cursor.fetchone() == (50,)
    reader.close()


@pytest.mark.parametrize("kind", ["postgres", "bigquery"], indirect=True)
def test_two_loads_of_one_month_leave_one_copy(
    warehouse: Warehouse,
    reopen: Callable[[], Warehouse],
    kind: Kind,
    lake: FolderLake,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    file = in_lake(lake, tmp_path, *trips(40))
    load_month(in_lake(lake, tmp_path, *in_february(1), month=FEBRUARY), warehouse)
    with ThreadPoolExecutor(1) as pool:
        with half_way(file, warehouse, kind, request):
            second = pool.submit(load_month, file, reopen())
        load, new = second.result(60)
    assert fares(warehouse) == [float(number) for number in range(40)]
    assert warehouse.loads()["green", JANUARY] == load
    assert new == (kind == "bigquery"), "Postgres waits and finds the month loaded, BigQuery shares the job"


def test_loads_of_different_months_go_on_side_by_side(
    reopen: Callable[[], Warehouse], lake: FolderLake, tmp_path: Path
) -> None:
    files = [in_lake(lake, tmp_path, *trips(20))]
    files += [in_lake(lake, tmp_path, *in_february(10), month=FEBRUARY)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda file: load_month(file, reopen()), files))
    assert (len(fares(reopen())), len(fares(reopen(), FEBRUARY))) == (20, 10)


def test_a_month_of_postgres_does_not_wait_for_another_ones_load(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    warehouse = PostgresWarehouse(postgres)
    february = in_lake(lake, tmp_path, *in_february(10), month=FEBRUARY)
    with half_way(in_lake(lake, tmp_path, *trips(20)), warehouse, "postgres", request):
        load_month(february, PostgresWarehouse(postgres))
    assert (len(fares(warehouse)), len(fares(warehouse, FEBRUARY))) == (20, 10)


LOADER = """
import json, sys
from pathlib import Path
from test_warehouse import HalfOf, client, ready
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.months import Month
from nyc_tlc.warehouse.bigquery import BigQueryWarehouse
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from nyc_tlc.warehouse.postgres import PostgresWarehouse

class Said:
    def set(self):
        print("half", flush=True)

kind, where, root = sys.argv[1:]
warehouse = {
    "duckdb": lambda: DuckDbWarehouse(Path(where)),
    "postgres": lambda: PostgresWarehouse(json.loads(where)),
    "bigquery": lambda: BigQueryWarehouse(client(where)),
}[kind]()
lake = FolderLake(Path(root))
file = ready(lake, lake.manifest(Keys("green", Month(2024, 1))))
HalfOf.reached = Said()
load_month(HalfOf(file.manifest, file.lake, file.terms), warehouse)
"""


def start_loader(kind: Kind, where: str, lake: FolderLake) -> subprocess.Popen[str]:
    folders = (ROOT / "flows", ROOT / "tests", ROOT / "tests" / "integration")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    return subprocess.Popen(
        [sys.executable, "-c", LOADER, kind, where, str(lake.root)], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_a_loader_killed_half_way_leaves_the_old_month_and_the_next_one_completes(
    warehouse: Warehouse, kind: Kind, lake: FolderLake, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    file = in_lake(lake, tmp_path, *trips(40))
    if kind == "duckdb":
        where = str(tmp_path / "warehouse.duckdb")
    elif kind == "postgres":
        where = json.dumps(request.getfixturevalue("postgres"))
    else:
        big_query = request.getfixturevalue("big_query")
        where = big_query.url
        big_query.pause = threading.Event()
    with start_loader(kind, where, lake) as loader:
        if kind == "bigquery":
            while not any(job.state == "RUNNING" for job in list(big_query.jobs.values())):
                time.sleep(0.01)
        else:
            assert loader.stdout
            assert loader.stdout.readline() == "half\n"
        loader.kill()
        assert loader.wait() == -signal.SIGKILL
    assert fares(warehouse) == [0, 1, 2]
    assert warehouse.loads()["green", JANUARY].row_count == 3
    if kind == "bigquery":
        big_query.pause.set()
    load, new = load_month(file, warehouse)
    assert (load.row_count, new) == (40, True)
    assert len(fares(warehouse)) == 40
    if kind == "bigquery":
        targets = [job.configuration.get("load", {}).get("destinationTable", {}) for job in big_query.jobs.values()]
        months = [target for target in targets if target.get("tableId") == "green_trip_data$202401"]
        assert len(months) == 2, "the job that the dead loader asked for was found done, not done again"


def test_a_postgres_server_that_dies_in_a_copy_leaves_the_old_month(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    warehouse = PostgresWarehouse(postgres)
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    file = in_lake(lake, tmp_path, *trips(40))
    HalfOf.reached, HalfOf.go_on = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load_month, HalfOf(file.manifest, file.lake, file.terms), warehouse)
        assert HalfOf.reached.wait(30)
        (pid,) = warehouse.query(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'nyc-tlc-flows: green 2024-01'"
            " AND datname = current_database()"
        )[0]
        # A backend that dies of SIGKILL makes the server end all others, and recover from its log.
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pytest.skip("the PostgreSQL server is not on this machine")
        HalfOf.go_on.set()
        with pytest.raises(TransientError, match="green 2024-01"):
            loading.result(60)
    wait_for(postgres)
    assert fares(warehouse) == [0, 1, 2]
    load_month(file, warehouse)
    assert len(fares(warehouse)) == 40


def wait_for(parameters: dict[str, str]) -> None:
    """Until the server has recovered."""
    while True:
        try:
            psycopg2.connect(**parameters).close()
        except psycopg2.OperationalError:
            time.sleep(0.05)
        else:
            return


@pytest.mark.parametrize(
    "fault",
    [Fault("status", about="/jobs", status=503), Fault("lost", about='"load"'), Fault("reset", about="/jobs")],
    ids=["503", "a lost answer", "a reset"],
)
def test_what_time_can_heal_is_tried_again_by_bigquery(
    big_query: BigQuery, gcs: Gcs, tmp_path: Path, fault: Fault
) -> None:
    warehouse = BigQueryWarehouse(client(big_query.url))
    lake = GcsLake(bucket(gcs.url), "taxi")
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    big_query.faults = [fault]
    load_month(in_lake(lake, tmp_path, *trips(5)), warehouse)
    assert big_query.faults == []
    assert len(fares(warehouse)) == 5


def test_a_right_that_is_missing_in_bigquery_is_named(big_query: BigQuery, lake: FolderLake, tmp_path: Path) -> None:
    big_query.denied = {"jobs.create"}
    with pytest.raises(ConfigurationError, match=r"roles/bigquery\.jobUser"):
        load_month(in_lake(lake, tmp_path, *trips(3)), BigQueryWarehouse(client(big_query.url)))


def test_a_duckdb_file_that_another_process_holds_is_waited_for(
    lake: FolderLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "warehouse.duckdb"
    file = in_lake(lake, tmp_path, *trips(3))
    hold = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setenv("TLC_WAREHOUSE_WAIT", "0")
        with pytest.raises(TransientError, match=f"held by process {holder.pid}"):
            load_month(file, DuckDbWarehouse(path))
        monkeypatch.setenv("TLC_WAREHOUSE_WAIT", "60")
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(load_month, file, DuckDbWarehouse(path))
            while "waiting for" not in caplog.text:
                time.sleep(0.01)
            holder.stdin.close()
            assert loading.result(60)[1]


def test_zones_and_codes_can_be_joined_at_once(warehouse: Warehouse, lake: FolderLake, tmp_path: Path) -> None:
    load_month(in_lake(lake, tmp_path, trip(PULocationID=264, DOLocationID=138), trip(PULocationID=74)), warehouse)
    assert warehouse.query("SELECT COUNT(*), COUNT(zone), COUNT(service_zone) FROM ny_taxi.zones") == [(265, 265, 265)]
    assert warehouse.query("SELECT zone, service_zone FROM ny_taxi.zones WHERE location_id = 265") == [("NA", "N/A")]
    assert warehouse.query("SELECT name FROM ny_taxi.payment_types WHERE payment_type = 2") == [("Cash",)]
    found = warehouse.query(
        "SELECT color, pickup_borough, pickup_zone, dropoff_zone FROM ny_taxi.trips_by_zone ORDER BY source_row"
    )
    assert found[0] == ("green", "Unknown", "NV", "LaGuardia Airport")
    load, _ = load_month(published_file(lake), warehouse)
    assert ask(load, False, warehouse).rows == (("Manhattan", "East Harlem North", 1), ("Unknown", "NV", 1))


def published_file(lake: FolderLake) -> CleanFile:
    return ready(lake, published(lake, "green", None, "local"))


def test_lookups_are_replaced_as_a_whole(warehouse: Warehouse) -> None:
    zones, *codes = read_lookups()
    fewer = dataclasses.replace(zones, rows=zones.rows.slice(0, 200))
    warehouse.prepare([], [fewer, *codes], [])
    warehouse.replace_lookups([zones])
    warehouse.replace_lookups([zones])
    assert warehouse.query("SELECT COUNT(*) FROM ny_taxi.zones") == [(265,)]


def test_tables_and_columns_say_what_they_hold(
    warehouse: Warehouse, kind: Kind, lake: FolderLake, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    load_month(in_lake(lake, tmp_path, *trips(1)), warehouse)
    if kind == "bigquery":
        table = client(request.getfixturevalue("big_query").url).get_table("test.ny_taxi.green_trip_data")
        told = {field.name: field.description for field in table.schema}
        assert table.time_partitioning.type_ == "MONTH"
        assert (table.time_partitioning.field, table.clustering_fields) == ("file_month", ["pickup_datetime"])
    elif kind == "postgres":
        told = dict(
            warehouse.query(
                "SELECT attname, col_description(attrelid, attnum) FROM pg_attribute"
                " WHERE attrelid = 'ny_taxi.green_trip_data'::regclass AND attnum > 0"
            )
        )
    else:
        told = dict(
            warehouse.query("SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'green_trip_data'")
        )
    assert told["trip_distance"] == "Distance the taximeter reported (miles)"
    assert told["source_row"] == "The row's ordinal in the source file, from 0"


def test_postgres_has_a_primary_key_where_one_is_asked_for(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = PostgresWarehouse(postgres)
    keys = "SELECT count(*) FROM pg_index WHERE indisprimary AND indrelid::regclass::text LIKE '%green_trip_data%'"
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    assert warehouse.query(keys) == [(0,)]
    monkeypatch.setenv("TLC_POSTGRES_PRIMARY_KEY", "true")
    load_month(in_lake(lake, tmp_path, *in_february(3), month=FEBRUARY), warehouse)
    assert warehouse.query(keys) == [(3,)]
    load_month(in_lake(lake, tmp_path, *trips(4)), warehouse)
    assert warehouse.query(keys) == [(3,)]
    assert (len(fares(warehouse)), len(fares(warehouse, FEBRUARY))) == (4, 3)


def test_a_busy_reader_delays_a_swap_but_not_the_readers_behind_it(
    postgres: dict[str, str],
    lake: FolderLake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    warehouse = PostgresWarehouse(postgres)
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    file = in_lake(lake, tmp_path, *trips(5))
    monkeypatch.setattr("nyc_tlc.warehouse.postgres.IN_LINE", "50ms")
    busy = psycopg2.connect(**postgres)
    with busy.cursor() as cursor, ThreadPoolExecutor(1) as pool:
        cursor.execute("SELECT count(*) FROM ny_taxi.green_trip_data")
        loading = pool.submit(load_month, file, warehouse)
        while "waiting for the readers" not in caplog.text:
            time.sleep(0.01)
        assert len(fares(warehouse)) == 3
        busy.rollback()
        assert loading.result(30)[0].row_count == 5
    busy.close()
    monkeypatch.setenv("TLC_WAREHOUSE_WAIT", "0")
    busy = psycopg2.connect(**postgres)
    with busy.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM ny_taxi.green_trip_data")
        with pytest.raises(TransientError, match="busy"):
            load_month(in_lake(lake, tmp_path, *trips(6)), warehouse)
    busy.close()
    assert len(fares(warehouse)) == 5


def test_no_warehouse_shows_its_password(postgres: dict[str, str]) -> None:
    warehouse = PostgresWarehouse(postgres | {"password": "planted-secret", "port": "1", "host": "127.0.0.1"})
    with pytest.raises(TlcError) as caught:
        warehouse.loads()
    told = f"{caught.value!r} {caught.value.__cause__!r} {warehouse!r} {warehouse.place}"
    assert "planted-secret" not in told


def test_a_staging_left_by_clean_is_not_mistaken_for_a_month(lake: FolderLake, tmp_path: Path) -> None:
    clean_month(fetched(green_parquet(*trips(2)), tmp_path), read_contract("green"), lake)
    assert lake.months("green") == []
