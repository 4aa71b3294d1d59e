"""Which rows are rejected, which are only counted, and under which rule."""

from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from factories import JANUARY, fetched, green_parquet, trip
from nyc_tlc.cleaning.clean import clean_month
from nyc_tlc.cleaning.read import MonthReader
from nyc_tlc.cleaning.rules import CheckedBatch, RuleCheck
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import ContractError
from nyc_tlc.month import Month


def run_rules(
    folder: Path, *trips: dict[str, Any], month: Month = JANUARY, **types: pa.DataType
) -> tuple[RuleCheck, CheckedBatch]:
    rule_check = RuleCheck(read_contract("green"), month)
    (batch,) = MonthReader(fetched(green_parquet(*trips, types=types), folder, month=month), read_contract("green"))
    return rule_check, rule_check(batch)


def only_rule(folder: Path, spoilt: dict[str, Any], month: Month = JANUARY) -> str | None:
    """Return the only rule that rejects a trip; None if the trip is clean."""
    _, checked = run_rules(folder, spoilt, month=month)
    if checked.clean.height:
        return None
    (rules,) = checked.quarantine["rejection_rules"].to_list()
    (rule,) = rules
    return str(rule)


@pytest.mark.parametrize(
    ("pickup", "rule"),
    [
        (datetime(2024, 1, 1), None),
        (datetime(2023, 12, 31), None),
        (datetime(2023, 12, 30, 23, 59, 59), "pickup_outside_month"),
        (datetime(2024, 2, 1, 23, 59, 59), None),
        (datetime(2024, 2, 2), "pickup_outside_month"),
        (datetime(2008, 12, 31, 23), "pickup_outside_month"),
        (datetime(2041, 8, 17), "pickup_outside_month"),
        (None, "no_pickup_time"),
    ],
)
def test_a_day_of_spill_into_the_neighbours_is_normal(tmp_path: Path, pickup: datetime, rule: str) -> None:
    dropoff = {"lpep_dropoff_datetime": datetime(2024, 1, 5)} if pickup is None else {}
    assert only_rule(tmp_path, trip(lpep_pickup_datetime=pickup) | dropoff) == rule


@pytest.mark.parametrize(
    ("pickup", "dropoff", "rule"),
    [
        # TLC green 2025-11, the night DST ended.
        ("2025-11-02 01:58:21", "2025-11-02 01:09:31", None),
        ("2025-11-02 01:51:52", "2025-11-02 01:04:36", None),
        ("2025-11-02 01:59:59", "2025-11-02 01:00:00", None),
        # Impossible in either of the two hours.
        ("2025-11-02 01:58:00", "2025-11-02 00:59:00", "dropoff_before_pickup"),
        ("2025-11-02 01:00:00", "2025-11-02 00:00:01", "dropoff_before_pickup"),
        ("2025-11-02 01:30:00", "2025-11-02 00:30:00", "dropoff_before_pickup"),
        ("2025-11-02 00:59:59", "2025-11-02 00:58:00", "dropoff_before_pickup"),
        ("2025-11-02 02:00:00", "2025-11-02 01:58:00", "dropoff_before_pickup"),
        ("2025-11-03 01:30:00", "2025-11-03 01:20:00", "dropoff_before_pickup"),
        # The same file: no DST to blame.
        ("2025-11-08 14:55:10", "2025-11-08 14:55:00", "dropoff_before_pickup"),
        ("2025-11-08 14:55:10", "2025-11-08 14:55:10", None),
    ],
)
def test_only_the_repeated_hour_excuses_a_dropoff_before_the_pickup(
    tmp_path: Path, pickup: str, dropoff: str, rule: str
) -> None:
    spoilt = trip(
        lpep_pickup_datetime=datetime.fromisoformat(pickup), lpep_dropoff_datetime=datetime.fromisoformat(dropoff)
    )
    assert only_rule(tmp_path, spoilt, Month(2025, 11)) == rule


def test_the_repeated_hour_counts_for_the_neighbours_spill_too(tmp_path: Path) -> None:
    spoilt = trip(lpep_pickup_datetime=datetime(2020, 11, 1, 1, 40), lpep_dropoff_datetime=datetime(2020, 11, 1, 1, 10))
    assert only_rule(tmp_path, spoilt, Month(2020, 10)) is None


@pytest.mark.parametrize(
    ("spoilt", "rule"),
    [
        ({"passenger_count": 0}, "zero_passengers"),
        ({"passenger_count": None}, None),
        ({"trip_distance": -0.01}, "negative_distance"),
        ({"trip_distance": 0.0}, None),
        ({"PULocationID": 0}, "unknown_zone"),
        ({"DOLocationID": 266}, "unknown_zone"),
        ({"PULocationID": 265, "DOLocationID": 1}, None),
        ({"PULocationID": None}, None),
        ({"lpep_dropoff_datetime": None}, None),
        ({"fare_amount": -10.0}, None),
        ({"trip_distance": 259_777.0}, None),
    ],
)
def test_rejecting_rules(tmp_path: Path, spoilt: dict[str, Any], rule: str | None) -> None:
    assert only_rule(tmp_path, trip(**spoilt)) == rule


