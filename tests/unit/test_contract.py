import csv
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from nyc_tlc.contract.dataset import Contract, code_tables, read_contract
from nyc_tlc.errors import ContractError
from nyc_tlc.month import COLORS, Color, Month

YELLOW = """vendor_id pickup_datetime dropoff_datetime passenger_count trip_distance rate_code store_and_fwd_flag
    pickup_location_id dropoff_location_id payment_type fare_amount extra mta_tax tip_amount tolls_amount
    improvement_surcharge total_amount congestion_surcharge airport_fee cbd_congestion_fee""".split()
PLACES = ["pickup_longitude", "pickup_latitude", "dropoff_longitude", "dropoff_latitude"]
OURS = ["file_month", "source_row"]
CLEAN_COLUMNS = {
    "yellow": [*YELLOW, *PLACES, *OURS],
    "green": [*(name for name in YELLOW if name != "airport_fee"), "ehail_fee", "trip_type", *PLACES, *OURS],
    "fhv": """dispatching_base_num pickup_datetime dropoff_datetime pickup_location_id dropoff_location_id sr_flag
        affiliated_base_number file_month source_row""".split(),
    "fhvhv": """hvfhs_license_num dispatching_base_num originating_base_num request_datetime on_scene_datetime
        pickup_datetime dropoff_datetime pickup_location_id dropoff_location_id trip_miles trip_time
        base_passenger_fare tolls bcf sales_tax congestion_surcharge airport_fee tips driver_pay shared_request_flag
        shared_match_flag access_a_ride_flag wav_request_flag wav_match_flag cbd_congestion_fee sr_flag
        file_month source_row""".split(),
}


@pytest.mark.parametrize("color", COLORS)
def test_clean_columns_and_their_order_are_fixed(color: Color) -> None:
    assert read_contract(color).clean_schema.names == CLEAN_COLUMNS[color]


@pytest.mark.parametrize("color", COLORS)
def test_times_are_naive_and_money_and_miles_stay_doubles(color: Color) -> None:
    schema = read_contract(color).clean_schema
    for field in schema:
        if field.name.endswith("_datetime"):
            assert field.type == pa.timestamp("us")
        if field.name.endswith(("_amount", "_fee", "_surcharge", "fare", "miles", "distance")):
            assert field.type == pa.float64()
    assert schema.field("file_month").type == pa.date32()
    assert schema.field("source_row").type == pa.int32()


@pytest.mark.parametrize(("color", "first"), [("yellow", "2009-01"), ("green", "2013-08"), ("fhv", "2015-01")])
def test_first_months(color: Color, first: str) -> None:
    assert str(read_contract(color).first_month) == first


@pytest.mark.parametrize("color", COLORS)
def test_every_layout_maps_without_drift_or_gaps(color: Color) -> None:
    contract = read_contract(color)
    for file_format, layouts in contract.layouts.items():
        for layout in layouts:
            mapped = contract.map_columns(list(layout.columns), layout.since, file_format)
            assert not mapped.missing
            assert set(mapped.drift) <= {"__index_level_0__"}


def test_the_csv_layouts_are_the_real_headers(real_data: Path) -> None:
    heads = sorted((real_data / "heads").glob("*.csv"))
    assert len(heads) > 40
    for head in heads:
        match = re.fullmatch(r"(\w+)_tripdata_(\d{4}-\d{2})", head.stem)
        assert match
        with head.open(newline="") as file:
            header = next(csv.reader([file.readline().rstrip("\r\n")]))
        published = read_contract(match[1]).layout(Month.parse(match[2]), "csv").columns  # type: ignore[arg-type]
        assert list(published) == header, head.name


def green_names() -> list[str]:
    return list(read_contract("green").layout(Month(2024, 1), "parquet").columns)


def test_names_match_whatever_their_case_and_blanks() -> None:
    names = [f" {name.upper()} " for name in green_names()]
    found = read_contract("green").map_columns(names, Month(2024, 1), "parquet")
    assert found.sources["vendor_id"] == (" VENDORID ",)
    assert not found.drift


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("rate_code_id", "rate_code"),
        ("Rate-Code-ID", "rate_code"),
        ("trip type", "trip_type"),
        ("cbd-congestion-fee", "cbd_congestion_fee"),
        ("cbd-fee", "cbd_congestion_fee"),
    ],
)
def test_names_of_resaved_files_match(name: str, column: str) -> None:
    names = [each for each in green_names() if each not in ("RatecodeID", "trip_type")]
    found = read_contract("green").map_columns([*names, name], Month(2024, 1), "parquet")
    assert found.sources[column] == (name,)
    assert not found.drift


def test_a_one_letter_column_that_occurs_twice_is_refused() -> None:
    with pytest.raises(ContractError, match="twice"):
        read_contract("green").map_columns([*green_names(), "a", "a"], Month(2024, 1), "parquet")


def test_colours_share_their_rules_but_for_what_they_state() -> None:
    rules = {color: {rule.name: rule for rule in read_contract(color).rules} for color in COLORS}
    assert rules["green"]["negative_distance"].when == "trip_distance < 0"
    assert rules["fhvhv"]["negative_distance"].when == "trip_miles < 0"
    assert rules["fhvhv"]["negative_distance"].why == rules["green"]["negative_distance"].why
    assert len({rules[color]["unknown_zone"] for color in COLORS}) == 1


