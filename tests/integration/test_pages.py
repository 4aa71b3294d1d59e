"""The pages in a real browser: they open without errors or network requests, and work without a mouse."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from markdown_it import MarkdownIt
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from factories import JANUARY, green_parquet, make_month, trip
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.month import COLORS, Color, Month
from nyc_tlc.pages.coverage import read_coverage
from nyc_tlc.pages.coverage_page import write_coverage_page
from nyc_tlc.pages.trips_page import write_trips_page
from nyc_tlc.planning.month_plan import MonthPlan
from nyc_tlc.runs.month_report import Outcome, format_quality_report, format_summary
from nyc_tlc.shown import shown
from nyc_tlc.source.location import RemoteFile
from nyc_tlc.source.sample import write_sample
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.protocol import Kind, Load

HOSTILE = "</script><img src=x onerror=alert(1)>"
PAGES = ["coverage.html", *(f"trips-{color}.html" for color in COLORS)]
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
#: Text whose contrast with what is behind it is under the 4.5 to 1 that WCAG 2.2 asks for (level AA).
PALE_TEXT = """
const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
const over = (top, under) => [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * under[i]);
const light = (rgb) => rgb.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (element) => {
  if (!element) return [255, 255, 255];
  const color = parse(getComputedStyle(element).backgroundColor);
  return color[3] === 1 ? color.slice(0, 3) : over(color, behind(element.parentElement));
};
const pale = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || !element.checkVisibility() || element.closest("title, script")) continue;
  const style = getComputedStyle(element);
  const back = behind(element), front = over(parse(element.closest("svg") ? style.fill : style.color), back);
  const [low, high] = [light(front), light(back)].sort((a, b) => a - b);
  const ratio = (high + 0.05) / (low + 0.05);
  if (ratio < 4.5) pale.push(`${element.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
}
return pale;
"""


@dataclass(frozen=True)
class Reports:
    """The pages of a lake.

    Attributes:
        folder: Their folder.
        manifests: The manifests of their months.
    """

    folder: Path
    manifests: dict[str, Manifest]

    def url(self, page: str) -> str:
        return (self.folder / page.partition("#")[0]).as_uri() + "".join(page.partition("#")[1:])


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """Write pages about fourteen months of all colours, with everything that can be on them."""
    folder = tmp_path_factory.mktemp("pages")
    lake = FolderLake(folder / "lake")
    manifests = {}
    for color in COLORS:
        months = 13 if color in ("yellow", "green") else 3
        for month in [JANUARY.plus(-ago) for ago in range(months) if ago != 4]:
            source = folder / "sample.parquet"
            write_sample(color, month, 600, source)
            made = make_month(lake, source.read_bytes(), folder, month, color)
            manifests[f"{color}-{month}"] = made
    odd = (
        trip(**{HOSTILE: "x"}, store_and_fwd_flag=HOSTILE, passenger_count=0),
        *(trip(lpep_pickup_datetime=datetime(2024, 2, day, 7)) for day in (1, 2, 29)),
    )
    body = green_parquet(*odd, types={HOSTILE: pa.string()})
    manifests["green-2024-02"] = make_month(lake, body, folder, JANUARY.plus(1))
    made_of = [LakeFile(each, lake, read_contract(each.color)) for each in manifests.values()]
    now = datetime.now(UTC)
    loads: dict[Kind, dict[tuple[Color, Month], Load]] = {
        "duckdb": {(file.manifest.color, file.month): Load.of(file, now, "a-flow-run") for file in made_of[::2]},
        "postgres": {(file.manifest.color, file.month): Load.of(file, now, None) for file in made_of[1::2]},
    }
    changed = RemoteFile("green", JANUARY, "file:///elsewhere")
    plans = [
        MonthPlan("green", JANUARY, "reload", "the source changed", changed),
        MonthPlan("green", JANUARY.plus(-4), "ingest", "the lake does not have it"),
        MonthPlan("green", JANUARY.plus(2), "unpublished", "403"),
    ]
    notes = [f"bigquery is left out: {HOSTILE}"]
    write_coverage_page(lake, read_coverage(lake, loads, plans), ["duckdb", "postgres"], notes, "http://127.0.0.1:1/")
    for color in COLORS:
        write_trips_page(lake, color)
    return Reports(lake.local_path("reports"), manifests)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Start Chromium without a window."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("no Chromium with its driver; make browser installs them")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(chromedriver)) as driver:
        driver.set_page_load_timeout(30)
        yield driver


@pytest.fixture
def browser(driver: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """Return the browser. After the test, check that it logged no errors and sent no network requests."""
    show(driver, 1200, "light")
    driver.get("about:blank")
    driver.get_log("browser")
    driver.get_log("performance")
    yield driver
    assert [entry["message"] for entry in driver.get_log("browser")] == []
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "about"}, asked


def show(driver: webdriver.Chrome, width: int, scheme: str) -> None:
    """Set the screen's width and the colour scheme, light or dark."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)


def open_page(driver: webdriver.Chrome, url: str) -> None:
    """Load a page again: for a URL with only another anchor the browser would not."""
    driver.get("about:blank")
    driver.get(url)


def press(driver: webdriver.Chrome, *keys: str) -> WebElement:
    """Press keys in the focused element. Return the element that is focused then."""
    for key in keys:
        driver.switch_to.active_element.send_keys(key)
    return driver.switch_to.active_element


def texts(driver: webdriver.Chrome, selector: str) -> list[str]:
    return [element.text for element in driver.find_elements(By.CSS_SELECTOR, selector)]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_a_page_opens_and_can_be_read_on_every_screen(
    browser: webdriver.Chrome, reports: Reports, page: str, scheme: str, width: int
) -> None:
    show(browser, width, scheme)
    open_page(browser, reports.url(page + ("#green-2024-01" if page == "coverage.html" else "")))
    browser.execute_script("document.querySelectorAll('details').forEach((each) => each.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(PALE_TEXT) == []
    assert len(texts(browser, "h1")) == 1


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(browser: webdriver.Chrome, reports: Reports, page: str) -> None:
    open_page(browser, reports.url(page))
    links = {element.get_attribute("href") for element in browser.find_elements(By.TAG_NAME, "a")}
    ids = {element.get_attribute("id") for element in browser.find_elements(By.CSS_SELECTOR, "[id]")}
    months: set[str] = set()
    for data in browser.find_elements(By.ID, "months"):
        months.update(json.loads(data.get_attribute("textContent") or "")["months"])
    for link in links:
        path, _, anchor = link.partition("#")
        assert (reports.folder / Path(path).name).is_file(), link
        assert not anchor or anchor in ids | months, link


def test_a_page_is_one_file_small_enough_to_mail(reports: Reports) -> None:
    for page in PAGES:
        html = (reports.folder / page).read_text(encoding="utf-8")
        assert not re.search(r"<link[^>]*stylesheet|<script[^>]*src|<img|@import|url\(", html.replace(HOSTILE, "")), (
            page
        )
        assert len(html) < 500_000, page


def test_a_month_opens_with_the_keyboard_and_shows_what_the_manifest_says(
    browser: webdriver.Chrome, reports: Reports
) -> None:
    open_page(browser, reports.url("coverage.html"))
    cell = browser.find_element(By.CSS_SELECTOR, "a.cell[href='#green-2023-12']")
    browser.execute_script("arguments[0].focus()", cell)
    assert press(browser, Keys.ARROW_LEFT).get_attribute("href").endswith("#green-2023-11")
    browser.execute_script("arguments[0].focus()", browser.find_element(By.CSS_SELECTOR, "[href='#green-2024-01']"))
    assert press(browser, Keys.ARROW_DOWN).get_attribute("href").endswith("#green-2023-01")
    browser.execute_script("arguments[0].focus()", cell)
    focused = press(browser, Keys.ENTER)
    assert focused.get_attribute("id") == "detail"
    manifest = reports.manifests["green-2023-12"]
    shown = focused.text
    assert (
        f"{manifest.source.rows:,} rows in, {manifest.clean.rows:,} clean, {manifest.quarantine.rows:,} quarantined"
        in shown
    )
    assert manifest.source.sha256 in shown
    assert "A trip without passengers is a meter that was left on" in shown
    back = press(browser, Keys.ESCAPE)
    assert back.get_attribute("href").endswith("#green-2023-12")
    assert browser.find_element(By.ID, "detail").text == ""


def test_one_tab_reaches_the_calendar_and_the_next_leaves_it(browser: webdriver.Chrome, reports: Reports) -> None:
    open_page(browser, reports.url("coverage.html"))
    search = press(browser, "/")
    assert search.get_attribute("id") == "search"
    assert "cell" in press(browser, Keys.TAB).get_attribute("class")
    assert "cell" not in (press(browser, Keys.TAB).get_attribute("class") or "")


def test_a_search_leaves_the_months_that_fit(browser: webdriver.Chrome, reports: Reports) -> None:
    open_page(browser, reports.url("coverage.html"))
    found = browser.find_element(By.ID, "found")
    for words, expected in (("green 2023", 12), ("changed", 1), ("missing green", 1), ("drift", 1), ("nothing", 0)):
        search = browser.find_element(By.ID, "search")
        search.clear()
        search.send_keys(words)
        WebDriverWait(browser, 10).until(lambda _, expected=expected: found.text.startswith(f"{expected} of "))
        bright = browser.find_elements(By.CSS_SELECTOR, ".calendar a.cell:not(.dimmed)")
        assert len(bright) == expected, words


def test_what_is_in_the_data_is_text_on_the_page(browser: webdriver.Chrome, reports: Reports) -> None:
    open_page(browser, reports.url("coverage.html#green-2024-02"))
    browser.execute_script("document.querySelectorAll('#detail details').forEach((each) => each.open = true)")
    text = browser.find_element(By.ID, "detail").text
    assert f"Columns unknown to the contract: {shown(HOSTILE)}" in text
    assert f"store_and_fwd_flag: {HOSTILE}" in text
    assert HOSTILE in browser.find_element(By.CSS_SELECTOR, ".warning").text
    assert browser.find_elements(By.CSS_SELECTOR, "img") == []
    assert "is far from usual" in text


def test_a_gap_in_the_months_is_a_gap_in_the_line(browser: webdriver.Chrome, reports: Reports) -> None:
    open_page(browser, reports.url("trips-yellow.html"))
    line = browser.find_element(By.CSS_SELECTOR, "svg path.line").get_attribute("d")
    # 2023-09 is missing.
    assert line.count("M") == 2


def test_the_numbers_stand_beside_the_charts(browser: webdriver.Chrome, reports: Reports) -> None:
    open_page(browser, reports.url("trips-green.html"))
    browser.execute_script("document.querySelectorAll('details').forEach((each) => each.open = true)")
    clean = {month[-7:]: each.clean.rows for month, each in reports.manifests.items() if month.startswith("green")}
    rows: dict[str, Any] = {}
    for line in texts(browser, "main > details tbody tr"):
        month, trips, *_ = line.split()
        rows[month] = int(trips.replace(",", ""))
    assert rows == clean
    assert datetime.now(UTC).strftime("%Y-%m-%d") in browser.find_element(By.TAG_NAME, "footer").text


@pytest.mark.parametrize(
    "name", [HOSTILE, "a|`\n```\n<script>document.title = 'ran'</script>", "![x](http://127.0.0.1:1/x.png)"]
)
def test_a_column_s_name_does_nothing_in_a_notebook(driver: webdriver.Chrome, tmp_path: Path, name: str) -> None:
    lake = FolderLake(tmp_path / "lake")
    manifest = make_month(lake, green_parquet(trip(**{name: "x"}), types={name: pa.string()}), tmp_path)
    notebook = MarkdownIt("commonmark", {"html": True}).enable("table")
    texts = (format_quality_report(manifest, lake), Outcome(format_summary(manifest, lake, "local"))._repr_markdown_())
    page = tmp_path / "notebook.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><title>-</title>{''.join(map(notebook.render, texts))}")
    driver.get(page.as_uri())
    assert driver.title == "-"
    assert driver.find_elements(By.CSS_SELECTOR, "script, img, a, [onerror]") == []
    assert "<script>alert" not in driver.find_element(By.TAG_NAME, "body").text
