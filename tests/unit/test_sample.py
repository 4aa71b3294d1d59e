"""Generated months have TLC's exact layouts of every era and real faults, and are the same each time."""

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nyc_tlc.cleaning.read import MonthReader
from nyc_tlc.cleaning.rules import RuleCheck
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.month import COLORS, Color, Month
from nyc_tlc.source.fetch import fetch_month
from nyc_tlc.source.location import RemoteFile
from nyc_tlc.source.sample import write_sample
from sample_csv import write_sample_csv

ERAS = [(color, layout.since) for color in COLORS for layout in read_contract(color).layouts["parquet"]]
CSV_ERAS = [(color, layout.since) for color in COLORS for layout in read_contract(color).layouts["csv"]]


def check_rows(path: Path, color: Color, month: Month) -> tuple[RuleCheck, int]:
    rule_check, contract = RuleCheck(read_contract(color), month), read_contract(color)
    reader = MonthReader(fetch_month(RemoteFile(color, month, path.as_uri()), path.parent), contract)
    return rule_check, sum(rule_check(batch).clean.height for batch in reader)


@pytest.mark.parametrize(("color", "month"), ERAS, ids=str)
def test_a_parquet_sample_has_the_exact_layout_and_is_mostly_clean(tmp_path: Path, color: Color, month: Month) -> None:
    path = tmp_path / "month.parquet"
    write_sample(color, month, 3000, path)
    schema = pq.read_schema(path)
    published = read_contract(color).layout(month, "parquet").columns
    names = {"timestamp[us]": "timestamp"}
    assert {field.name: names.get(str(field.type), str(field.type)) for field in schema} == published
    assert schema.names == list(published)
    rule_check, clean = check_rows(path, color, month)
    assert 2900 < clean < 3000
    assert not [rule for rule in rule_check.rejected if rule.startswith("bad_value")]


@pytest.mark.parametrize(("color", "month"), CSV_ERAS, ids=str)
def test_a_csv_sample_of_every_era_reads_without_a_lost_line(tmp_path: Path, color: Color, month: Month) -> None:
    path = tmp_path / "month.csv.gz"
    write_sample_csv(color, month, 3000, path)
    rule_check, clean = check_rows(path, color, month)
    assert 2900 < clean < 3000
    assert clean + sum(rule_check.rejected.values()) == 3000
    assert not {rule for rule in rule_check.rejected if rule.startswith(("bad_value", "unparseable"))}


def test_the_same_month_is_the_same_bytes_and_another_is_not(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("once", "again", "other month", "other rows", "other colour")]
    write_sample("yellow", Month(2024, 1), 500, files[0])
    write_sample("yellow", Month(2024, 1), 500, files[1])
    write_sample("yellow", Month(2024, 2), 500, files[2])
    write_sample("yellow", Month(2024, 1), 501, files[3])
    write_sample("green", Month(2024, 1), 500, files[4])
    contents = [file.read_bytes() for file in files]
    assert contents[0] == contents[1]
    assert len(set(contents)) == 4


@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("color", COLORS)
def test_a_sample_can_have_any_size(tmp_path: Path, color: Color, rows: int) -> None:
    write_sample(color, Month(2024, 1), rows, tmp_path / "month")
    assert pq.read_metadata(tmp_path / "month").num_rows == rows


def test_a_sample_has_the_flaws_of_the_field(tmp_path: Path) -> None:
    path = tmp_path / "month"
    write_sample("green", Month(2025, 11), 60_000, path)
    rule_check, _ = check_rows(path, "green", Month(2025, 11))
    assert {rule for rule, rows in rule_check.rejected.items() if rows} >= {
        "pickup_outside_month",
        "dropoff_before_pickup",
        "zero_passengers",
    }
    assert all(rule_check.warned[rule] for rule in ("negative_fare", "zero_distance", "long_distance", "long_trip"))
    rows = pq.read_table(path).to_pylist()
    nulls = [index for index, row in enumerate(rows) if row["passenger_count"] is None]
    assert nulls == list(range(nulls[0], 60_000))
    together = ("RatecodeID", "store_and_fwd_flag", "payment_type", "trip_type", "congestion_surcharge")
    assert all(rows[index][name] is None for index in nulls for name in together)
    trips = Counter((r["VendorID"], r["lpep_pickup_datetime"], r["PULocationID"], abs(r["fare_amount"])) for r in rows)
    reversals = [row for row in rows if row["fare_amount"] < 0]
    assert all(
        trips[row["VendorID"], row["lpep_pickup_datetime"], row["PULocationID"], -row["fare_amount"]] == 2
        for row in reversals
    )
    # Trips of the hour that repeats read as ending before they began, and are clean.
    backwards = sum(row["lpep_dropoff_datetime"] < row["lpep_pickup_datetime"] for row in rows)
    assert backwards > rule_check.rejected["dropoff_before_pickup"]
