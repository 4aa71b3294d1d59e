"""The BigQuery stand-in answers the real client as Google's documentation says BigQuery does."""

import datetime as dt
import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.api_core.exceptions import BadRequest, Conflict, NotFound
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from stand_ins.bigquery import BigQuery, Fault

JANUARY, FEBRUARY = dt.date(2024, 1, 1), dt.date(2024, 2, 1)
TRIPS = "taxis.ny_taxi.green_trip_data"
SCHEMA = [
    bigquery.SchemaField("file_month", "DATE", "REQUIRED"),
    bigquery.SchemaField("pickup_datetime", "DATETIME", description="When the meter was engaged"),
    bigquery.SchemaField("passenger_count", "INT64"),
    bigquery.SchemaField("total_amount", "FLOAT64"),
]


def trips(month: dt.date, *passengers: int | None, **columns: pa.Array) -> bytes:
    """Return a Parquet file of a month's trips."""
    pickup = dt.datetime.combine(month, dt.time(12, 30, 0, 250))
    table = {
        "file_month": pa.array([month] * len(passengers), pa.date32()),
        "pickup_datetime": pa.array([pickup] * len(passengers), pa.timestamp("us")),
        "passenger_count": pa.array(passengers, pa.int16()),
        "total_amount": pa.array([12.5] * len(passengers), pa.float64()),
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(table | columns), sink)
    return sink.getvalue()


@pytest.fixture
def lake() -> dict[str, bytes]:
    """Return the objects in the bucket."""
    return {"january": trips(JANUARY, 1, 2, None), "february": trips(FEBRUARY, 5)}


@pytest.fixture
def stand_in(lake: dict[str, bytes]) -> Iterator[BigQuery]:
    """Serve the stand-in, which reads the bucket."""
    with BigQuery("taxis", lambda bucket, name: lake.get(name) if bucket == "taxi-lake" else None).running() as it:
        yield it


@pytest.fixture
def client(stand_in: BigQuery, monkeypatch: pytest.MonkeyPatch) -> Iterator[bigquery.Client]:
    """Return the real client; it has created a dataset and a table partitioned by month."""
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", stand_in.url)
    with bigquery.Client("taxis", AnonymousCredentials()) as client:
        client.create_dataset("ny_taxi")
        table = bigquery.Table(TRIPS, SCHEMA)
        table.time_partitioning = bigquery.TimePartitioning("MONTH", "file_month")
        table.clustering_fields = ["pickup_datetime"]
        client.create_table(table)
        yield client


def config() -> bigquery.LoadJobConfig:
    labels = {"color": "green"}
    return bigquery.LoadJobConfig(
        source_format="PARQUET", write_disposition="WRITE_TRUNCATE", schema=SCHEMA, labels=labels
    )


def load(client: bigquery.Client, name: str, partition: str, job_id: str | None = None) -> bigquery.LoadJob:
    table = f"{TRIPS}${partition}" if partition else TRIPS
    return client.load_table_from_uri(f"gs://taxi-lake/{name}", table, job_id=job_id, job_config=config())


def counts(client: bigquery.Client) -> dict[dt.date, int]:
    sql = f"SELECT file_month, COUNT(*) AS trips FROM `{TRIPS}` GROUP BY file_month ORDER BY file_month"
    return {row.file_month: row.trips for row in client.query_and_wait(sql)}


def test_truncating_a_partition_leaves_its_neighbours(
    client: bigquery.Client, stand_in: BigQuery, lake: dict[str, bytes]
) -> None:
    load(client, "january", "202401").result()
    job = load(client, "february", "202402").result()
    assert job.output_rows == 1 and job.labels == {"color": "green"} and job.location == "US"
    lake["january"] = trips(JANUARY, 6)
    load(client, "january", "202401").result()
    assert counts(client) == {JANUARY: 1, FEBRUARY: 1}
    assert client.get_table(TRIPS).num_rows == 2
    assert client.get_table(TRIPS).schema[1].description == "When the meter was engaged"
    load(client, "january", "").result()
    assert counts(client) == {JANUARY: 1}


def test_rows_of_another_month_fail_the_job_and_change_nothing(client: bigquery.Client, lake: dict[str, bytes]) -> None:
    load(client, "january", "202401").result()
    job = load(client, "february", "202401")
    with pytest.raises(BadRequest, match="Some rows belong to different partitions"):
        job.result()
    assert job.error_result["reason"] == "invalid" and job.state == "DONE"
    assert counts(client) == {JANUARY: 3}


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, NotFound, "Not found: URI gs://taxi-lake/other"),
        (b"PAR", BadRequest, "not in Parquet format"),
        (
            trips(JANUARY, 1, passenger_count=pa.array([1.0])),
            BadRequest,
            "'passenger_count' is FLOAT and not INTEGER",
        ),
        (trips(JANUARY, 1, file_month=pa.array([None], pa.date32())), BadRequest, "Required field file_month"),
        (trips(JANUARY, 1, tip=pa.array([1.0])), BadRequest, "No field in the schema for Parquet column 'tip'"),
    ],
)
def test_a_job_that_cannot_load_says_why(
    client: bigquery.Client, lake: dict[str, bytes], content: bytes | None, error: type[Exception], message: str
) -> None:
    if content:
        lake["other"] = content
    with pytest.raises(error, match=message):
        load(client, "other", "202401").result()
    assert counts(client) == {}


def test_a_job_id_is_taken_once_and_found_again(client: bigquery.Client, stand_in: BigQuery) -> None:
    stand_in.faults = [Fault("lost", about="/jobs")]
    with pytest.raises(Conflict, match=r"Already Exists: Job taxis:US\.green-2024-01") as caught:
        load(client, "january", "202401", "green-2024-01")
    assert caught.value.errors[0]["reason"] == "duplicate"
    assert client.get_job("green-2024-01", location="US").result().output_rows == 3
    with pytest.raises(NotFound):
        client.get_job("green-2024-01", location="EU")
    assert counts(client) == {JANUARY: 3}
    client.delete_dataset("ny_taxi", delete_contents=True)
    client.create_dataset("ny_taxi")
    with pytest.raises(Conflict):
        load(client, "january", "202401", "green-2024-01")


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT rows FROM ny_taxi.green_trip_data", "Syntax error: Unexpected keyword ROWS"),
        ("SELEC 1", "Syntax error"),
        ("SELECT fare FROM ny_taxi.green_trip_data", "Unrecognized name: fare"),
        ("SELECT total_amount + 'x' FROM ny_taxi.green_trip_data", "No matching signature for operator"),
        ("DELETE FROM ny_taxi.green_trip_data", "DELETE must have a WHERE clause"),
    ],
)
def test_what_googles_analyzer_refuses_is_refused(client: bigquery.Client, sql: str, message: str) -> None:
    with pytest.raises(BadRequest, match=message) as caught:
        client.query_and_wait(sql)
    assert caught.value.errors[0]["reason"] == "invalidQuery"