def test_a_missing_required_column_names_itself_and_the_columns_found() -> None:
    names = [name for name in green_names() if name != "PULocationID"]
    with pytest.raises(ContractError, match="pickup_location_id") as caught:
        read_contract("green").map_columns(names, Month(2024, 1), "parquet")
    assert "PULocationID" in caught.value.expected
    assert "DOLocationID" in caught.value.got


def test_a_missing_optional_column_is_told_and_null() -> None:
    names = [name for name in green_names() if name != "ehail_fee"]
    found = read_contract("green").map_columns(names, Month(2024, 1), "parquet")
    assert found.missing == ("ehail_fee",)
    assert found.sources["ehail_fee"] == ()


def test_an_unknown_column_is_drift() -> None:
    found = read_contract("green").map_columns([*green_names(), "drone_fee"], Month(2026, 1), "parquet")
    assert found.drift == ("drone_fee",)


def test_names_that_differ_in_case_or_marks_are_one_column() -> None:
    names = list(read_contract("yellow").layout(Month(2024, 1), "parquet").columns)
    found = read_contract("yellow").map_columns([*names, "airport_fee"], Month(2024, 1), "parquet")
    assert found.sources["airport_fee"] == ("Airport_fee", "airport_fee")
    assert not found.drift


@pytest.mark.parametrize(
    ("names", "color"),
    [
        # Azure Open Datasets, BigQuery's public copy, R's data frames.
        (
            """vendorID tpepPickupDateTime tpepDropoffDateTime passengerCount tripDistance puLocationId doLocationId
            startLon startLat endLon endLat rateCodeId storeAndFwdFlag paymentType fareAmount extra mtaTax
            improvementSurcharge tipAmount tollsAmount totalAmount""",
            "yellow",
        ),
        (
            """vendor_id pickup_datetime dropoff_datetime store_and_fwd_flag rate_code passenger_count trip_distance
            fare_amount extra mta_tax tip_amount tolls_amount ehail_fee total_amount payment_type trip_type
            imp_surcharge pickup_location_id dropoff_location_id""",
            "green",
        ),
        (
            """VendorID tpep.pickup.datetime tpep.dropoff.datetime passenger.count trip.distance RatecodeID
            store.and.fwd.flag PULocationID DOLocationID payment.type fare.amount extra mta.tax tip.amount tolls.amount
            improvement.surcharge total.amount congestion.surcharge""",
            "yellow",
        ),
        ("dispatchBaseNum pickupDateTime dropOffDateTime puLocationId doLocationId srFlag", "fhv"),
    ],
)
def test_the_names_of_other_publishers_match(names: str, color: Color) -> None:
    assert not read_contract(color).map_columns(names.split(), Month(2020, 1), "csv").drift


def test_the_two_base_columns_of_fhv_2018_feed_one() -> None:
    header = list(read_contract("fhv").layout(Month(2018, 1), "csv").columns)
    found = read_contract("fhv").map_columns(header, Month(2018, 1), "csv")
    assert set(found.sources["dispatching_base_num"]) == {"Dispatching_base_num", "Dispatching_base_number"}


@pytest.mark.parametrize("color", COLORS)
def test_rules_come_in_the_fixed_order_of_precedence(color: Color) -> None:
    order = """no_pickup_time pickup_outside_month dropoff_before_pickup zero_passengers negative_distance unknown_zone
        negative_fare zero_distance long_distance long_trip lost_minutes unknown_code""".split()
    names = [rule.name for rule in read_contract(color).rules]
    assert names == [name for name in order if name in names]
    severities = [rule.severity for rule in read_contract(color).rules]
    assert severities == sorted(severities, key=["reject", "warn"].index)


def test_every_column_and_rule_explains_itself() -> None:
    for color in COLORS:
        assert all(len(column.description) > 10 for column in read_contract(color).columns)
        assert all(rule.why.endswith(".") for rule in read_contract(color).rules)
    assert all(table.source.startswith("TLC data dictionar") for table in code_tables().values())


def test_versions_ignore_prose_and_follow_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["nyc_tlc.contract.dataset"]
    read = module._read_yaml

    def changed(column: dict[str, Any] | None = None, rule: dict[str, Any] | None = None) -> Contract:
        def read_changed(name: str) -> dict[str, Any]:
            data = read(name)
            if name == "datasets/green.yaml":
                data["columns"]["vendor_id"] |= column or {}
                data["rules"]["zero_passengers"] = rule
            return data

        monkeypatch.setattr(module, "_read_yaml", read_changed)
        return read_contract.__wrapped__("green")

    before = changed()
    prose = changed(column={"description": "Something else."}, rule={"why": "Because."})
    assert (prose.contract_version, prose.rules_version) == (before.contract_version, before.rules_version)
    assert changed(column={"type": "int16"}).contract_version != before.contract_version
    assert changed(rule={"months": ["2024-01"]}).rules_version != before.rules_version
    stricter = changed(rule={"when": "passenger_count <= 0"})
    assert stricter.rules_version != before.rules_version
    assert stricter.contract_version == before.contract_version
