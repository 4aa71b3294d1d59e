"""A password and a private key are only where they belong, whatever goes wrong."""

from __future__ import annotations

import itertools
import json
import socket
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
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
from nyc_tlc.errors import ConfigurationError
from nyc_tlc.profiles import registering
from nyc_tlc.profiles.opening import open_lake, open_warehouse
from stand_ins.bigquery import Fault
from stand_ins.google_tokens import GoogleCloud

JANUARY = ("--color", "green", "--year", "2024", "--month", "1")
DEBUG = {"PREFECT_LOGGING_LEVEL": "DEBUG"}
#: No secret, and in most of what is logged: what looks for secrets has to find it.
MARKER = "taxi-lake"
Runs = dict[str, CompletedProcess[str]]


@pytest.fixture(scope="module")
def secrets(google: GoogleCloud, dev: Profile) -> list[str]:
    """Return the secrets, in parts that quoting and line breaks do not change."""
    password = dev.variables["POSTGRES_PASSWORD"].rpartition("'")[2]
    key = google.tokens.key["private_key"].splitlines()
    return [password, google.tokens.token, *key[1:-2]]


@pytest.fixture(scope="module")
def away(dev: Profile) -> Iterator[Profile]:
    """Return the profile ``dev`` with a port on which no server listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nowhere = {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(taken.getsockname()[1])}
        away = replace(dev, name="away", variables=dev.variables | nowhere)
        yield away
    away.unregister()


@pytest.fixture(scope="module")
def registered(prefect_server: PrefectServer, gcp: Profile, dev: Profile, away: Profile) -> None:
    """Register the profiles' blocks."""
    with temporary_settings({PREFECT_API_URL: prefect_server.url, PREFECT_HOME: prefect_server.home}):
        for file, profile in (("gcp", gcp), ("dev", dev), ("dev", away)):
            wanted = registering.read_blocks(ROOT / f"blocks/profiles/{file}.yaml", profile.variables)
            registering.register(profile.name, *wanted)


@pytest.fixture(scope="module")
def runs(
    registered: None, gcp: Profile, dev: Profile, away: Profile, google: GoogleCloud, postgres_server: dict[str, str]
) -> Runs:
    """Run commands with debug logs: first they succeed, then they fail; for each profile one after the other."""

    def with_gcp() -> Iterator[tuple[str, CompletedProcess[str]]]:
        yield "a month in BigQuery", gcp.run("etl_month", *JANUARY, "--source", "sample", **DEBUG)
        google.bigquery.faults = [Fault("status", "GET", "/datasets/ny_taxi", status=200)]
        yield "no answer BigQuery gives", gcp.run("check_connections", "--source", "sample", **DEBUG)
        google.gcs.tokens = set()
        yield "a token refused", gcp.run("check_connections", "--source", "sample", **DEBUG)
        google.tokens.revoked = True
        yield "a key refused", gcp.run("etl_gcs_to_bq", *JANUARY, **DEBUG)

    def with_dev() -> Iterator[tuple[str, CompletedProcess[str]]]:
        yield "a month in Postgres", dev.run("etl_month", *JANUARY, "--source", "sample", **DEBUG)
        with closing(psycopg2.connect(**postgres_server)) as admin, admin, admin.cursor() as cursor:
            cursor.execute(f"ALTER ROLE {dev.variables['POSTGRES_USER']} PASSWORD 'another'")
        yield "a password refused", dev.run("etl_gcs_to_postgres", *JANUARY, **DEBUG)
        yield "a server away", away.run("check_connections", "--source", "sample", **DEBUG)

    with ThreadPoolExecutor() as side_by_side:
        return dict(pair for pairs in side_by_side.map(lambda run: list(run()), (with_gcp, with_dev)) for pair in pairs)


@pytest.fixture
def client(prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch, gcp: Profile) -> Iterator[SyncPrefectClient]:
    """Return a client of the server; profiles opened in this process use the same server."""
    for name, value in gcp.environment.items():
        monkeypatch.setenv(name, value)
    settings = {PREFECT_API_URL: prefect_server.url, PREFECT_HOME: prefect_server.home}
    with temporary_settings(settings), get_client(sync_client=True) as client:
        yield client


