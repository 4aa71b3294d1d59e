"""The image and compose.yaml; without Docker, their services run as processes."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import urllib3
from cryptography.fernet import Fernet
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from conftest import ROOT
from nyc_tlc import __version__
from nyc_tlc.server import find_weaknesses, read_pool, read_server, save_pool
from stand_ins.docker import (
    Machine,
    compile_code,
    context,
    copy,
    free_port,
    machine_with,
    read_compose,
    read_dockerfile,
    wait_for,
    without_postgres,
)
from stand_ins.http_source import HttpSource, PublishedFile

DOCKER = ROOT / "docker"
STAGES = {stage.name: stage for stage in read_dockerfile(DOCKER / "Dockerfile")}
BUILD, FINAL = STAGES["build"], STAGES[""]
COMPOSE = read_compose(DOCKER / "compose.yaml", {})
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
NOTIFICATIONS = {"SENDGRID_API_KEY", "SLACK_WEBHOOK_URL", "WEBHOOK_TOKEN", "WEBHOOK_URL"}
LONG_RUNNING = {"postgres", "server", "worker", "gcs", "redpanda"}
POOLS = sorted((ROOT / "deployments/pools").iterdir())


def test_the_final_stage_has_no_root_no_tools_and_says_what_it_is() -> None:
    assert re.fullmatch(r"python:3\.1[1-3]\.\d+-slim-bookworm(@sha256:[0-9a-f]{64})?", FINAL.base)
    assert FINAL.base == BUILD.base
    assert FINAL.all("USER") == ["10001:10001"]
    assert not re.search(r"apt-get|pip install|curl|gcc", " ".join(FINAL.all("RUN")))
    assert "pip uninstall" in FINAL.all("RUN")[0]
    assert all(rest.startswith("--from=build ") for rest in FINAL.all("COPY"))
    labels = dict(re.findall(r"org\.opencontainers\.image\.([\w.]+)=\"([^\"]+)\"", FINAL.all("LABEL")[0]))
    assert labels.keys() >= {"title", "description", "licenses", "version", "revision", "created", "base.name"}
    assert f"VERSION={__version__}" in FINAL.all("ARG")


def test_every_package_is_installed_by_hash_and_as_a_wheel() -> None:
    installs = [run for stage in STAGES.values() for run in stage.all("RUN") if re.search(r"pip .*install ", run)]
    assert len(installs) == 3
    for run in installs[:2]:
        assert {"--require-hashes", "--only-binary", "--no-cache-dir"} <= set(run.split())


def test_the_bill_of_materials_has_every_package_of_the_image_with_its_digests() -> None:
    made = subprocess.run(
        [sys.executable, DOCKER / "bill_of_materials.py", ROOT / "requirements.lock"], check=True, capture_output=True
    )
    components = json.loads(made.stdout)["components"]
    lock = (ROOT / "requirements.lock").read_text()
    assert len(components) == len(re.findall("^[a-z]", lock, re.MULTILINE))
    digests = [each for one in components for each in one["externalReferences"][0]["hashes"]]
    assert len(digests) == lock.count("--hash=sha256:")


def test_whatever_make_installs_from_pypi_has_a_hash() -> None:
    recipes = (ROOT / "Makefile").read_text()
    recipes = re.sub(r"(?m)^#.*", "", recipes)
    installs = [line for line in recipes.splitlines() if re.search(r"pip install|\$\(PIP\) install", line)]
    assert len(installs) == 3
    assert all("--require-hashes" in line for line in installs)
    lock = (ROOT / "requirements-install.lock").read_text()
    assert re.fullmatch(r"uv==[\d.]+ \\\n( +--hash=sha256:\w{64}( \\)?\n)+( +# .*\n)*", lock)


def test_hadolint_finds_nothing() -> None:
    found = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if not found:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([found, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_build_context_has_the_code_and_nothing_else(tmp_path: Path) -> None:
    for name in (".env", "docker/secrets/prefect_auth", "data/lake/x", "flows/__pycache__/x.pyc", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    for name in ("flows/etl_month.py", "requirements.lock"):
        (tmp_path / name).write_text("x")
    shutil.copy(ROOT / ".dockerignore", tmp_path)
    assert sorted(map(str, context(tmp_path))) == ["flows/etl_month.py", "requirements.lock"]


def test_compose_lets_only_this_machine_in_and_limits_every_service() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for name, service in SERVICES.items():
        assert {"cpus", "mem_limit", "pids_limit"} <= service.keys(), name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "privileged" not in service, name
        assert re.search(r":v?\d[\w.-]*(@sha256:[0-9a-f]{64})?$", service["image"]), name
        if name not in ("postgres", "redpanda"):
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name


def test_compose_starts_one_after_the_other_and_knows_how_each_is() -> None:
    order = {
        name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        for name, service in SERVICES.items()
    }
    assert order["server"] == {"postgres": "service_healthy"}
    assert order["deploy"] == {"server": "service_healthy"}
    assert order["worker"] == {"deploy": "service_completed_successfully"}
    assert order["offline"] == {"gcs": "service_healthy", "server": "service_healthy"}
    for name in LONG_RUNNING:
        assert "healthcheck" in SERVICES[name] or "HEALTH_URL" in SERVICES[name]["environment"], name


def test_no_secret_is_in_the_compose_file_and_each_goes_only_where_it_is_needed() -> None:
    for name, service in SERVICES.items():
        files = {key: value for key, value in service.get("environment", {}).items() if key.endswith("_FILE")}
        given = SERVICES[name].get("environment", {})
        mounted = {f"/run/secrets/{secret}" for secret in service.get("secrets", ())}
        assert {given[key] for key in files} <= mounted, name
        secret = re.compile("PASSWORD|AUTH_STRING|ENCRYPTION_KEY|API_KEY|TOKEN|WEBHOOK")
        plain = {key for key in given if secret.search(key) and not key.endswith("_FILE")}
        # Of notifications, from .env: they go into a block and end with the service.
        assert plain == (NOTIFICATIONS if name == "deploy" else set()), name
    assert {secret["file"].split("/")[1] for secret in COMPOSE["secrets"].values()} == {"secrets"}
    assert "prefect_database_password" not in SERVICES["worker"]["secrets"]


def test_the_readme_names_every_service_variable_and_pool() -> None:
    readme = (DOCKER / "README.md").read_text()
    for name in SERVICES:
        assert f"`{name}`" in readme, name
    for file in (DOCKER / "compose.yaml", *POOLS):
        for variable in re.findall(r"\$\{(\w+)", file.read_text()):
            assert f"`{variable}`" in readme, variable
    for file in POOLS:
        assert f"| `taxi-{file.stem}` | `{file.name}` |" in readme


def test_docker_understands_the_compose_file(tmp_path: Path) -> None:
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no docker client with compose")
    command = [docker, "compose", "--file", str(DOCKER / "compose.yaml"), "--profile", "gcs", "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_secret_in_a_file_becomes_a_variable_and_an_empty_one_stops_everything(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("p@ss 'word'\n")
    (tmp_path / "empty").write_text("\n")

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", str(DOCKER / "entrypoint.sh"), "env"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    given = run(PATH=os.environ["PATH"], POSTGRES_PASSWORD_FILE=str(tmp_path / "secret"), PREFECT_API_KEY_FILE="")
    assert "POSTGRES_PASSWORD=p@ss 'word'\n" in given.stdout
    assert "_FILE" not in given.stdout
    assert "PREFECT_API_KEY" not in given.stdout
    for name, message in (("empty", "the secret PREFECT_API_KEY is empty"), ("none", "No such file")):
        stopped = run(PATH=os.environ["PATH"], PREFECT_API_KEY_FILE=str(tmp_path / name))
        assert stopped.returncode != 0
        assert message in stopped.stderr
        assert stopped.stdout == ""


def test_a_health_check_tells_200_from_anything_else_without_a_python(http_source: HttpSource) -> None:
    http_source.files["/health"] = PublishedFile(b"{}")

    def status(url: str) -> int:
        command = ["bash", str(DOCKER / "health.sh")]
        return subprocess.run(command, env={"HEALTH_URL": url}, capture_output=True, check=False).returncode

    assert status(f"{http_source.url}/health") == 0
    assert status(f"{http_source.url}/missing") == 1
    assert status(f"http://127.0.0.1:{free_port()}/health") == 1
    assert status("") == 0


def test_only_what_no_run_needs_is_pruned(tmp_path: Path) -> None:
    def make(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("x")

    documents = "googleapiclient/discovery_cache/documents"
    kept = {f"{documents}/run.v2.json", "pandas/core.py", "pyarrow/libarrow.so.2600", "prefect/server/ui/index.html"}
    make(
        *kept,
        f"{documents}/compute.v1.json",
        "pandas/tests/x.py",
        "pyarrow/include/x.h",
        "pyarrow/libarrow_flight.so.1",
    )
    subprocess.run(["sh", str(DOCKER / "prune.sh"), str(tmp_path)], check=True)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == kept


def test_secrets_are_random_kept_and_out_of_others_reach(tmp_path: Path) -> None:
    shutil.copy(DOCKER / "secrets.sh", tmp_path)

    def make() -> dict[str, str]:
        subprocess.run(["sh", str(tmp_path / "secrets.sh")], check=True, capture_output=True)
        return {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}

    made = make()
    assert made.keys() == COMPOSE["secrets"].keys()
    assert len(set(made.values())) == len(made)
    assert all(len(value) >= 44 for value in made.values())
    assert re.fullmatch(r"admin:[0-9a-f]{48}", made["prefect_auth"])
    assert Fernet(made["prefect_encryption_key"])
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    (tmp_path / "secrets").chmod(0o755)
    assert make() == made
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the image's folder: the files that COPY adds, compiled. Packages are this interpreter's, not pip's."""
    folder = tmp_path_factory.mktemp("image")
    copy(BUILD, ROOT, folder)
    compile_code(BUILD, folder, sys.prefix)
    return folder


