"""TLC's own files, published in a lake and compared with counts of the raw files by pandas."""

import re
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pandas as pd
import pyarrow.parquet as pq
import pytest

from factories import publish_fetched
from nyc_tlc.cleaning.read import MonthReader
from nyc_tlc.cleaning.rules import RuleCheck
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import TlcError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.month import Color, Month
from nyc_tlc.pages.anomalies import find_anomalies
from nyc_tlc.source.fetch import FetchedFile, fetch_month
from nyc_tlc.source.location import RemoteFile

# shared/TLC.md, "Figures to check against": rows, and passengers 0 / negative fare / drop-off first.
PARQUET = {
    "2020-12": (83_130, 210, 182, 1),
    "2023-01": (68_211, 336, 176, 0),
    "2024-01": (56_551, 512, 182, 0),
    "2025-11": (46_912, 612, 142, 3),
}
CSV = {"2020-04": 35_612, "2020-08": 81_063, "2020-12": 83_130}


def find(path: Path) -> tuple[Color, Month]:
    """Return the colour and the month in a file's name."""
    match = re.search(r"(yellow|green|fhvhv|fhv)_tripdata(?:sample)?_(\d{4}-\d{2})", path.name)
    assert match
    assert match[1] in get_args(Color)
    return match[1], Month.parse(match[2])  # type: ignore[return-value]


def fetched(path: Path) -> FetchedFile:
    return fetch_month(RemoteFile(*find(path), path.as_uri()), Path(tempfile.mkdtemp(dir=Path.cwd())))


def into_lake(path: Path, lake: FolderLake) -> Manifest:
    return publish_fetched(lake, fetched(path), lake.root)


def count_with_pandas(raw: pd.DataFrame, month: Month) -> tuple[dict[str, int], dict[str, int]]:
    """Count rejected rows by their first rule, and warnings, from the raw columns."""
    first = pd.Timestamp(month.start)
    pickup = pd.to_datetime(raw["lpep_pickup_datetime"])
    dropoff = pd.to_datetime(raw["lpep_dropoff_datetime"])
    november = pd.Timestamp(month.year, 11, 1)
    dst_end = november + pd.Timedelta(days=6 - november.weekday(), hours=1)
    repeated = (dropoff >= dst_end) & (pickup < dst_end + timedelta(hours=1))
    minutes_lost = (raw["VendorID"] == 6) & (pickup.dt.minute == month.month) & (dropoff.dt.minute == month.month)
    minutes_lost &= str(month) in ("2025-02", "2025-03")
    repeated |= minutes_lost & (pickup.dt.floor("h") == dropoff.dt.floor("h"))
    rejects = {
        "no_pickup_time": pickup.isna(),
        "pickup_outside_month": (pickup < first - timedelta(days=1))
        | (pickup >= first + pd.offsets.MonthBegin(1) + timedelta(days=1)),
        "dropoff_before_pickup": (dropoff < pickup) & ~repeated,
        "zero_passengers": raw["passenger_count"] == 0,
        "negative_distance": raw["trip_distance"] < 0,
        "unknown_zone": ~raw["PULocationID"].between(1, 265) | ~raw["DOLocationID"].between(1, 265),
    }
    counted, taken = {}, pd.Series(False, index=raw.index)
    for rule, broken in rejects.items():
        counted[rule] = int((broken & ~taken).sum())
        taken |= broken
    codes = {
        "VendorID": [1, 2, 3, 6, 7],
        "RatecodeID": [1, 2, 3, 4, 5, 6, 99],
        "payment_type": [0, 1, 2, 3, 4, 5, 6],
        "trip_type": [1, 2],
    }
    unknown = pd.Series(False, index=raw.index)
    for column, known in codes.items():
        unknown |= raw[column].notna() & ~raw[column].isin(known)
    warnings = {
        "negative_fare": int((raw["fare_amount"] < 0).sum()),
        "zero_distance": int((raw["trip_distance"] == 0).sum()),
        "long_distance": int((raw["trip_distance"] > 100).sum()),
        "long_trip": int((dropoff - pickup > timedelta(hours=24)).sum()),
        **({"lost_minutes": int(minutes_lost.sum()), "one_minute:6": 731} if str(month) == "2025-02" else {}),
        "unknown_code": int(unknown.sum()),
    }
    return counted, warnings