def every(read_page: Callable[..., list[Any]]) -> Iterator[Any]:
    """Yield all objects, page by page."""
    for offset in itertools.count(0, 200):
        page = read_page(limit=200, offset=offset)
        yield from page
        if len(page) < 200:
            return


def found(secrets: list[str], text: str) -> list[str]:
    return [secret for secret in secrets if secret in text]


def test_no_run_shows_a_secret_however_it_ends(
    runs: Runs, secrets: list[str], google: GoogleCloud, prefect_server: PrefectServer
) -> None:
    outputs = {name: run.stdout + run.stderr for name, run in runs.items()}
    assert [name for name, run in runs.items() if run.returncode == 0] == ["a month in BigQuery", "a month in Postgres"]
    for name, evidence in {
        "no answer BigQuery gives": "KeyError",
        "a token refused": "Invalid Credentials",
        "a key refused": "invalid_grant",
        "a password refused": "password authentication failed",
        "a server away": "Connection refused",
    }.items():
        assert evidence in outputs[name]
        assert ("Traceback" in outputs[name]) == (evidence == "KeyError")
    shown = [text for run in prefect_server.ran for text in (run.stdout, run.stderr, " ".join(run.args))]
    assert found([*secrets, *google.tokens.assertions], "\n".join(shown)) == []
    assert MARKER in "".join(shown)


@pytest.mark.usefixtures("runs")
def test_the_api_has_secrets_only_masked(client: SyncPrefectClient, secrets: list[str]) -> None:
    read: dict[str, Callable[..., list[Any]]] = {
        "flow runs": client.read_flow_runs,
        "task runs": client.read_task_runs,
        "artifacts": client.read_artifacts,
        "logs": client.read_logs,
    }
    for what, read_page in read.items():
        text = "".join(str(each.model_dump(mode="json")) for each in every(read_page))
        assert found(secrets, text) == [], what
        assert "green" in text
    shown = {
        (block.block_type_name, block.name): block.data for block in client.read_block_documents(include_secrets=False)
    }
    key = shown["GCP Credentials", "taxi-gcp"]["service_account_info"]
    connection = shown["SQLAlchemy Connector", "taxi-dev"]["connection_info"]
    assert {key["private_key"], connection["password"]} == {"********"}
    assert found(secrets, str(shown)) == []
    assert MARKER in str(shown)


@pytest.mark.usefixtures("runs", "client")
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


@pytest.mark.usefixtures("runs", "client")
def test_what_is_opened_shows_no_secret(secrets: list[str]) -> None:
    opened = [
        GcpCredentials.load("taxi-gcp"),
        GcsBucket.load("taxi-gcp"),
        SqlAlchemyConnector.load("taxi-dev"),
        open_lake("gcp"),
        open_lake("dev"),
        open_warehouse("gcp", "bigquery"),
        open_warehouse("dev", "postgres"),
    ]
    shown = "\n".join(f"{each!r} {each} {getattr(each, 'place', '')}" for each in opened)
    assert found(secrets, shown) == []
    assert MARKER in shown


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("sqlalchemy-connector/taxi-dev", "port: Input should be a valid integer"),
        ("gcp-credentials/taxi-gcp", "gcp_credentials: InvalidValue"),
    ],
    ids=["a port", "a key"],
)
def test_a_block_that_someone_made_unusable_is_told_without_what_it_holds(
    client: SyncPrefectClient, gcp: Profile, dev: Profile, secrets: list[str], block: str, message: str
) -> None:
    slug, name = block.split("/")
    password, key = dev.variables["POSTGRES_PASSWORD"], json.loads(gcp.variables["GCP_SERVICE_ACCOUNT_INFO"])
    spoilt = {
        "sqlalchemy-connector": {"connection_info": {"driver": "postgresql", "port": "none", "password": password}},
        "gcp-credentials": {"service_account_info": key | {"private_key": [key["private_key"]]}},
    }
    document = client.read_block_document_by_name(name, slug)
    client.update_block_document(document.id, BlockDocumentUpdate(data=spoilt[slug]))
    shown = ""
    try:
        open_warehouse("dev", "postgres") if name == "taxi-dev" else open_lake("gcp")
    except ConfigurationError as error:
        shown = "".join(traceback.format_exception(error))
    assert message in shown
    assert f"python blocks/register.py {name.removeprefix('taxi-')}" in shown
    assert found(secrets, shown) == []
