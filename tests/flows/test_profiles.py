"""Flows run with registered profiles; secrets are only where they belong, whatever goes wrong.

All services are stand-ins on sockets.
"""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import psycopg2
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import BlockDocumentUpdate
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect_gcp import GcpCredentials, GcsBucket
from prefect_sqlalchemy import SqlAlchemyConnector

from conftest import ROOT, PrefectServer, Profile
from factories import without_version
from nyc_tlc import months, trips
from nyc_tlc.errors import ArgumentError, ConfigurationError
from nyc_tlc.profiles import registering
from nyc_tlc.profiles.opening import open_lake, open_warehouse
from stand_ins.bigquery import Fault
from stand_ins.gcs import Fault as GcsFault
from stand_ins.google_tokens import GoogleCloud

JANUARY = ("--color", "green", "--year", "2024", "--month", "1")
FILE = "clean/green/year=2024/month=01/green_tripdata_2024-01.parquet"
DEBUG = {"PREFECT_LOGGING_LEVEL": "DEBUG"}
#: No secret, and in most of what is logged: what looks for secrets has to find it.
MARKER = "taxi-lake"
Runs = dict[str, CompletedProcess[str]]


@pytest.fixture(scope="module")
def secrets(google: GoogleCloud, dev: Profile) -> list[str]:
    """Return the secrets, in parts that quoting and line breaks do not change."""
    password = dev.variables["POSTGRES_PASSWORD"].rpartition("'")[2]
    return [password, google.tokens.token, *google.tokens.key["private_key"].splitlines()[1:-2]]


@pytest.fixture(scope="module")
def client(prefect_server: PrefectServer, gcp: Profile) -> Iterator[SyncPrefectClient]:
    """Return a client of the server; profiles opened in this process use the same server."""
    settings = {PREFECT_API_URL: prefect_server.url, PREFECT_HOME: prefect_server.home}
    with pytest.MonkeyPatch.context() as patch, temporary_settings(settings), get_client(sync_client=True) as client:
        for name, value in gcp.environment.items():
            patch.setenv(name, value)
        yield client


@pytest.fixture(scope="module")
def registered(client: SyncPrefectClient, gcp: Profile, dev: Profile) -> dict[str, str]:
    """Register the profiles' blocks. Return what was done about each."""
    done = {}
    for profile in (gcp, dev):
        wanted = registering.read_blocks(ROOT / f"blocks/profiles/{profile.name}.yaml", profile.variables)
        done |= registering.register(profile.name, *wanted)
    return done


@pytest.fixture(scope="module")
def runs(registered: None, gcp: Profile, dev: Profile, google: GoogleCloud, postgres_server: dict[str, str]) -> Runs:
    """Run commands with debug logs: first they succeed, then they fail; for each profile one after the other."""

    def with_gcp() -> Iterator[tuple[str, CompletedProcess[str]]]:
        def check() -> CompletedProcess[str]:
            return gcp.run("check_connections", "--source", "sample", **DEBUG)

        yield "into the bucket", gcp.run("etl_web_to_gcs", *JANUARY, "--source", "sample", **DEBUG)
        yield "from the bucket", gcp.run("etl_gcs_to_bq", *JANUARY, **DEBUG)
        yield "lookups", gcp.run("load_lookups", "--offline", **DEBUG)
        yield "check gcp", check()
        google.gcs.faults = [GcsFault("status", "POST", "uploadType", 403)]
        google.bigquery.datasets["ny_taxi"]["location"] = "europe-west1"
        yield "a permission and a place", check()
        google.bigquery.datasets["ny_taxi"]["location"] = "US"
        google.bigquery.faults = [Fault("status", "GET", "/datasets/ny_taxi", status=200)]
        yield "no answer BigQuery gives", check()
        tokens, google.gcs.tokens = google.gcs.tokens, set()
        yield "a token refused", check()
        google.tokens.revoked = True
        yield "a key refused", gcp.run("etl_gcs_to_bq", *JANUARY, **DEBUG)
        google.tokens.revoked, google.gcs.tokens = False, tokens

    def with_dev() -> Iterator[tuple[str, CompletedProcess[str]]]:
        yield "into Postgres", dev.run("etl_month", *JANUARY, "--source", "sample", **DEBUG)
        yield "check dev", dev.run("check_connections", "--source", "sample", **DEBUG)
        yield "nobody", dev.server.run("flows/load_lookups.py", "--offline", "--profile", "nobody")
        with closing(psycopg2.connect(**postgres_server)) as admin, admin, admin.cursor() as cursor:
            cursor.execute(f"ALTER ROLE {dev.variables['POSTGRES_USER']} PASSWORD 'another'")
        yield "a password refused", dev.run("etl_gcs_to_postgres", *JANUARY, **DEBUG)

    with ThreadPoolExecutor() as side_by_side:
        return dict(pair for pairs in side_by_side.map(lambda run: list(run()), (with_gcp, with_dev)) for pair in pairs)


