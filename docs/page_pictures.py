"""Makes the pages over a lake of sample months and takes the README's pictures of them.

Needs Chromium with its driver (``make browser``). Run as ``python docs/page_pictures.py``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from nyc_tlc.cleaning.clean import clean_month
from nyc_tlc.cleaning.publish import publish_month
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.keys import Keys
from nyc_tlc.month import Color, Month
from nyc_tlc.pages.coverage import read_coverage
from nyc_tlc.pages.coverage_page import write_coverage_page
from nyc_tlc.pages.trips_page import write_trips_page
from nyc_tlc.source.fetch import fetch_month
from nyc_tlc.source.published import look_at
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import load_month

DOCS = Path(__file__).parent
COLORS: tuple[Color, ...] = ("yellow", "green")
#: The months, and from when on they are in the warehouse too.
FIRST, LOADED, LAST = Month(2021, 1), Month(2023, 7), Month(2024, 10)
#: Rows of a month: more in one colour, and not the same every month.
ROWS: dict[Color, int] = {"yellow": 20_000, "green": 4_000}
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-background-networking", "--hide-scrollbars")
PICTURES = {"coverage.png": ("coverage.html", 1180), "trips.png": ("trips-green.html", 1750)}


def main() -> None:
    """See the module."""
    with tempfile.TemporaryDirectory() as folder:
        lake, warehouse = FolderLake(Path(folder) / "lake"), DuckDbWarehouse(Path(folder) / "warehouse.duckdb")
        for color in COLORS:
            month = FIRST
            while month <= LAST:
                make_month(lake, color, month, Path(folder))
                if month >= LOADED and (manifest := lake.manifest(Keys(color, month))):
                    load_month(LakeFile(manifest, lake, read_contract(color)), warehouse)
                month = month.plus(1)
            write_trips_page(lake, color)
        write_coverage_page(lake, read_coverage(lake, {"duckdb": warehouse.loads()}), ["duckdb"])
        take_pictures(lake.local_path("reports"))


def make_month(lake: FolderLake, color: Color, month: Month, folder: Path) -> None:
    """Bring a sample month into the lake."""
    season = 1 + ((month.month * 7 + month.year) % 5) / 10
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        os.environ["TLC_SAMPLE_ROWS"] = str(int(ROWS[color] * season))
        terms, fetched = read_contract(color), fetch_month(look_at("sample", color, month), Path(scratch))
        cleaned = clean_month(fetched, terms, Path(scratch) / "cleaned")
        publish_month(cleaned, terms, lake, lake.find_manifest(Keys(color, month)).version, datetime.now(UTC))


def take_pictures(reports: Path) -> None:
    """Take the pictures, in light."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for option in OPTIONS:
        options.add_argument(option)
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as browser:
        for picture, (page, height) in PICTURES.items():
            browser.set_window_size(1180, height)
            browser.get((reports / page).as_uri())
            if page.startswith("trips"):
                WebDriverWait(browser, 30).until(lambda _: browser.find_elements(By.CSS_SELECTOR, "body[data-ready]"))
            browser.save_screenshot(str(DOCS / picture))


if __name__ == "__main__":
    main()
