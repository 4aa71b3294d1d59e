"""Troubles are told when they begin, once a week while they last, and at their end."""

import asyncio
from datetime import UTC, date, datetime, timedelta

import duckdb
import pytest
from prefect.states import exception_to_failed_state

from factories import JANUARY, green_parquet, make_month, trip
from nyc_tlc.errors import BusyError, ContractError, OverdueError, SourceError, TransientError, WarehouseAwayError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.month import Month
from nyc_tlc.planning.older import LOOK_DAYS, falls_on, find_older
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.planning.troubles import (
    Trouble,
    compare_troubles,
    find_trouble,
    format_news,
    format_troubles,
    name_trouble,
    name_trouble_of_run,
    read_troubles,
    write_troubles,
)
from nyc_tlc.warehouse.counts import find_wrong_counts
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.volume import VolumeError


def ago(trouble: Trouble, days: int) -> Trouble:
    """Return the trouble as it would be if it had begun, and been told, days ago."""
    then = datetime.now(UTC) - timedelta(days=days)
    return trouble.model_copy(update={"since": then, "told": trouble.told and then})


BROKEN = find_trouble("broken file", "green 2024-01: it is HTML", "green", "2024-01")
DOWN = find_trouble("source down", "no answer", place="tlc")


def test_a_trouble_is_told_once_then_weekly_then_when_it_is_over() -> None:
    (first,), news = compare_troubles([], [BROKEN])
    assert [change for change, _ in news] == ["new"]
    assert compare_troubles([ago(first, 6)], [BROKEN])[1] == []
    (again,), news = compare_troubles([ago(first, 7)], [BROKEN])
    assert [change for change, _ in news] == ["still"]
    assert again.since < first.since, "it lasts since it began"
    assert [(change, each.text) for change, each in compare_troubles([first], [])[1]] == [("over", BROKEN.text)]


def test_a_new_trouble_is_told_among_old_ones() -> None:
    old, _ = compare_troubles([], [BROKEN])
    other = find_trouble("overdue", "fhv 2024-02 is overdue", "fhv", "2024-02")
    assert [(change, each.text) for change, each in compare_troubles(old, [BROKEN, other])[1]] == [("new", other.text)]


def test_a_source_that_is_down_is_told_after_two_days_and_hides_the_end_of_nothing() -> None:
    known, _ = compare_troubles([], [BROKEN])
    known, news = compare_troubles(known, [DOWN])
    assert news == []
    assert {each.kind for each in known} == {"broken file", "source down"}
    still = [each if each.kind == "broken file" else ago(each, 2) for each in known]
    assert [(change, each.kind) for change, each in compare_troubles(still, [DOWN])[1]] == [("new", "source down")]
    assert compare_troubles([ago(known[-1], 1)], [])[1] == [], "what nobody was told of is not over either"


def test_many_troubles_of_a_kind_are_one_line_of_a_message() -> None:
    months = [find_trouble("overdue", f"green 2024-{n:02} is overdue", "green", f"2024-{n:02}") for n in range(1, 10)]
    _, news = compare_troubles([], [BROKEN, *months])
    assert format_news(news).splitlines() == [
        f"new, broken file: {BROKEN.text}",
        "new, overdue: 9 months of green, of which the first is: green 2024-01 is overdue",
    ]


def test_the_table_is_kept_in_the_lake_and_shown(lake: FolderLake) -> None:
    assert read_troubles(lake) == ()
    write_troubles(lake, [BROKEN])
    assert read_troubles(lake) == (BROKEN,)
    assert "| green 2024-01 | broken file |" in format_troubles([BROKEN])


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OverdueError("late"), "overdue"),
        (TransientError("503"), "source down"),
        (WarehouseAwayError("refused"), "warehouse away"),
        (BusyError("locked"), "warehouse away"),
        (SourceError("html"), "broken file"),
        (ContractError("a column"), "broken file"),
        (VolumeError("half"), "odd volume"),
        (ValueError("a bug"), "failed"),
    ],
)
def test_each_error_has_its_kind_of_trouble(error: Exception, kind: str) -> None:
    assert name_trouble(error) == kind
    # A month on a worker: only the text of its run's state is known.
    state = asyncio.run(exception_to_failed_state(error, message="Flow run encountered an exception:"))
    assert name_trouble_of_run(state.message) == kind


def test_each_older_month_has_its_turn_once_in_fourteen_days() -> None:
    days = [date(2026, 3, 1) + timedelta(days=day) for day in range(LOOK_DAYS)]
    for month in (JANUARY, Month(2011, 12)):
        assert sum(falls_on("green", month, LOOK_DAYS, day) for day in days) == 1


def test_gaps_troubled_and_unloaded_months_are_older_months_to_plan(
    lake: FolderLake, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("months")
    for month in (JANUARY, JANUARY.plus(2)):
        body = green_parquet(trip(lpep_pickup_datetime=datetime(month.year, month.month, 5)))
        make_month(lake, body, folder, month)
    options = MonthOptions("file:///{color}_{year}-{month}", "local")
    quiet = next(
        day
        for day in (date(2026, 3, 1) + timedelta(days=n) for n in range(LOOK_DAYS))
        if not any(falls_on("green", JANUARY.plus(n), LOOK_DAYS, day) for n in (0, 2))
    )

    def older(loads: dict[str, dict[object, object]], troubled: list[tuple[str, Month]]) -> list[str]:
        found = find_older(["green"], JANUARY.plus(4), lake, loads, options, troubled, quiet)  # type: ignore[arg-type]
        return [str(month) for _, month in found]

    gaps = ["2024-02", "2024-04"]
    assert older({}, []) == gaps
    assert older({}, [("green", JANUARY)]) == ["2024-01", *gaps]
    assert older({"duckdb": {}}, []) == ["2024-01", "2024-02", "2024-03", "2024-04"]


def test_rows_that_went_behind_our_back_are_counted(lake: FolderLake, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("warehouse")
    warehouse = DuckDbWarehouse(folder / "w.duckdb")
    load_month(LakeFile(make_month(lake, green_parquet(trip(), trip()), folder), lake), warehouse)
    assert find_wrong_counts(warehouse, warehouse.loads()) == {}
    with duckdb.connect(folder / "w.duckdb") as connection:
        connection.execute("DELETE FROM ny_taxi.green_trip_data WHERE source_row = 0")
    wrong = find_wrong_counts(warehouse, warehouse.loads())
    assert "has 1 rows and 0 in quarantine; loads says 2 and 0" in wrong["green", JANUARY]