@pytest.mark.torture
def test_every_module_of_the_image_is_compiled_and_every_flow_starts_from_nothing_else(
    image: Path, tmp_path: Path
) -> None:
    flows = sorted((image / "app/flows").glob("*.py"))
    assert len(flows) == len(list((ROOT / "flows").glob("*.py")))
    for module in (image / "app").rglob("*.py"):
        assert list((module.parent / "__pycache__").glob(f"{module.stem}.*.pyc")), module
    script = "import runpy, sys\nfor name in sys.argv[1:]:\n    runpy.run_path(name, run_name='flow')"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(image / 'app/flows')!r})\n{script}", *flows],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def machine(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Return a machine after ``docker/secrets.sh``, with the profile local and without Postgres."""
    folder = tmp_path_factory.mktemp("machine")
    shutil.copy(DOCKER / "secrets.sh", folder)
    subprocess.run(["sh", str(folder / "secrets.sh")], check=True, capture_output=True)
    machine = machine_with(image, sys.prefix, folder / "secrets", folder, DOCKER / "compose.yaml")
    without_postgres(machine)
    machine.extra["worker"]["TLC_PROFILE"] = "local"
    return machine


@pytest.fixture(scope="module")
def server(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator["subprocess.Popen[bytes]"]:
    """Start the server of compose.yaml, with authentication."""
    with machine.running("server", tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def api(machine: Machine, server: "subprocess.Popen[bytes]") -> Iterator[SyncPrefectClient]:
    """Return a client of the server with the credentials."""
    auth = Path(machine.here("/run/secrets/prefect_auth")).read_text()
    given = {PREFECT_API_URL: machine.environment("deploy")["PREFECT_API_URL"], PREFECT_API_AUTH_STRING: auth}
    with temporary_settings(given), get_client(sync_client=True) as client:
        yield client


def addresses(process: "subprocess.Popen[bytes]") -> set[str]:
    """Return the addresses on which a process and its children listen."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    found = [connection for each in family for connection in each.net_connections("inet")]
    return {connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN}


@pytest.mark.torture
def test_the_server_listens_on_loopback_alone_unless_it_is_told_otherwise(server: "subprocess.Popen[bytes]") -> None:
    assert addresses(server) == {"127.0.0.1"}


@pytest.mark.torture
def test_the_api_refuses_whoever_brings_no_credentials(machine: Machine, api: SyncPrefectClient) -> None:
    http, auth = urllib3.PoolManager(), Path(machine.here("/run/secrets/prefect_auth")).read_text()

    def status(path: str, credentials: str | None = None) -> int:
        headers = urllib3.make_headers(basic_auth=credentials) if credentials else {}
        return http.request("POST", f"{api.api_url}{path}", json={}, headers=headers, retries=False).status

    for path in ("flow_runs/filter", "block_documents/filter", "work_pools/filter"):
        assert status(path) == 401
        assert status(path, "admin:guess") == 401
        assert status(path, auth) == 200
    origin = http.request("GET", f"{api.api_url}health", headers={"Origin": "http://example.org"})
    assert origin.status == 200
    assert "access-control-allow-origin" not in origin.headers
    http.clear()


@pytest.mark.torture
def test_a_restart_of_compose_s_server_loses_no_lease_and_old_runs_go(machine: Machine, api: SyncPrefectClient) -> None:
    assert list(find_weaknesses(str(api.api_url).rstrip("/"), api)) == []
    settings = api.request("GET", "/admin/settings").json()["server"]
    assert sorted(settings["services"]["db_vacuum"]["enabled"]) == ["events", "flow_runs"]
    assert settings["services"]["db_vacuum"]["retention_period"] in (90 * 86400, "P90D")
    volumes = {name: service["volumes"] for name, service in SERVICES.items() if "volumes" in service}
    assert machine.compose["services"]["server"]["environment"]["PREFECT_HOME"] == "/data"
    assert volumes["server"] == ["server:/data"]


def test_links_in_messages_are_for_a_browser_on_the_host() -> None:
    for name in ("server", "worker"):
        for given, url in (
            ({"PREFECT_PORT": "4300"}, "http://127.0.0.1:4300"),
            ({"PREFECT_UI_URL": "https://taxi.example.org"}, "https://taxi.example.org"),
        ):
            compose = read_compose(DOCKER / "compose.yaml", given)
            assert compose["services"][name]["environment"]["PREFECT_UI_URL"] == url


@pytest.mark.torture
def test_the_ui_asks_the_server_that_it_came_from(api: SyncPrefectClient) -> None:
    settings = urllib3.request("GET", f"{str(api.api_url).removesuffix('/api/')}/ui-settings").json()
    assert (settings["api_url"], settings["auth"]) == ("/api", "BASIC")


@pytest.mark.torture
def test_the_catch_up_can_be_restricted_and_switched_off_by_variables(machine: Machine, api: SyncPrefectClient) -> None:
    done = machine.run("deploy", CATCH_UP="off", CATCH_UP_COLORS='["green", "yellow"]')
    assert done.returncode == 0, done.stdout + done.stderr
    catch_up = api.read_deployment_by_name("backfill/catch-up")
    assert catch_up.parameters == {"last": 4, "older": True, "colors": ["green", "yellow"], "models": False}
    assert catch_up.schedules == []
    again = machine.run("deploy", CATCH_UP="on", CATCH_UP_COLORS="")
    assert again.returncode == 0, again.stdout + again.stderr
    catch_up = api.read_deployment_by_name("backfill/catch-up")
    assert catch_up.parameters == {
        "last": 4,
        "older": True,
        "colors": ["yellow", "green", "fhv", "fhvhv"],
        "models": False,
    }
    assert [(schedule.slug, schedule.active) for schedule in catch_up.schedules] == [("every-morning", True)]


@pytest.mark.torture
def test_a_worker_with_nothing_but_the_image_does_a_month(
    machine: Machine, api: SyncPrefectClient, tmp_path: Path
) -> None:
    for pool in read_server(ROOT / "deployments/server.yaml", {})[0]:
        save_pool(pool, 2, api)
    deployed = machine.run("deploy", "prefect", "--no-prompt", "deploy", "--name", "etl-month/green")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    with machine.running("worker", tmp_path) as worker:
        assert addresses(worker) == {"127.0.0.1"}
        found = api.read_deployment_by_name("etl-month/green")
        asked = {"year": 2024, "month": 1, "source": "sample"}
        run = api.create_flow_run_from_deployment(found.id, parameters=asked)
        wait_for(lambda: api.read_flow_run(run.id).state.is_final(), worker, tmp_path / "worker.log")
    assert api.read_flow_run(run.id).state.is_completed(), (tmp_path / "worker.log").read_text()
    assert Path(machine.here("/data/lake/manifest/green/2024-01.json")).is_file()
    assert Path(machine.here("/data/warehouse.duckdb")).is_file()


@pytest.mark.torture
def test_work_pools_are_updated_when_their_file_changes(api: SyncPrefectClient) -> None:
    given = {"TLC_REGION": "us-east1", "TLC_SERVICE_ACCOUNT": "runs@taxis"}
    for image in ("registry/taxi:1", "registry/taxi:2"):
        for file in POOLS:
            save_pool(read_pool(file, given | {"TLC_IMAGE": image}), 2, api)
        saved = api.read_work_pool("taxi-docker").base_job_template["job_configuration"]
        assert saved["image"] == image