def done(run: CompletedProcess[str]) -> str:
    """Check that a run succeeded. Return its output."""
    assert run.returncode == 0, run.stderr
    assert not [line for line in run.stderr.splitlines() if "Warning" in line], "a warning nobody can act on"
    return run.stdout


def every(read_page: Callable[..., list[Any]]) -> Iterator[Any]:
    """Yield all objects, page by page."""
    for offset in itertools.count(0, 200):
        page = read_page(limit=200, offset=offset)
        yield from page
        if len(page) < 200:
            return


def found(secrets: list[str], text: str) -> list[str]:
    return [secret for secret in secrets if secret in text]


def test_a_month_goes_into_the_bucket_and_from_there_into_bigquery(
    registered: dict[str, str], runs: Runs, google: GoogleCloud
) -> None:
    assert set(registered.values()) == {"created"}
    output = done(runs["into the bucket"])
    assert output.startswith("green 2024-01: 2,000 rows in, ")
    assert {without_version(name) for name in google.gcs.names("taxi-lake") if "green" in name} == {
        f"tlc/{FILE}",
        f"tlc/quarantine/{FILE.removeprefix('clean/')}",
        "tlc/raw/green/green_tripdata_2024-01.parquet",
        "tlc/manifest/green/2024-01.json",
    }
    assert google.tokens.assertions, "asked as the account of the block"
    assert set(google.tokens.turned_away) <= {"iamcredentials.googleapis.com:443"}, "nothing else leaves this machine"
    (rows,) = re.findall(r"([\d,]+) clean", output)
    assert done(runs["from the bucket"]).startswith(f"green 2024-01: {rows} rows loaded into bigquery://taxis/ny_taxi")
    loads = [job.configuration["load"] for job in google.bigquery.jobs.values() if "load" in job.configuration]
    (month,) = [load for load in loads if load["destinationTable"]["tableId"] == "green_trip_data$202401"]
    assert list(map(without_version, month["sourceUris"])) == [f"gs://taxi-lake/tlc/{FILE}"]
    uploads = [call.body for call in google.bigquery.calls if call.path.startswith("/upload/")]
    assert not [body for body in uploads if b"trip_data$" in body], "only lookup tables and rows of loads are uploaded"
    assert done(runs["lookups"]) == "zones and code tables are in bigquery://taxis/ny_taxi\n"
    assert {"green_trip_data", "zones", "trips", "loads"} <= {table for _, table in google.bigquery.tables}