@pytest.mark.parametrize(
    ("odd", "rule"),
    [
        ({"fare_amount": -10.0}, "negative_fare"),
        ({"trip_distance": 0.0}, "zero_distance"),
        ({"trip_distance": 100.1}, "long_distance"),
        ({"lpep_dropoff_datetime": datetime(2024, 1, 16, 12, 0, 1)}, "long_trip"),
        ({"VendorID": 5}, "unknown_code"),
        ({"RatecodeID": 7}, "unknown_code"),
        ({"payment_type": 9}, "unknown_code"),
        ({"trip_type": 3}, "unknown_code"),
    ],
)
def test_warnings_are_counted_and_keep_the_row(tmp_path: Path, odd: dict[str, Any], rule: str) -> None:
    rule_check, checked = run_rules(tmp_path, trip(**odd))
    assert checked.clean.height == 1
    assert +rule_check.warned == Counter({rule: 1})


MARCH_2025 = Month(2025, 3)


def on_3_march(dropoff: tuple[int, int, int], vendor: int | None = 6) -> dict[str, Any]:
    """Return a trip from 09:03:38 of 3 March 2025; TLC published one of vendor 6 that ends at 09:03:24."""
    pickup, end = datetime(2025, 3, 3, 9, 3, 38), datetime(2025, 3, 3, *dropoff)
    return trip(VendorID=vendor, lpep_pickup_datetime=pickup, lpep_dropoff_datetime=end)


@pytest.mark.parametrize(
    ("spoilt", "counted", "rule"),
    [
        (on_3_march((9, 3, 24)), 1, None),
        (on_3_march((9, 3, 59)), 1, None),
        (on_3_march((11, 3, 24)), 1, None),
        (on_3_march((8, 3, 50)), 1, "dropoff_before_pickup"),
        (on_3_march((9, 2, 24)), 0, "dropoff_before_pickup"),
        (on_3_march((9, 3, 24), vendor=2), 0, "dropoff_before_pickup"),
        (on_3_march((9, 3, 24), vendor=None), 0, "dropoff_before_pickup"),
    ],
)
def test_the_minutes_that_vendor_6_lost_are_counted_and_forgiven_within_an_hour(
    tmp_path: Path, spoilt: dict[str, Any], counted: int, rule: str | None
) -> None:
    rule_check, _ = run_rules(tmp_path, spoilt, month=MARCH_2025)
    assert rule_check.warned["lost_minutes"] == counted
    assert only_rule(tmp_path, spoilt, MARCH_2025) == rule


def test_a_rule_about_some_months_is_not_in_others(tmp_path: Path) -> None:
    april = datetime(2025, 4, 3, 9, 4, 38)
    spoilt = trip(VendorID=6, lpep_pickup_datetime=april, lpep_dropoff_datetime=april.replace(second=24))
    rule_check, _ = run_rules(tmp_path, spoilt, month=Month(2025, 4))
    assert "lost_minutes" not in rule_check.warned
    assert rule_check.rejected["dropoff_before_pickup"] == 1


def test_march_2025_keeps_all_trips_of_vendor_6(tmp_path: Path) -> None:
    # As in TLC's file: 1,222 trips of vendor 6, of which 308 end before they start.
    vendor_6 = [on_3_march((9, 3, 24) if number < 308 else (9, 3, 50)) for number in range(1_222)]
    others = [trip(lpep_pickup_datetime=datetime(2025, 3, 4, 9, minute)) for minute in range(60)]
    rule_check, checked = run_rules(tmp_path, *vendor_6, *others, month=MARCH_2025)
    assert checked.clean.height == 1_282
    assert (rule_check.warned["lost_minutes"], rule_check.warned["one_minute:6"]) == (1_222, 1_222)
    assert "one_minute:2" not in rule_check.warned


def test_a_vendor_with_one_minute_is_found_in_several_batches(tmp_path: Path) -> None:
    rule_check = RuleCheck(read_contract("green"), JANUARY)
    for hours in ((9, 10), (11, 12)):
        trips = [trip(VendorID=7, lpep_pickup_datetime=datetime(2024, 1, 5, hour, 17)) for hour in hours] * 3
        for batch in MonthReader(fetched(green_parquet(*trips, trip(VendorID=1)), tmp_path), read_contract("green")):
            rule_check(batch)
    assert {name: rows for name, rows in rule_check.warned.items() if name.startswith("one_minute")} == {
        "one_minute:7": 12
    }
    trips = [trip(VendorID=7, lpep_pickup_datetime=datetime(2024, 1, 5, 9, 18))]
    for batch in MonthReader(fetched(green_parquet(*trips), tmp_path), read_contract("green")):
        rule_check(batch)
    assert "one_minute:7" not in rule_check.warned