@pytest.mark.parametrize("month", PARQUET)
def test_a_parquet_month_adds_up_to_the_published_figures(real_data: Path, tmp_path: Path, month: str) -> None:
    path = real_data / "parquet" / f"green_tripdata_{month}.parquet"
    manifest = into_lake(path, FolderLake(tmp_path))
    rows, zero_passengers, negative_fare, dropoff_first = PARQUET[month]
    assert manifest.source.rows == rows == manifest.clean.rows + manifest.quarantine.rows
    assert manifest.warnings["negative_fare"] == negative_fare
    assert manifest.quarantine.rules["zero_passengers"] <= zero_passengers
    assert manifest.quarantine.rules["dropoff_before_pickup"] <= dropoff_first
    rejected, warnings = count_with_pandas(pd.read_parquet(path), Month.parse(month))
    assert manifest.quarantine.rules == rejected
    assert manifest.warnings == warnings
    assert manifest.drift == ()


def test_february_2025_keeps_and_counts_all_trips_of_vendor_6(real_data: Path, tmp_path: Path) -> None:
    path, lake = real_data / "parquet" / "green_tripdata_2025-02.parquet", FolderLake(tmp_path)
    manifest = into_lake(path, lake)
    raw = pd.read_parquet(path)
    assert (raw["VendorID"] == 6).sum() == 731
    clean = pd.read_parquet(lake.local_path(manifest.clean.key))
    assert (clean["vendor_id"] == 6).sum() == 731
    # TLC.md says that 209 of them were quarantined for a drop-off before the pick-up.
    assert ((clean["vendor_id"] == 6) & (clean["dropoff_datetime"] < clean["pickup_datetime"])).sum() == 209
    rejected, warnings = count_with_pandas(raw, Month(2025, 2))
    assert manifest.quarantine.rules == rejected
    assert manifest.warnings == warnings
    assert find_anomalies(manifest, [])[0].startswith(
        "green 2025-02: all 731 trips of vendor 6 begin in the same minute"
    )


def test_november_2025_keeps_the_trips_of_the_repeated_hour(real_data: Path, tmp_path: Path) -> None:
    manifest = into_lake(real_data / "parquet" / "green_tripdata_2025-11.parquet", FolderLake(tmp_path))
    # Three drop-offs come first in that file; two of them in the hour that repeated on 2 November.
    assert manifest.quarantine.rules["dropoff_before_pickup"] == 1


def test_months_that_other_tools_saved_are_read_or_refused_in_one_line(real_data: Path, tmp_path: Path) -> None:
    """Test the files of ``resaved``, whose rows are those of TLC's yellow 2021-01 or made up."""
    read: dict[str, list[tuple[object, ...]]] = {}
    refused: dict[str, str] = {}
    for path in (real_data / "resaved").iterdir():
        month = Month(2024, 1) if path.suffix == ".parquet" else Month(2021, 1)
        lake = FolderLake(tmp_path / path.name)
        try:
            manifest = publish_fetched(
                lake, fetch_month(RemoteFile("yellow", month, path.as_uri()), tmp_path), lake.root
            )
        except TlcError as error:
            refused[path.name] = str(error)
            continue
        assert manifest.quarantine.rows == 0, path.name
        frame = pd.read_parquet(lake.local_path(manifest.clean.key))
        columns = ["vendor_id", "pickup_datetime", "store_and_fwd_flag", "pickup_location_id", "improvement_surcharge"]
        read[path.name] = [tuple(map(str, row)) for row in frame[columns].itertuples(index=False)]
    first = ("1", "2021-01-01 00:30:10", "N", "142", "0.3")
    second = ("2", "2021-01-02 10:51:20", "N", "238", "0.3")
    assert read.pop("binary_flag.parquet")[:2] == [
        ("1", "2024-01-05 08:00:00", "N", "142", "1.0"),
        ("2", "2024-01-05 08:05:00", "Y", "142", "1.0"),
    ]
    assert read == {
        "bq_public.csv": [second],
        "hhmm.csv": [
            (*first[:1], "2021-01-01 00:30:00", *first[2:]),
            (*second[:1], "2021-01-02 10:51:00", *second[2:]),
        ],
        "offset0500.csv": [first, second],
        "rdots.csv": [first, second],
        "unnamed0.csv": [first, second],
    }
    wall_clock = "times must be New York wall-clock, like 2024-01-31 23:59:59; got "
    for name, why in {
        # No day above 12 shows the order of day and month.
        "ampm.csv": wall_clock.removesuffix("; got "),
        "tz_utc.parquet": wall_clock + "timestamp[us, tz=UTC]",
        "semicolon.csv": "got text with semicolons between the values",
        "utf16.csv": "got text in UTF-16",
    }.items():
        assert why in refused.pop(name)
    assert not refused