def test_a_month_goes_all_the_way_from_the_source_into_a_folder_and_postgres(
    runs: Runs, dev: Profile, postgres_server: dict[str, str]
) -> None:
    lake = Path(dev.variables["LAKE_FOLDER"])
    assert [without_version(path.name) for path in (lake / FILE).parent.iterdir()] == [Path(FILE).name]
    (rows,) = re.findall(r"2024-01: ([\d,]+) rows loaded into postgresql://", done(runs["into Postgres"]))
    database = postgres_server | {"dbname": dev.variables["POSTGRES_DB"]}
    with closing(psycopg2.connect(**database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM ny_taxi.green_trip_data")
        assert f"{cursor.fetchone()[0]:,}" == rows  # type: ignore[index]


def test_check_connections_lists_what_a_profile_has_and_what_to_do_about_each_part_that_fails(runs: Runs) -> None:
    lake, bigquery, source, disk = done(runs["check gcp"]).splitlines()
    assert lake == "ok    lake      gs://taxi-lake/tlc: wrote, read back, deleted"
    assert bigquery.startswith("ok    bigquery  bigquery://taxis/ny_taxi: answers, and tables can be made; ")
    assert source.startswith("ok    source    sample: yellow ")
    assert disk.startswith("ok    disk      ")
    lake, postgres, *_ = done(runs["check dev"]).splitlines()
    assert lake.startswith("ok    lake      /")
    assert postgres.startswith("ok    postgres  postgresql://")
    failed = runs["a permission and a place"]
    assert failed.stderr.splitlines()[-1] == "error: the profile gcp can't be used: see the lines with FAIL"
    lake, to_lake, bigquery, to_bigquery, *_ = failed.stdout.splitlines()
    assert re.match(r"FAIL  lake      .* a permission is missing in gs://taxi-lake/tlc; got HTTP 403", lake)
    assert to_lake.strip() == "grant the service account the role roles/storage.objectUser on the bucket"
    assert bigquery == (
        "FAIL  bigquery  bigquery://taxis/ny_taxi and the lake's bucket are in different places; "
        "expected a dataset in US; got europe-west1"
    )
    assert to_bigquery.strip().startswith("make the bucket in europe-west1, or drop the dataset")


def test_a_profile_nobody_registered_is_named_with_the_command_that_makes_it(
    runs: Runs, client: SyncPrefectClient
) -> None:
    assert (runs["nobody"].returncode, runs["nobody"].stdout) == (1, "")
    assert runs["nobody"].stderr == (
        "error: the profile nobody has no block gcs-bucket/taxi-nobody or s3-bucket/taxi-nobody or"
        " azure-blob-storage-container/taxi-nobody or local-file-system/taxi-nobody; "
        "register it: .venv/bin/python blocks/register.py nobody\n"
    )
    with pytest.raises(ArgumentError, match="not a valid profile name: 'x/"):
        open_lake("x/../taxi-dev")
    # Runs without a month are named by what they do and the profile.
    names = {run.name for run in client.read_flow_runs(limit=200)}
    assert {"check-connections-dev", "check-connections-gcp", "load-lookups-gcp", "load-lookups-nobody"} <= names


@pytest.mark.usefixtures("runs", "client")
def test_a_notebook_reads_a_bucket_by_the_profile_of_its_blocks() -> None:
    found = trips("green", "2024-01", columns=["source_row"], where="trip_distance > 2", profile="gcp")
    every = trips("green", "2024-01", profile="gcp", as_="polars")
    assert found["source_row"].tolist() == every.filter(every["trip_distance"] > 2)["source_row"].to_list()
    assert 0 < len(found) < len(every)
    known = months("green", profile="gcp")
    assert known["bigquery"].notna().tolist() == [True]
    assert str(known["lake"].iloc[0]).startswith("gs://taxi-lake/tlc/clean/green/year=2024/month=01/")


def test_no_run_shows_a_secret_however_it_ends(
    runs: Runs, secrets: list[str], google: GoogleCloud, prefect_server: PrefectServer
) -> None:
    for name, evidence in {
        "no answer BigQuery gives": "KeyError",
        "a token refused": "Invalid Credentials",
        "a key refused": "invalid_grant",
        "a password refused": "password authentication failed",
    }.items():
        output = runs[name].stdout + runs[name].stderr
        assert runs[name].returncode == 1
        assert evidence in output
        assert ("Traceback" in output) == (evidence == "KeyError")
    shown = "\n".join(text for run in prefect_server.ran for text in (run.stdout, run.stderr, " ".join(run.args)))
    assert found([*secrets, *google.tokens.assertions], shown) == []
    assert MARKER in shown


@pytest.mark.usefixtures("runs")
def test_the_api_has_secrets_only_masked(client: SyncPrefectClient, secrets: list[str]) -> None:
    for read_page in (client.read_flow_runs, client.read_task_runs, client.read_artifacts, client.read_logs):
        text = "".join(str(each.model_dump(mode="json")) for each in every(read_page))
        assert found(secrets, text) == [], read_page
        assert "green" in text
    shown = {
        (block.block_type_name, block.name): block.data for block in client.read_block_documents(include_secrets=False)
    }
    key = shown["GCP Credentials", "taxi-gcp"]["service_account_info"]
    connection = shown["SQLAlchemy Connector", "taxi-dev"]["connection_info"]
    assert {key["private_key"], connection["password"]} == {"********"}
    assert found(secrets, str(shown)) == []
    assert MARKER in str(shown)


@pytest.mark.usefixtures("runs")
def test_the_servers_files_have_no_secret_in_clear(prefect_server: PrefectServer, secrets: list[str]) -> None:
    files = {path: path.read_bytes() for path in prefect_server.home.rglob("*") if path.is_file()}
    assert {"prefect.db", "prefect.db-wal"} <= {path.name for path in files}
    for path, content in files.items():
        assert [secret for secret in secrets if secret.encode() in content] == [], path
    assert [path for path, content in files.items() if MARKER.encode() in content]
    # Byte by byte, one that two pages of the file share would be missed.
    database = f"{(prefect_server.home / 'prefect.db').as_uri()}?mode=ro"
    with closing(sqlite3.connect(database, uri=True)) as connection:
        values = "\n".join(connection.iterdump())
    assert found(secrets, values) == []
    assert MARKER in values


@pytest.mark.usefixtures("runs")
def test_what_is_opened_shows_no_secret_nor_does_a_block_that_someone_made_unusable(
    client: SyncPrefectClient, gcp: Profile, dev: Profile, secrets: list[str]
) -> None:
    opened = [
        GcpCredentials.load("taxi-gcp"),
        GcsBucket.load("taxi-gcp"),
        SqlAlchemyConnector.load("taxi-dev"),
        *map(open_lake, ("gcp", "dev")),
        open_warehouse("gcp", "bigquery"),
        open_warehouse("dev", "postgres"),
    ]
    shown = "\n".join(f"{each!r} {each} {getattr(each, 'place', '')}" for each in opened)
    assert found(secrets, shown) == []
    assert MARKER in shown
    password, key = dev.variables["POSTGRES_PASSWORD"], json.loads(gcp.variables["GCP_SERVICE_ACCOUNT_INFO"])
    connection = {"driver": "postgresql", "port": "none", "password": password}
    for slug, profile, spoilt, message in (
        ("sqlalchemy-connector", "dev", {"connection_info": connection}, "port: Input should be a valid integer"),
        (
            "gcp-credentials",
            "gcp",
            {"service_account_info": key | {"private_key": [key["private_key"]]}},
            "gcp_credentials: InvalidValue",
        ),
    ):
        document = client.read_block_document_by_name(f"taxi-{profile}", slug)
        client.update_block_document(document.id, BlockDocumentUpdate(data=spoilt))
        with pytest.raises(ConfigurationError) as refused:
            open_warehouse("dev", "postgres") if profile == "dev" else open_lake("gcp")
        shown = "".join(traceback.format_exception(refused.value))
        assert message in shown
        assert f"python blocks/register.py {profile}" in shown
        assert found(secrets, shown) == []