@pytest.mark.parametrize("column", ["lpep_pickup_datetime", "lpep_dropoff_datetime"])
def test_a_month_without_any_time_of_new_york_says_what_times_it_needs(tmp_path: Path, column: str) -> None:
    body = green_parquet(*[trip() | {column: "2024-01-15T12:00:00Z"}] * 3, types={column: pa.string()})
    wanted = "times must be New York wall-clock, like 2024-01-31 23:59:59"
    with pytest.raises(ContractError, match=f"green 2024-01.*{wanted}"):
        clean_month(fetched(body, tmp_path), read_contract("green"), tmp_path / "cleaned")


def test_texts_that_mean_null_are_counted_by_column(tmp_path: Path) -> None:
    rule_check, checked = run_rules(
        tmp_path, trip(payment_type="NULL"), trip(payment_type="1"), payment_type=pa.string()
    )
    assert rule_check.warned["null_text:payment_type"] == 1
    assert checked.clean["payment_type"].to_list() == [None, 1]


@pytest.mark.parametrize(
    "fine",
    [
        {"RatecodeID": 99},
        {"payment_type": 0},
        {"VendorID": 6},
        {"VendorID": None, "RatecodeID": None, "payment_type": None, "trip_type": None},
        {"trip_distance": 100.0},
        {"lpep_dropoff_datetime": datetime(2024, 1, 16, 12)},
    ],
)
def test_what_the_dictionary_lists_warns_of_nothing(tmp_path: Path, fine: dict[str, Any]) -> None:
    rule_check, _ = run_rules(tmp_path, trip(**fine))
    assert not +rule_check.warned


def test_warnings_count_rejected_rows_too(tmp_path: Path) -> None:
    rule_check, checked = run_rules(tmp_path, trip(fare_amount=-5.0, passenger_count=0))
    assert checked.clean.height == 0
    assert rule_check.warned["negative_fare"] == 1


def test_a_row_counts_once_under_its_first_rule_and_lists_them_all(tmp_path: Path) -> None:
    rule_check, checked = run_rules(
        tmp_path,
        trip(lpep_pickup_datetime=datetime(2008, 12, 31), passenger_count=0, trip_distance=-1.0),
        trip(passenger_count=0),
    )
    assert checked.quarantine["rejection_rule"].to_list() == ["pickup_outside_month", "zero_passengers"]
    assert checked.quarantine["rejection_rules"].to_list()[0] == [
        "pickup_outside_month",
        "zero_passengers",
        "negative_distance",
    ]
    assert {rule: rows for rule, rows in rule_check.rejected.items() if rows} == {
        "pickup_outside_month": 1,
        "zero_passengers": 1,
    }


def test_a_value_that_cannot_be_cast_comes_before_the_rules(tmp_path: Path) -> None:
    rule_check, checked = run_rules(
        tmp_path, trip(payment_type="barter", passenger_count=0), trip(payment_type="1"), payment_type=pa.string()
    )
    assert checked.quarantine["rejection_rules"].to_list() == [["bad_value:payment_type", "zero_passengers"]]
    assert rule_check.rejected["bad_value:payment_type"] == 1
    assert checked.quarantine["payment_type"].to_list() == [None]
    assert checked.clean["source_row"].to_list() == [1]
    assert checked.quarantine["raw"].to_list() == ['{"payment_type": "barter"}']


def test_a_line_that_is_no_record_breaks_only_that_rule(tmp_path: Path) -> None:
    header = ",".join(read_contract("fhv").layout(Month(2020, 1), "csv").columns)
    good = "B00001,2020-01-01 00:30:00,2020-01-01 01:44:00,264,265,"
    contract = read_contract("fhv")
    (batch,) = MonthReader(fetched(f"{header}\n{good}\ngarbage\n", tmp_path, "fhv", Month(2020, 1)), contract)
    checked = RuleCheck(contract, Month(2020, 1))(batch)
    assert checked.quarantine["rejection_rules"].to_list() == [["unparseable"]]
    assert checked.quarantine["raw"].to_list() == ["garbage"]
    assert checked.clean.height == 1


def test_raw_is_null_for_rows_that_could_be_parsed(tmp_path: Path) -> None:
    _, checked = run_rules(tmp_path, trip(passenger_count=0))
    assert checked.quarantine["raw"].to_list() == [None]
