"""``make server``: other pages, other users and other programs don't get in; scripts and workers of the clone do."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import urllib3
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from conftest import ROOT, PrefectServer
from nyc_tlc.server import find_weaknesses
from scripts import Scripts
from waiting import eventually, free_port

#: A page that does to a Prefect server what a page of a stranger would: it asks for blocks and deployments.
ATTACK = """
const done = arguments[arguments.length - 1];
const ask = async (path, type) => {
  try {
    const body = JSON.stringify({});
    const answer = await fetch(arguments[0] + path, {method: "POST", headers: {"Content-Type": type}, body});
    return answer.status;
  } catch (error) { return error.name; }
};
Promise.all([
  ask("/block_documents/filter", "application/json"),
  ask("/deployments/filter", "application/json"),
  ask("/deployments/filter", "text/plain"),
]).then(done);
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@dataclass(frozen=True)
class OwnServer:
    """A clone's server.

    Attributes:
        clone: The clone.
        home: PREFECT_HOME.
        url: The address of its API.
        printed: The file that has what ``make server`` printed.
        scripts: Runs commands.
    """

    clone: Path
    home: Path
    url: str
    printed: Path
    scripts: Scripts

    @property
    def password(self) -> str:
        """The password in the clone's file."""
        return str(tomllib.loads((self.clone / "prefect.toml").read_text())["api"]["auth_string"])

    def run(self, *command: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Run Python as in another terminal, where only PREFECT_API_URL was exported."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment = clean | {"PREFECT_API_URL": self.url, "PREFECT_HOME": str(self.home)} | more
        return self.scripts.run(*command, environment=environment, cwd=cwd)


@pytest.fixture(scope="module")
def own_server(scripts: Scripts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """Start the server of a copy of the clone as ``make server`` does, with the umask that lets others read."""
    clone, home = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("home") / "prefect"
    shutil.copytree(ROOT / "flows", clone / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "prefect.yaml"):
        shutil.copy(ROOT / name, clone)
    port = free_port()
    server = OwnServer(clone, home, f"http://127.0.0.1:{port}/api", home.parent / "printed", scripts)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    given = {"PREFECT_HOME": str(home), "PREFECT_SERVER_API_PORT": str(port), "PYTHONPATH": str(clone / "flows")}
    with server.printed.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "nyc_tlc.runs.own_server"],
            cwd=home.parent,
            env=clean | given,
            stdout=out,
            stderr=subprocess.STDOUT,
            umask=0o022,
        )
    retries = urllib3.Retry(total=None, connect=600, backoff_factor=0.2, backoff_max=0.2)
    try:
        urllib3.request("GET", f"{server.url}/health", retries=retries)
        yield server
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Start Chromium; skip the test if there is none."""
    if not shutil.which("chromedriver"):
        pytest.skip("no Chromium with its driver (make browser)")
    options = webdriver.ChromeOptions()
    for option in ("headless=new", "no-sandbox", "disable-background-networking", "disable-sync"):
        options.add_argument(f"--{option}")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as browser:
        browser.set_script_timeout(60)
        yield browser


def test_a_page_of_another_origin_gets_nothing(
    browser: webdriver.Chrome, own_server: OwnServer, prefect_server: PrefectServer
) -> None:
    browser.get(f"{prefect_server.url}/health")
    assert browser.execute_async_script(ATTACK, own_server.url) == ["TypeError"] * 3
    # The attack is one: it reads everything from a server as Prefect starts it.
    browser.get(f"{own_server.url}/health")
    assert browser.execute_async_script(ATTACK, prefect_server.url)[:2] == [200, 200]


def test_whoever_brings_no_password_is_refused(own_server: OwnServer) -> None:
    def status(credentials: str | None) -> int:
        headers = urllib3.make_headers(basic_auth=credentials) if credentials else {}
        return urllib3.request("POST", f"{own_server.url}/block_documents/filter", json={}, headers=headers).status

    assert [status(None), status("admin:guess"), status(own_server.password)] == [401, 401, 200]


def test_no_other_user_reads_the_password_the_blocks_or_their_key_and_it_is_not_printed(own_server: OwnServer) -> None:
    assert mode(own_server.clone / "prefect.toml") == 0o600
    assert mode(own_server.home) == 0o700
    assert {mode(file) & 0o077 for file in own_server.home.rglob("*")} == {0}
    ignored = subprocess.run(["git", "check-ignore", "prefect.toml"], cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    assert ignored.returncode == 0
    printed = own_server.printed.read_text()
    assert f"export PREFECT_API_URL={own_server.url}\n" in printed
    assert str(own_server.clone / "prefect.toml") in printed
    assert own_server.password not in printed


def test_it_keeps_leases_and_old_runs_go(own_server: OwnServer) -> None:
    given = {PREFECT_API_URL: own_server.url, PREFECT_API_AUTH_STRING: own_server.password}
    with temporary_settings(given), get_client(sync_client=True) as client:
        assert list(find_weaknesses(own_server.url, client)) == []
        settings = client.request("GET", "/admin/settings").json()["server"]
    assert sorted(settings["services"]["db_vacuum"]["enabled"]) == ["events", "flow_runs"]
    assert settings["services"]["db_vacuum"]["retention_period"] in (90 * 86400, "P90D")


def test_prefect_and_scripts_of_the_clone_have_the_password_and_others_one_line(
    own_server: OwnServer, tmp_path: Path
) -> None:
    for folder, status in ((own_server.clone, 0), (tmp_path, 1)):
        assert own_server.run("-m", "prefect", "work-pool", "ls", cwd=folder).returncode == status
    sample = ["--source", "sample", "--year", "2024", "--month", "1"]
    script = str(own_server.clone / "flows/etl_web_to_gcs.py")
    done = own_server.run(script, *sample, cwd=tmp_path, TLC_SAMPLE_ROWS="1000")
    assert done.returncode == 0, done.stderr
    refused = own_server.run(script, *sample, cwd=tmp_path, PREFECT_API_AUTH_STRING="admin:guess")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "refuses; got status 401; set PREFECT_API_AUTH_STRING" in refused.stderr


def test_the_ui_takes_the_password_and_asks_the_server_under_the_name_it_was_opened_with(
    browser: webdriver.Chrome, own_server: OwnServer
) -> None:
    # As through ssh -L or a proxy: not the name that the server knows of itself.
    browser.get(own_server.url.replace("127.0.0.1", "localhost").replace("/api", "/v2"))
    wait = WebDriverWait(browser, 60)
    wait.until(lambda page: page.find_element(By.XPATH, "//input[@type='password']")).send_keys(own_server.password)
    browser.find_element(By.XPATH, "//button[@type='submit']").click()
    wait.until(lambda page: "/login" not in page.current_url)
    asked = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    eventually(lambda: any("/api/flow_runs" in name for name in browser.execute_script(asked)))
    api = [name for name in browser.execute_script(asked) if "/api/" in name]
    assert {name.split("/")[2].partition(":")[0] for name in api if "amplitude" not in name} == {"localhost"}
