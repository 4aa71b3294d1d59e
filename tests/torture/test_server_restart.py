"""A Prefect server restarts while the catch-up is Pending: the next catch-up has to run.

Takes a minute: ``make torture``.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending
from urllib3.util import Retry

from conftest import ROOT, SERVER, PrefectServer
from scripts import Scripts
from stand_ins.docker import read_compose
from waiting import eventually, free_port

pytestmark = [pytest.mark.torture, pytest.mark.timeout(400)]

SETTING = "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"
LEASES = "prefect.server.concurrency.lease_storage.filesystem"


@contextlib.contextmanager
def running(server: PrefectServer, **settings: str) -> Iterator[SyncPrefectClient]:
    """Start the server, yield a client of it, and stop the server."""
    port = server.url.split(":")[2].removesuffix("/api")
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_SERVER_LOGGING_LEVEL": "WARNING"}
    # The shortest that Prefect takes.
    quick = {"PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION": "30"}
    with (server.home / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, "server", "start", "--host", "127.0.0.1", "--port", port],
            env=server.environment(**quiet, **quick, **settings) | {"PREFECT_API_URL": ""},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            retries = Retry(total=300, backoff_factor=0.2, backoff_max=0.2)
            urllib3.PoolManager().request("GET", f"{server.url}/health", retries=retries).drain_conn()
            with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as client:
                yield client
        finally:
            process.terminate()
            process.wait(30)


def start_catch_up(client: SyncPrefectClient) -> str:
    """Create a run and set it to Pending, as a worker does. Return the name of its state."""
    run = client.create_flow_run_from_deployment(client.read_deployment_by_name("backfill/catch-up").id)
    client.set_flow_run_state(run.id, Pending())
    return client.read_flow_run(run.id).state_name


def test_compose_has_the_setting() -> None:
    compose = read_compose(ROOT / "docker/compose.yaml", {})
    assert compose["services"]["server"]["environment"][SETTING] == LEASES


def test_a_catch_up_that_is_pending_when_the_server_restarts_does_not_block_the_next(
    scripts: Scripts, tmp_path: Path
) -> None:
    server = PrefectServer(f"http://127.0.0.1:{free_port()}/api", tmp_path, scripts)
    with running(server, **{SETTING: LEASES}) as client:
        assert server.run("deployments/apply.py").returncode == 0
        deploy = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--name", "backfill/catch-up"]
        subprocess.run(deploy, cwd=ROOT, env=server.environment(), check=True, capture_output=True, timeout=100)
        assert start_catch_up(client) == "Pending"
        assert start_catch_up(client) == "Cancelled"
    with running(server, **{SETTING: LEASES}) as client:
        # Until then its place is still taken.
        eventually(lambda: start_catch_up(client) == "Pending", 120, every=5)
