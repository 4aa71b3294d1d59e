"""Starts a run from the form in Prefect's UI and takes the README's pictures of it.

Needs what the README's section "On a server" starts, an empty lake, and Chromium with its driver
(``make browser``). Run as ``python docs/screenshots.py``, with PREFECT_API_URL set.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

DOCS = Path(__file__).parent
UI = (PREFECT_API_URL.value() or "http://127.0.0.1:4200/api").removesuffix("/api") + "/v2"
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1360,1060",
)
#: What the form is filled with: parameter -> its type's button, and the value.
FORM = {"year": ("int", "2024"), "month": ("int", "1"), "source": ("str", "sample")}


def main() -> None:
    """See the module."""
    options = webdriver.ChromeOptions()
    for option in OPTIONS:
        options.add_argument(option)
    with webdriver.Chrome(options=options) as browser, get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("etl-month/green")
        before = {run.id for run in client.read_flow_runs()}
        log_in(browser)
        browser.get(f"{UI}/deployments/deployment/{deployment.id}/run")
        fill(browser)
        browser.save_screenshot(str(DOCS / "run-form.png"))
        find(browser, "//button[@type='submit']").click()
        of_it = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))

        def ended() -> FlowRun | None:
            runs = client.read_flow_runs(deployment_filter=of_it, sort=FlowRunSort.EXPECTED_START_TIME_DESC)
            new = [run for run in runs if run.id not in before and run.state and run.state.is_final()]
            return new[0] if new else None

        run = until(ended)
        assert run.state
        if not run.state.is_completed():
            raise SystemExit(f"the run ended as {run.state.name}: {run.state.message}")
        browser.get(f"{UI}/runs/flow-run/{run.id}")
        find(browser, f"//*[contains(text(), '{run.name}')]")
        # The timeline is drawn on a canvas and the log comes in pages, which no element tells of.
        time.sleep(6)
        browser.save_screenshot(str(DOCS / "run.png"))
        key = ArtifactFilterKey(any_=["green-2024-01-quality-local"])
        reports = client.read_artifacts(artifact_filter=ArtifactFilter(key=key), sort=ArtifactSort.CREATED_DESC)
        browser.get(f"{UI}/artifacts/artifact/{reports[0].id}")
        find(browser, "//*[contains(text(), 'green-2024-01-quality-local')]")
        time.sleep(6)
        browser.save_screenshot(str(DOCS / "quality.png"))


def log_in(browser: webdriver.Chrome) -> None:
    """Give the UI the password of make server."""
    browser.get(UI)
    find(browser, "//input[@type='password']").send_keys(PREFECT_API_AUTH_STRING.value() or "")
    find(browser, "//button[@type='submit']").click()
    wait(browser).until(lambda each: "/login" not in each.current_url)


def fill(browser: webdriver.Chrome) -> None:
    """Fill in the form, as a person would."""
    for name, (kind, value) in FORM.items():
        label = f"(//*[normalize-space(text())='{name} (Optional)'])[1]"
        find(browser, f"{label}/following::button[normalize-space(.)='{kind}'][1]").click()
        find(browser, f"{label}/following::*[self::input or self::textarea][1]").send_keys(value)
    browser.execute_script("window.scrollTo(0, 0)")


def wait(browser: webdriver.Chrome) -> WebDriverWait[webdriver.Chrome]:
    """Patience for the UI."""
    return WebDriverWait(browser, 60)


def find(browser: webdriver.Chrome, path: str) -> WebElement:
    """An element, once it is there."""
    return wait(browser).until(lambda each: each.find_element(By.XPATH, path))


def until(look: Callable[[], FlowRun | None]) -> FlowRun:
    """What a look finds, once it does."""
    while True:
        if found := look():
            return found
        time.sleep(1)


if __name__ == "__main__":
    main()
