"""How old the newest months are, which of them are overdue, and what a source has to have by now."""

from datetime import datetime
from pathlib import Path

import pytest

from factories import green_parquet, make_month, trip
from nyc_tlc.errors import OverdueError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.month import COLORS, Month
from nyc_tlc.pages.coverage import CoveredMonth, find_gaps, find_newest_months, format_coverage, read_coverage
from nyc_tlc.planning.month_plan import plan_month
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.planning.plan import list_months, plan_months
from nyc_tlc.profiles.connections import check_part
from nyc_tlc.runs.tasks import link_to
from stand_ins.http_source import HttpSource, PublishedFile

NOW = Month.current()
#: It ended four months ago, as TLC_PUBLICATION_LAG says; the one after it did not.
OLDEST = NOW.plus(-5)


def publish(source: HttpSource, *months: Month, color: str = "green") -> None:
    for month in months:
        source.files[f"/{color}_tripdata_{month}.parquet"] = PublishedFile(b"a month")


def test_a_month_is_overdue_four_months_after_its_end(
    http_source: HttpSource, lake: FolderLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = MonthOptions(http_source.template, "local")
    assert plan_month("green", OLDEST.plus(1), options, lake).need == "unpublished"
    with pytest.raises(OverdueError, match=f"green {OLDEST}: .* overdue: it ended 4 or more months ago"):
        plan_month("green", OLDEST, options, lake)
    monkeypatch.setenv("TLC_PUBLICATION_LAG", "5")
    assert plan_month("green", OLDEST, options, lake).need == "unpublished"


def test_a_catch_up_of_a_source_with_none_of_its_months_fails_in_one_line(
    http_source: HttpSource, lake: FolderLake
) -> None:
    asked = list_months(COLORS, None, None, 1, 4, NOW)
    options = MonthOptions(http_source.template, "local")
    with pytest.raises(OverdueError, match=rf"has none of the 16 months from {OLDEST} to {NOW.plus(-2)};.*TLC_SOURCE"):
        plan_months(asked, options, lake, {})
    publish(http_source, OLDEST)
    needs = {plan.name: plan.need for plan in plan_months(asked, options, lake, {})}
    assert {needs[f"{color} {OLDEST}"] for color in ("yellow", "fhv", "fhvhv")} == {"overdue"}
    assert needs[f"green {OLDEST}"] == "ingest"
    assert set(needs.values()) == {"ingest", "overdue", "unpublished"}


def test_months_that_may_be_unpublished_are_no_wrong_source(http_source: HttpSource, lake: FolderLake) -> None:
    plans = plan_months(list_months(COLORS, None, None, 1, 2, NOW), MonthOptions(http_source.template, ""), lake, {})
    assert {plan.need for plan in plans} == {"unpublished"}


def months_in(lake: FolderLake, folder: Path, *months: Month) -> list[CoveredMonth]:
    for month in months:
        make_month(lake, green_parquet(trip(lpep_pickup_datetime=datetime(month.year, month.month, 3))), folder, month)
    return read_coverage(lake, {})


def test_the_newest_month_is_overdue_when_the_next_one_must_be_published(lake: FolderLake, tmp_path: Path) -> None:
    (newest,) = find_newest_months(months_in(lake, tmp_path, OLDEST.plus(-1)), ["duckdb"])
    assert str(newest) == f"lake {OLDEST.plus(-1)} (ended 5 months ago, overdue)"
    months = months_in(lake, tmp_path, OLDEST)
    (newest,) = find_newest_months(months, ["duckdb"])
    assert str(newest) == f"lake {OLDEST} (ended 4 months ago)"
    assert f"newest green: lake {OLDEST} (ended 4 months ago)" in format_coverage(months, [])


def test_gaps_are_the_months_between_the_first_and_the_newest(lake: FolderLake, tmp_path: Path) -> None:
    assert find_gaps([]) == []
    months = months_in(lake, tmp_path, Month(2023, 11), Month(2024, 2))
    assert find_gaps(months) == [Month(2023, 12), Month(2024, 1)]


def test_the_check_of_a_source_tells_each_colours_newest_month(http_source: HttpSource) -> None:
    publish(http_source, NOW.plus(-2))
    publish(http_source, NOW.plus(-3), color="yellow")
    fine, message = check_part("source", "local", http_source.template)
    assert fine
    assert f": yellow {NOW.plus(-3)}, green {NOW.plus(-2)}, no fhv, no fhvhv; without TLS, without" in message


def test_the_check_of_a_source_fails_when_a_month_is_overdue_or_there_is_none(http_source: HttpSource) -> None:
    assert "no month of the last two years" in check_part("source", "local", http_source.template)[1]
    publish(http_source, NOW.plus(-3))
    publish(http_source, OLDEST.plus(-1), color="fhv")
    fine, message = check_part("source", "local", http_source.template)
    assert not fine
    assert f"; overdue: fhv {OLDEST}\n" in message


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        # A browser opens no file:// link from a page of Prefect's UI.
        ("/data/lake/reports/a.html", "`/data/lake/reports/a.html`"),
        ("gs://taxis/r/a.html", "[gs://taxis/r/a.html](https://storage.cloud.google.com/taxis/r/a.html)"),
        (
            "s3://taxis/r/a.html",
            "[s3://taxis/r/a.html](https://s3.console.aws.amazon.com/s3/object/taxis?prefix=r/a.html)",
        ),
        ("https://a.blob/taxis/a.html", "[https://a.blob/taxis/a.html](https://a.blob/taxis/a.html)"),
    ],
)
def test_a_page_in_a_lake_is_a_link_that_opens_or_a_path(place: str, shown: str) -> None:
    assert link_to(place) == shown
