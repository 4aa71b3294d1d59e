"""BigQuery as a warehouse: behaviour that the other warehouses do not have."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
from google.cloud import bigquery

from conftest import bucket
from factories import JANUARY, trip
from nyc_tlc.errors import ConfigurationError, TlcError, TransientError
from nyc_tlc.lake.gcs import GcsLake
from nyc_tlc.warehouse.bigquery import BigQueryWarehouse
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.lookups import read_lookups
from nyc_tlc.warehouse.tables import LOADS
from stand_ins.bigquery import BigQuery, Fault, Kept
from stand_ins.gcs import Gcs
from warehouse_cases import FEBRUARY, client, fares, in_february, in_lake, month_jobs, trips


def load_nothing(warehouse: BigQueryWarehouse, _: GcsLake) -> None:
    """Prepare a load without tables."""
    warehouse.prepare([], [], [])


@pytest.fixture
def lake(gcs: Gcs) -> GcsLake:
    """Return a lake in a bucket."""
    return GcsLake(bucket(gcs.url), "taxi")


@pytest.fixture
def google(big_query: BigQuery) -> Iterator[bigquery.Client]:
    """Return another client of the stand-in, for changes and checks by the test."""
    with client(big_query.url) as google:
        yield google


@pytest.fixture
def empty(big_query: BigQuery) -> BigQueryWarehouse:
    """Return the warehouse of a project without datasets."""
    return BigQueryWarehouse(client(big_query.url))


@pytest.fixture
def warehouse(empty: BigQueryWarehouse, big_query: BigQuery, prepared_big_query: Kept) -> BigQueryWarehouse:
    """Return the warehouse, with the tables and views that a load prepares."""
    big_query.restore(prepared_big_query)
    return empty


def test_a_month_is_loaded_from_the_bucket_and_its_ledger_is_a_partition_of_a_table_under_a_view(
    empty: BigQueryWarehouse, google: bigquery.Client, big_query: BigQuery, lake: GcsLake, tmp_path: Path
) -> None:
    file = in_lake(lake, tmp_path, *trips(3))
    january, _ = load_month(file, empty, "a flow run")
    for table in ("green_trip_data$202401", "green_loads$202401"):
        (job,) = month_jobs(big_query, table)
        assert job.configuration["load"]["writeDisposition"] == "WRITE_TRUNCATE"
    (job,) = month_jobs(big_query)
    load = job.configuration["load"]
    assert load["sourceUris"] == [file.url]
    assert job.configuration["labels"]["clean_sha256"] == file.manifest.clean.sha256[:63]
    assert load["schema"]["fields"][1] == {
        "name": "pickup_datetime",
        "type": "DATETIME",
        "mode": "NULLABLE",
        "description": "When the meter was engaged (New York wall-clock time)",
    }
    february, _ = load_month(in_lake(lake, tmp_path, *in_february(1), month=FEBRUARY), empty)
    view, ledger = google.get_table("ny_taxi.loads"), google.get_table("ny_taxi.green_loads")
    assert (view.table_type, ledger.table_type) == ("VIEW", "TABLE")
    assert [field.name for field in view.schema] == [field.name for field in ledger.schema] == list(LOADS.names)
    assert (ledger.time_partitioning.type_, ledger.time_partitioning.field) == ("MONTH", "file_month")
    rows = empty.query(f"SELECT {', '.join(LOADS.names)} FROM ny_taxi.loads ORDER BY file_month")
    assert rows == [january.to_row(), february.to_row()]
    trip_data = google.get_table("test.ny_taxi.green_trip_data")
    descriptions = {field.name: field.description for field in trip_data.schema}
    assert (trip_data.time_partitioning.type_, trip_data.time_partitioning.field) == ("MONTH", "file_month")
    assert trip_data.clustering_fields == ["pickup_datetime"]
    assert descriptions["trip_distance"] == "Distance the taximeter reported (miles)"
    for each in google.list_tables("test.ny_taxi"):
        table = google.get_table(each.reference)
        assert [field.name for field in table.schema if not field.description] == [], table.table_id
    shapes = google.get_table("test.ny_taxi.zone_shapes")
    assert [field.field_type for field in shapes.schema] == ["INTEGER", "GEOGRAPHY"]


def test_no_statement_of_a_load_or_a_check_changes_anything(
    warehouse: BigQueryWarehouse, google: bigquery.Client, big_query: BigQuery, lake: GcsLake, tmp_path: Path
) -> None:
    file = in_lake(lake, tmp_path, *trips(3))
    for force in (False, True):
        load_month(file, warehouse, force=force)
    # What follows changes tables and replaces views.
    google.delete_table("test.ny_taxi.green_trip_data")
    load_month(file, warehouse)
    warehouse.replace_lookups(read_lookups())
    warehouse.check(lake)
    assert {statement.split()[0] for statement in big_query.statements} == {"SELECT"}


def test_a_job_of_a_dropped_dataset_is_not_taken_for_one_of_another_file_with_as_many_rows(
    warehouse: BigQueryWarehouse, google: bigquery.Client, big_query: BigQuery, lake: GcsLake, tmp_path: Path
) -> None:
    first = in_lake(lake, tmp_path, *trips(3))
    load_month(first, warehouse)
    google.delete_dataset("ny_taxi", delete_contents=True)
    other = in_lake(lake, tmp_path, *trips(3, tip_amount=9.0))
    # A load that dies between its job and its row of the ledger.
    big_query.faults = [Fault("status", about="green_loads$202401", status=403, reason="accessDenied")]
    with pytest.raises(ConfigurationError, match="the new rows are in the table, but the month's row of loads"):
        load_month(other, warehouse)
    assert load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)[1]
    assert warehouse.query("SELECT MAX(tip_amount) FROM ny_taxi.green_trip_data") == [(2.0,)]


def test_what_time_can_heal_is_tried_again(
    warehouse: BigQueryWarehouse, big_query: BigQuery, lake: GcsLake, tmp_path: Path
) -> None:
    for count, faults in enumerate(
        (
            [Fault("status", about="/jobs", status=503), Fault("reset", about="/jobs")],
            [Fault("status", about='"load"', status=403, reason="rateLimitExceeded")],
            [Fault("lost", about='"load"'), Fault("lost", about="green_loads$202401")],
        ),
        1,
    ):
        big_query.faults = faults
        load_month(in_lake(lake, tmp_path, *trips(count)), warehouse)
        assert big_query.faults == []
        assert len(fares(warehouse)) == count


def test_a_quota_that_is_used_up_is_named_and_no_right_is_said_to_be_missing(
    warehouse: BigQueryWarehouse, big_query: BigQuery, lake: GcsLake, tmp_path: Path
) -> None:
    old, _ = load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    file = in_lake(lake, tmp_path, *trips(5))
    quota = "Quota exceeded: Your project exceeded quota for imports per project"
    for fault in (
        Fault("status", about='"load"', status=403, reason="quotaExceeded", message=quota),
        Fault("job", about="$202401", reason="quotaExceeded", message=quota),
    ):
        big_query.faults = [fault]
        with pytest.raises(TransientError, match=r"a quota is used up; the old rows stay; got .*imports per project"):
            load_month(file, warehouse)
        assert big_query.faults == []
    assert (fares(warehouse), warehouse.loads()) == ([0, 1, 2], {("green", JANUARY): old})
    load_month(file, warehouse)
    assert len(fares(warehouse)) == 5


def test_a_ledger_that_cannot_be_written_is_written_by_the_next_load(
    warehouse: BigQueryWarehouse, big_query: BigQuery, lake: GcsLake, tmp_path: Path
) -> None:
    file = in_lake(lake, tmp_path, *trips(3))
    quota = "Quota exceeded: Your table exceeded quota for imports per table"
    big_query.faults = [Fault("job", about="green_loads$202401", reason="quotaExceeded", message=quota)]
    with pytest.raises(
        TransientError, match=r"a quota is used up; the new rows are in the table, but .* load the month"
    ):
        load_month(file, warehouse)
    assert warehouse.loads() == {}
    load, new = load_month(file, warehouse)
    assert (new, warehouse.loads()) == (True, {("green", JANUARY): load})
    assert [len(month_jobs(big_query, f"green_{name}$202401")) for name in ("trip_data", "quarantine", "loads")] == [
        1,
        1,
        2,
    ]


@pytest.mark.parametrize("held", ["green_quarantine$202401", "green_loads$202401"])
def test_a_load_that_was_overtaken_leaves_the_rows_and_the_ledger_of_the_later_one(
    warehouse: BigQueryWarehouse, big_query: BigQuery, lake: GcsLake, tmp_path: Path, held: str
) -> None:
    load_month(in_lake(lake, tmp_path, *in_february(1), month=FEBRUARY), warehouse)
    first = in_lake(lake, tmp_path, *trips(3), trip(passenger_count=0))
    big_query.faults = [request := Fault("held", about=held)]
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(load_month, first, BigQueryWarehouse(client(big_query.url)))
        assert request.reached.wait(30)
        later = in_lake(lake, tmp_path, *trips(3, tip_amount=9.0), trip(passenger_count=0, fare_amount=7.0))
        load, _ = load_month(later, warehouse)
        request.go_on.set()
        early.result(30)
    assert warehouse.loads()["green", JANUARY] == load
    assert warehouse.query("SELECT fare_amount FROM ny_taxi.green_quarantine") == [(7.0,)]


def test_a_right_that_is_missing_is_named(
    empty: BigQueryWarehouse, big_query: BigQuery, lake: GcsLake, tmp_path: Path
) -> None:
    big_query.denied = {"jobs.create"}
    with pytest.raises(ConfigurationError, match=r"roles/bigquery\.jobUser"):
        load_month(in_lake(lake, tmp_path, *trips(3)), empty)


def test_a_load_job_that_fails_says_that_the_old_rows_stay(
    warehouse: BigQueryWarehouse, big_query: BigQuery, lake: GcsLake, tmp_path: Path
) -> None:
    load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)
    big_query.faults = [Fault("job", about="$202401", reason="invalid", message="the file is no Parquet file")]
    file = in_lake(lake, tmp_path, *trips(5))
    with pytest.raises(TlcError, match="failed; the old rows stay"):
        load_month(file, warehouse)
    assert fares(warehouse) == [0, 1, 2]
    load_month(file, warehouse)
    assert len(fares(warehouse)) == 5


@pytest.mark.parametrize("is_there", [False, True], ids=["no dataset yet", "a dataset"])
def test_a_check_loads_a_row_as_a_load_does_and_leaves_nothing(
    empty: BigQueryWarehouse,
    big_query: BigQuery,
    gcs: Gcs,
    google: bigquery.Client,
    lake: GcsLake,
    is_there: bool,
) -> None:
    if is_there:
        google.create_dataset("ny_taxi")
    assert empty.check(lake).startswith("answers, and tables can be made; a row was loaded from gs://taxi-lake/taxi")
    targets = [job.configuration["load"]["destinationTable"]["tableId"] for job in big_query.jobs_of("load")]
    assert [re.sub("[0-9a-f]{32}", "…", target) for target in targets] == [
        "connection_check_…$202401",
        "connection_check_…_loads$202401",
    ]
    assert (big_query.tables, list(big_query.datasets)) == ({}, ["ny_taxi"] if is_there else [])
    assert gcs.names("taxi-lake") == set()


@pytest.mark.parametrize("right", ["tables.updateData", "tables.create", "tables.getData"])
def test_a_check_fails_where_a_load_would_and_leaves_nothing(
    empty: BigQueryWarehouse, big_query: BigQuery, gcs: Gcs, google: bigquery.Client, lake: GcsLake, right: str
) -> None:
    google.create_dataset("ny_taxi")
    big_query.denied = {right}
    with pytest.raises(ConfigurationError, match="a permission is missing"):
        empty.check(lake)
    assert big_query.tables == {}
    assert gcs.names("taxi-lake") == set()


@pytest.mark.parametrize("ask", [BigQueryWarehouse.check, load_nothing], ids=["a check", "a load"])
def test_a_sandbox_is_refused_with_the_way_out(
    empty: BigQueryWarehouse, big_query: BigQuery, lake: GcsLake, ask: Callable[[BigQueryWarehouse, GcsLake], None]
) -> None:
    big_query.sandbox = True
    with pytest.raises(ConfigurationError, match=r"expire after 60 days.*enable billing .*the free tier stays") as one:
        ask(empty, lake)
    assert "\n" not in str(one.value)


def test_a_load_into_a_table_that_a_sandbox_made_says_why_its_rows_vanish(
    warehouse: BigQueryWarehouse, big_query: BigQuery, lake: GcsLake, tmp_path: Path
) -> None:
    load_month(in_lake(lake, tmp_path, *in_february(1), month=FEBRUARY), warehouse)
    big_query.tables["ny_taxi", "green_trip_data"]["timePartitioning"]["expirationMs"] = "5184000000"
    with pytest.raises(
        ConfigurationError, match=r"green 2024-01: .* expire; expected 3; got 0; enable billing .* drop"
    ):
        load_month(in_lake(lake, tmp_path, *trips(3)), warehouse)


def test_what_google_refuses_is_named_with_the_way_out(
    warehouse: BigQueryWarehouse, big_query: BigQuery, lake: GcsLake, tmp_path: Path
) -> None:
    file = in_lake(lake, tmp_path, *trips(3))
    denied = "Access Denied: File gs://taxi-lake/clean/x.parquet: Access Denied"
    bucket = r"BigQuery may not read the lake's bucket; the old rows stay; .*roles/storage\.objectUser"
    for message, reason, line in (
        (denied, "accessDenied", f"green 2024-01: {bucket}"),
        ("BigQuery: Permission 'storage.objects.get' denied on resource", "accessDenied", bucket),
        ("Billing has not been enabled for this project", "billingNotEnabled", "has no billing; .*enable billing"),
    ):
        big_query.faults = [Fault("job", about="$202401", reason=reason, message=message)]
        with pytest.raises(ConfigurationError, match=line):
            load_month(file, warehouse)


def test_a_new_dataset_is_made_where_datasets_can_be_and_the_bucket_is(big_query: BigQuery) -> None:
    for bucket_is_in, made_in in (
        ("US", "US"),
        ("EUROPE-WEST3", "EUROPE-WEST3"),
        ("NAM4", "US-CENTRAL1"),
        ("EUR4", "EUROPE-WEST4"),
        ("ASIA", "ASIA-NORTHEAST1"),
        ("US-EAST4+US-WEST1", "US-EAST4"),
    ):
        with client(big_query.url) as google:
            BigQueryWarehouse(google, lambda place=bucket_is_in: place).prepare([], [], [])
            assert big_query.datasets["ny_taxi"]["location"] == made_in
            google.delete_dataset("ny_taxi")


def test_a_load_starts_only_where_bigquery_can_load_from_the_bucket(
    big_query: BigQuery, google: bigquery.Client
) -> None:
    for dataset, bucket_is_in, fits in (
        ("US", "ASIA-EAST1", True),
        ("EU", "europe-west1", True),
        ("EU", "EUR4", True),
        ("EU", "US", False),
        ("us-east1", "NAM4", True),
        ("us-east4", "NAM4", False),
        ("us-east4", "US", True),
        ("us-west1", "US-EAST4+US-WEST1", True),
        ("asia-east1", "ASIA", True),
        ("europe-west1", "europe-west4", False),
    ):
        made = bigquery.Dataset("test.ny_taxi")
        made.location = dataset
        google.create_dataset(made)
        refusal = pytest.raises(ConfigurationError, match="different places; .* make the bucket in " + dataset)
        with nullcontext() if fits else refusal:
            BigQueryWarehouse(google, lambda place=bucket_is_in: place).prepare([], [], [])
        google.delete_dataset(made)


def test_a_check_finds_a_bucket_that_bigquery_cannot_load_from(big_query: BigQuery, lake: GcsLake, gcs: Gcs) -> None:
    big_query.bucket_locations["taxi-lake"] = "ASIA-EAST1"
    with pytest.raises(TlcError, match="different locations"):
        BigQueryWarehouse(client(big_query.url)).check(lake)
    assert (big_query.datasets, gcs.names("taxi-lake")) == ({}, set())