@pytest.mark.parametrize("month", CSV)
def test_a_csv_month_adds_up_to_the_published_figures(real_data: Path, tmp_path: Path, month: str) -> None:
    path = real_data / "csv" / f"green_tripdata_{month}.csv.gz"
    manifest = into_lake(path, FolderLake(tmp_path))
    assert manifest.source.rows == CSV[month]
    rejected, warnings = count_with_pandas(pd.read_csv(path, low_memory=False), Month.parse(month))
    assert manifest.quarantine.rules == rejected
    assert manifest.warnings == warnings


def test_csv_and_parquet_of_one_month_give_the_same_rows_but_for_the_vendor(real_data: Path, tmp_path: Path) -> None:
    tables = []
    for path in ("csv/green_tripdata_2020-12.csv.gz", "parquet/green_tripdata_2020-12.parquet"):
        lake = FolderLake(tmp_path / path)
        tables.append(pq.read_table(lake.local_path(into_lake(real_data / path, lake).clean.key)))
    from_csv, from_parquet = tables
    assert from_csv.schema.equals(from_parquet.schema)
    raw = pd.read_csv(real_data / "csv/green_tripdata_2020-12.csv.gz", low_memory=False)
    assert raw["VendorID"].isna().sum() == 36_838
    assert from_csv["vendor_id"].null_count == raw["VendorID"].iloc[from_csv["source_row"].to_numpy()].isna().sum()
    assert from_parquet["vendor_id"].null_count == 0
    assert from_csv.drop_columns(["vendor_id"]).equals(from_parquet.drop_columns(["vendor_id"]))


def test_the_clean_rows_are_the_source_rows_unaltered(real_data: Path, tmp_path: Path) -> None:
    lake, path = FolderLake(tmp_path), real_data / "parquet" / "green_tripdata_2024-01.parquet"
    rows = pq.read_table(lake.local_path(into_lake(path, lake).clean.key)).to_pandas()
    raw = pd.read_parquet(path).iloc[rows["source_row"]].reset_index(drop=True)
    published = {
        "vendor_id": "VendorID",
        "pickup_datetime": "lpep_pickup_datetime",
        "dropoff_datetime": "lpep_dropoff_datetime",
        "rate_code": "RatecodeID",
        "pickup_location_id": "PULocationID",
        "dropoff_location_id": "DOLocationID",
    }
    for column in (name for name in rows if not name.endswith(("itude", "_month", "_row", "cbd_congestion_fee"))):
        expected = raw[published.get(column, column)]
        pd.testing.assert_series_equal(rows[column], expected, check_dtype=False, check_names=False)


def test_the_first_bytes_of_every_era_read_to_the_contract(real_data: Path) -> None:
    heads = sorted((real_data / "heads").glob("*.csv"))
    assert len(heads) > 40
    for path in heads:
        color, month = find(path)
        rule_check = RuleCheck(read_contract(color), month)
        checked = [rule_check(batch) for batch in MonthReader(fetched(path), read_contract(color))]
        lines = [line.strip("\r") for line in path.read_bytes().decode().split("\n")[1:] if line.strip("\r")]
        raw = [text for batch in checked for text in batch.quarantine["raw"].drop_nulls()]
        assert raw == [lines[-1]], path.name
        assert sum(v.clean.height + v.quarantine.height for v in checked) == len(lines), path.name
        assert sum(rule_check.rejected.values()) - rule_check.rejected["unparseable"] <= 5, path.name
        assert not [rule for rule in rule_check.rejected if rule.startswith("bad_value")], path.name
        clean_rows = sum(batch.clean.height for batch in checked)
        assert clean_rows > 0, path.name
        vendors = {code for v in checked if color in ("yellow", "green") for code in v.clean["vendor_id"]}
        assert vendors <= {1, 2, 3}, path.name


def test_the_samples_of_every_colour_read_to_the_contract(real_data: Path, tmp_path: Path) -> None:
    samples = sorted((real_data / "samples").glob("*.csv"))
    assert {find(path)[0] for path in samples} == {"yellow", "green", "fhv", "fhvhv"}
    for path in samples:
        lake = FolderLake(tmp_path / path.name)
        manifest = into_lake(path, lake)
        assert manifest.source.rows == 1000
        clean_rows = pq.read_table(lake.local_path(manifest.clean.key))
        assert clean_rows.schema.equals(read_contract(manifest.color).clean_schema)
        assert clean_rows["pickup_datetime"].null_count == 0
        assert manifest.drift == ()
