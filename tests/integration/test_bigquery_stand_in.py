"""The BigQuery stand-in answers the real client as Google's documentation says BigQuery does."""

import datetime as dt
import io
import threading
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.api_core.exceptions import BadRequest, Conflict, Forbidden, NotFound
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigquery
from google.oauth2.credentials import Credentials

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


def test_a_job_runs_unseen_until_it_is_done(client: bigquery.Client, stand_in: BigQuery) -> None:
    load(client, "january", "202401").result()
    stand_in.pause = threading.Event()
    job = load(client, "february", "202402")
    assert not job.done() and counts(client) == {JANUARY: 3}
    stand_in.pause.set()
    job.result()
    assert counts(client) == {JANUARY: 3, FEBRUARY: 1}


@pytest.mark.parametrize("size", [None, 1], ids=["resumable", "multipart"])
def test_an_upload_is_loaded(client: bigquery.Client, size: int | None) -> None:
    content = trips(JANUARY, *[1] * 7)
    job = client.load_table_from_file(
        io.BytesIO(content), f"{TRIPS}$202401", size=size and len(content), job_config=config()
    )
    assert job.result().output_rows == 7
    assert counts(client) == {JANUARY: 7}


def test_values_and_nulls_come_back_as_they_were(client: bigquery.Client) -> None:
    load(client, "january", "202401").result()
    rows = list(client.query_and_wait(f"SELECT * FROM `{TRIPS}` ORDER BY passenger_count DESC"))
    assert rows[0].values() == (JANUARY, dt.datetime(2024, 1, 1, 12, 30, 0, 250), 2, 12.5)
    assert [row.passenger_count for row in rows] == [2, 1, None]
    sql = """SELECT "it's", CAST(1.5 AS FLOAT64), SUM(passenger_count), TRUE, CAST(NULL AS INT64),
        CAST('2024-01-01T01:02:03' AS DATETIME), # a time
        CAST('2024-01-01 05:00:00+00' AS TIMESTAMP)
        FROM ny_taxi.green_trip_data WHERE file_month = DATE '2024-01-01'"""
    row = next(iter(client.query_and_wait(sql)))
    moments = (dt.datetime(2024, 1, 1, 1, 2, 3), dt.datetime(2024, 1, 1, 5, tzinfo=dt.UTC))
    assert row.values() == ("it's", 1.5, 3, True, None, *moments)


def test_merge_delete_and_views(client: bigquery.Client) -> None:
    fields = [bigquery.SchemaField("color", "STRING", "REQUIRED"), bigquery.SchemaField("loaded", "INT64")]
    client.create_table(bigquery.Table("taxis.ny_taxi.loads", fields))
    client.query_and_wait("INSERT INTO ny_taxi.loads (color, loaded) VALUES ('green', 1), ('yellow', 2)")
    merge = """MERGE `taxis.ny_taxi.loads` AS t USING (SELECT 'green' AS color, 3 AS loaded) AS s
        ON t.color = s.color WHEN MATCHED THEN UPDATE SET loaded = s.loaded
        WHEN NOT MATCHED THEN INSERT (color, loaded) VALUES (s.color, s.loaded)"""
    assert client.query_and_wait(merge).num_dml_affected_rows == 1
    view = bigquery.Table("taxis.ny_taxi.latest")
    view.view_query = "SELECT color, loaded * 2 AS twice FROM `taxis.ny_taxi.loads`"
    assert client.create_table(view).table_type == "VIEW"
    rows = client.query_and_wait("SELECT * FROM `taxis.ny_taxi.latest` ORDER BY color")
    assert [tuple(row) for row in rows] == [("green", 6), ("yellow", 4)]
    client.query_and_wait("CREATE OR REPLACE VIEW ny_taxi.latest AS SELECT loaded FROM ny_taxi.loads")
    assert [field.name for field in client.get_table("ny_taxi.latest").schema] == ["loaded"]
    view.view_query = "SELECT color FROM `taxis.ny_taxi.loads`"
    assert [field.name for field in client.update_table(view, ["view_query"]).schema] == ["color"]
    assert client.query_and_wait("DELETE FROM ny_taxi.loads WHERE color = 'green'").num_dml_affected_rows == 1
    with pytest.raises(NotFound, match=r"Not found: Table taxis:ny_taxi\.nope"):
        client.query_and_wait("SELECT * FROM ny_taxi.nope")


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


def test_views_are_analysed_as_queries_are(client: bigquery.Client) -> None:
    view = bigquery.Table("taxis.ny_taxi.wrong")
    view.view_query = "SELECT nope FROM ny_taxi.green_trip_data"
    with pytest.raises(BadRequest, match="Unrecognized name: nope"):
        client.create_table(view)


def test_a_table_gains_columns_and_loses_none(client: bigquery.Client) -> None:
    load(client, "january", "202401").result()
    table = client.get_table(TRIPS)
    table.schema = [*table.schema, bigquery.SchemaField("note", "STRING")]
    table = client.update_table(table, ["schema"])
    assert [field.name for field in table.schema][-1] == "note"
    for fields in (table.schema[:-1], [*table.schema[:-1], bigquery.SchemaField("note", "INT64")]):
        table.schema = fields
        with pytest.raises(BadRequest, match="Provided Schema does not match Table"):
            client.update_table(table, ["schema"])


def test_refusals_and_faults(client: bigquery.Client, stand_in: BigQuery) -> None:
    stand_in.denied = {"jobs.create", "tables.get"}
    with pytest.raises(Forbidden, match=r"bigquery\.jobs\.create"):
        load(client, "january", "202401")
    with pytest.raises(Forbidden, match=r"bigquery\.tables\.get denied on table taxis:ny_taxi\.green_trip_data"):
        client.get_table(TRIPS)
    stand_in.denied = set()
    with pytest.raises(NotFound):
        client.get_table("ny_taxi.nope")
    with pytest.raises(Conflict, match="Already Exists: Dataset taxis:ny_taxi"):
        client.create_dataset("ny_taxi")
    stand_in.bucket_locations["taxi-lake"] = "EU"
    with pytest.raises(BadRequest, match="source: EU, destination: US"):
        load(client, "january", "202401").result()
    stand_in.tokens = {"one"}
    with pytest.raises(GoogleAuthError):
        client.get_dataset("ny_taxi")
    with bigquery.Client("taxis", Credentials("one")) as permitted:
        assert permitted.get_dataset("ny_taxi").location == "US"
    stand_in.tokens = None
    stand_in.faults = [Fault("status", "GET", "/datasets/ny_taxi"), Fault("reset", "GET", "/datasets/ny_taxi")]
    assert client.get_dataset("ny_taxi").location == "US" and not stand_in.faults
