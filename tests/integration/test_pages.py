"""The pages in a real browser: they open without errors or network requests, and work without a mouse."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from markdown_it import MarkdownIt
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from factories import JANUARY, green_parquet, make_month, publish_fetched, trip
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.month import COLORS, Color, Month
from nyc_tlc.pages.coverage import read_coverage
from nyc_tlc.pages.coverage_page import write_coverage_page
from nyc_tlc.pages.trips_page import write_trips_page
from nyc_tlc.planning.month_plan import MonthPlan
from nyc_tlc.runs.flow_runs import Outcome
from nyc_tlc.runs.month_report import format_quality_report, format_summary
from nyc_tlc.shown import shown
from nyc_tlc.source.fetch import fetch_month
from nyc_tlc.source.location import RemoteFile
from nyc_tlc.source.published import look_at
from nyc_tlc.source.sample import write_sample
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.protocol import Kind, Load

HOSTILE = "</script><img src=x onerror=alert(1)>"
NINE_MONTHS = (
    *((2020, number) for number in ("04", "08", "12")),
    (2022, "01"),
    *((2023, number) for number in ("01", "02")),
    *((2024, number) for number in ("01", "10")),
    (2025, "11"),
)
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
        months = {"green": 13, "yellow": 7}.get(color, 2)
        for month in [JANUARY.plus(-ago) for ago in range(months) if ago != 4]:
            source = folder / "sample.parquet"
            write_sample(color, month, 300, source)
            made = make_month(lake, source.read_bytes(), folder, month, color)
            manifests[f"{color}-{month}"] = made
    odd = (
        trip(**{HOSTILE: "x"}, store_and_fwd_flag=HOSTILE, passenger_count=0),
        trip(lpep_pickup_datetime=datetime(2024, 2, 3, 7), passenger_count=0),
        *(trip(lpep_pickup_datetime=datetime(2024, 2, day, 7)) for day in (1, 2, 29)),
    )
    body = green_parquet(*odd, types={HOSTILE: pa.string()})
    manifests["green-2024-02"] = make_month(lake, body, folder, JANUARY.plus(1))
    made_of = [LakeFile(each, lake) for each in manifests.values()]
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
    if "trips-" in url:
        WebDriverWait(driver, 30).until(lambda _: driver.find_elements(By.CSS_SELECTOR, "body[data-ready]"))


def choose(driver: webdriver.Chrome, name: str, value: str) -> None:
    """Choose an entry of a list."""
    Select(driver.find_element(By.ID, name)).select_by_value(value)


def shown_trips(driver: webdriver.Chrome) -> int:
    """Return the trips of the months and the zone that are chosen."""
    card = driver.find_element(By.CSS_SELECTOR, "#cards li:nth-child(2) .faint")
    return int(card.text.replace(",", ""))


def press(driver: webdriver.Chrome, *keys: str) -> WebElement:
    """Press keys in the focused element. Return the element that is focused then."""
    for key in keys:
        driver.switch_to.active_element.send_keys(key)
    return driver.switch_to.active_element


def texts_of_titles(driver: webdriver.Chrome, selector: str) -> list[str]:
    return [str(each.get_attribute("textContent")) for each in driver.find_elements(By.CSS_SELECTOR, selector)]


def texts(driver: webdriver.Chrome, selector: str) -> list[str]:
    return [element.text for element in driver.find_elements(By.CSS_SELECTOR, selector)]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_can_be_read_on_every_screen_and_its_links_lead_somewhere(
    browser: webdriver.Chrome, reports: Reports, page: str
) -> None:
    for width in (360, 1200):
        show(browser, width, "light")
        open_page(browser, reports.url(page + ("#green-2024-01" if page == "coverage.html" else "")))
        browser.execute_script("document.querySelectorAll('details').forEach((each) => each.open = true)")
        for scheme in ("light", "dark"):
            show(browser, width, scheme)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            assert browser.execute_script(PALE_TEXT) == [], scheme
    assert len(texts(browser, "h1")) == 1
    links = browser.execute_script("return [...document.querySelectorAll('a:not(#detail a)')].map((each) => each.href)")
    ids = set(browser.execute_script("return [...document.querySelectorAll('[id]')].map((each) => each.id)"))
    for data in browser.find_elements(By.ID, "months"):
        ids.update(json.loads(data.get_attribute("textContent") or "")["months"])
    for link in links:
        path, _, anchor = link.partition("#")
        assert (reports.folder / Path(path).name).is_file(), link
        assert not anchor or anchor in ids, link


@pytest.mark.parametrize("page", ["coverage.html", "trips-green.html"])
def test_axe_finds_no_fault(browser: webdriver.Chrome, reports: Reports, page: str) -> None:
    axe = Path(os.environ.get("TLC_TEST_AXE", Path(sys.prefix, "axe", "node_modules", "axe-core", "axe.min.js")))
    if not axe.exists():
        pytest.skip("no axe-core (make browser; TLC_TEST_AXE names another axe.min.js)")
    open_page(browser, reports.url(page + ("#green-2024-01" if page == "coverage.html" else "")))
    browser.execute_script("document.querySelectorAll('details').forEach((each) => each.open = true)")
    browser.execute_script(axe.read_text(encoding="utf-8"))
    browser.set_script_timeout(60)
    found = browser.execute_async_script("axe.run({resultTypes: ['violations']}).then(arguments[0])")
    assert [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found["violations"]] == []


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
    assert texts(browser, "#detail summary").count("zero_passengers") == 1


def test_a_gap_in_the_months_is_a_gap_in_the_line(browser: webdriver.Chrome, reports: Reports) -> None:
    open_page(browser, reports.url("trips-yellow.html"))
    line = browser.find_element(By.CSS_SELECTOR, "#days path.line").get_attribute("d")
    # 2023-09 is missing.
    assert line.count("M") == 2


def test_the_numbers_stand_beside_the_charts(browser: webdriver.Chrome, reports: Reports) -> None:
    open_page(browser, reports.url("trips-green.html"))
    browser.execute_script("document.querySelectorAll('details').forEach((each) => each.open = true)")
    clean = {month[-7:]: each.clean.rows for month, each in reports.manifests.items() if month.startswith("green")}
    rows: dict[str, Any] = {}
    for line in texts(browser, "#month-numbers tbody tr"):
        month, trips, *_ = line.split()
        rows[month] = int(trips.replace(",", ""))
    assert rows == clean
    assert datetime.now(UTC).strftime("%Y-%m-%d") in browser.find_element(By.TAG_NAME, "footer").text


def test_what_is_shown_follows_the_months_and_the_zone(browser: webdriver.Chrome, reports: Reports) -> None:
    open_page(browser, reports.url("trips-yellow.html"))
    rows = {month[-7:]: each.clean.rows for month, each in reports.manifests.items() if month.startswith("yellow")}
    assert shown_trips(browser) == sum(rows.values())
    choose(browser, "from", "2023-11")
    choose(browser, "to", "2023-12")
    assert shown_trips(browser) == rows["2023-11"] + rows["2023-12"]
    assert [line.split()[0] for line in texts(browser, "#years-numbers tbody tr")] == ["2023"]
    where = "WHERE file_month BETWEEN DATE '2023-11-01' AND DATE '2023-12-01'"
    sql = browser.find_element(By.CSS_SELECTOR, "[data-sql='fare']")
    assert f"{where}\n" in (sql.get_attribute("textContent") or "")
    bars = texts_of_titles(browser, "#fare rect title")

    busiest = browser.find_element(By.CSS_SELECTOR, "#zones tbody button")
    name, trips = busiest.text, texts(browser, "#zones tbody tr td:nth-child(4)")[0]
    busiest.click()
    assert shown_trips(browser) == int(trips)
    assert name in browser.find_element(By.ID, "shown").text
    assert texts_of_titles(browser, "#fare rect title") != bars
    assert f"{where} AND coalesce(pickup_location_id, 0) = " in (sql.get_attribute("textContent") or "")
    hours = browser.execute_script(
        "return [...document.querySelectorAll('#hour td')].map((each) => parseInt(each.title))"
    )
    assert sum(hours) == int(trips)

    browser.find_element(By.ID, "reset").click()
    assert shown_trips(browser) == sum(rows.values())


def test_of_a_zone_the_distributions_are_of_the_newest_months(
    browser: webdriver.Chrome, reports: Reports, tmp_path: Path
) -> None:
    # Fourteen months of green; of a zone, twelve are in the page.
    open_page(browser, reports.url("trips-green.html"))
    assert texts(browser, "p.by-zone") == ["", "", ""]
    choose(browser, "zone", "74")
    assert texts(browser, "p.by-zone")[0] == "Of one zone, this is known of the months 2023-02 to 2024-02 only."


def test_the_map_is_read_and_used_with_keys_and_pointer(browser: webdriver.Chrome, reports: Reports) -> None:
    open_page(browser, reports.url("trips-green.html"))
    zone = browser.find_element(By.CSS_SELECTOR, "[data-zone='74']")
    browser.execute_script("arguments[0].focus()", zone)
    pointed = browser.find_element(By.ID, "pointed")
    assert pointed.text.startswith("East Harlem North (Manhattan): Pick-ups ")
    assert press(browser, Keys.ARROW_DOWN).get_attribute("data-zone") != "74"
    # Central Harlem or the Upper East Side: a neighbour in Manhattan.
    assert "(Manhattan)" in pointed.text
    chosen = press(browser, Keys.ENTER)
    assert chosen.get_attribute("aria-pressed") == "true"
    assert browser.find_element(By.ID, "zone").get_attribute("value") == chosen.get_attribute("data-zone")
    choose(browser, "zone", "")
    ActionChains(browser).move_to_element(zone).click().perform()
    assert browser.find_element(By.ID, "zone").get_attribute("value") == "74"
    choose(browser, "shade", "miles")
    ActionChains(browser).move_to_element(browser.find_element(By.CSS_SELECTOR, "[data-zone='75']")).perform()
    assert re.search(r"East Harlem South .*: (Distance, average \d+\.\d\d mi|no figure)", pointed.text)


def test_labels_of_an_axis_do_not_overlap(browser: webdriver.Chrome, tmp_path: Path) -> None:
    # Nine months in six years.
    lake = FolderLake(tmp_path / "lake")
    for month in (Month.parse(f"{year}-{number}") for year, number in NINE_MONTHS):
        at = datetime(month.year, month.month, 15)
        make_month(lake, green_parquet(trip(lpep_pickup_datetime=at), trip(lpep_pickup_datetime=at)), tmp_path, month)
    write_trips_page(lake, "green")
    for width in (360, 1200):
        show(browser, width, "light")
        open_page(browser, lake.local_path("reports/trips-green.html").as_uri())
        boxes = browser.execute_script(
            "const edges = (text) => { const box = text.getBoundingClientRect(); return [box.left, box.right]; };"
            "return [...document.querySelectorAll('main svg[role=img]')].map((svg) =>"
            " [...svg.querySelectorAll('text[text-anchor=middle]')].map(edges))"
        )
        assert len(boxes) == 6
        for chart in boxes:
            assert len(chart) > 2
            assert all(before[1] <= after[0] for before, after in pairwise(chart)), chart
            assert all(left >= 0 and right <= width for left, right in chart)


def test_pages_of_generated_months_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pages() -> list[str]:
        write_coverage_page(lake, read_coverage(lake, {}), [])
        write_trips_page(lake, "green")
        return [lake.local_path(f"reports/{page}").read_text() for page in ("coverage.html", "trips-green.html")]

    monkeypatch.setenv("TLC_SAMPLE_ROWS", "20")
    lake = FolderLake(tmp_path / "lake")
    made = publish_fetched(lake, fetch_month(look_at("sample", "green", JANUARY), tmp_path), tmp_path)
    for html in pages():
        assert "GENERATED DATA. All months here are made up" in html
        assert "Taxi and Limousine Commission's" not in html
    assert "**GENERATED DATA." in format_quality_report(made, lake).splitlines()[0]
    real = make_month(lake, green_parquet(trip(lpep_pickup_datetime=datetime(2024, 2, 2))), tmp_path, JANUARY.plus(1))
    for html in pages():
        assert "GENERATED DATA. The months green 2024-01 here are made up" in html
    assert "GENERATED DATA" not in format_quality_report(real, lake)


def test_a_column_s_name_does_nothing_in_a_notebook(driver: webdriver.Chrome, tmp_path: Path) -> None:
    lake, notebook = FolderLake(tmp_path / "lake"), MarkdownIt("commonmark", {"html": True}).enable("table")
    names = (HOSTILE, "a|`\n```\n<script>document.title = 'ran'</script>", "![x](http://127.0.0.1:1/x.png)")
    page = tmp_path / "notebook.html"
    for name in names:
        manifest = make_month(lake, green_parquet(trip(**{name: "x"}), types={name: pa.string()}), tmp_path)
        summary = Outcome(format_summary(manifest, lake, "local"))._repr_markdown_()
        html = notebook.render(format_quality_report(manifest, lake)) + notebook.render(summary)
        page.write_text(f"<!doctype html><meta charset=utf-8><title>-</title>{html}")
        driver.get(page.as_uri())
        assert driver.title == "-"
        assert driver.find_elements(By.CSS_SELECTOR, "script, img, a, [onerror]") == []
        assert "<script>alert" not in driver.find_element(By.TAG_NAME, "body").text
