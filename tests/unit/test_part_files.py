"""A folder of part files, as Spark writes it, is read as one month."""

import gzip
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from factories import JANUARY, green_parquet, publish_fetched, trip
from nyc_tlc.cleaning.read import MonthReader
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import SourceError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.planning.month_plan import plan_month
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.source.fetch import FetchedFile, fetch_month
from nyc_tlc.source.published import look_at

HEADER = (
    "VendorID,lpep_pickup_datetime,lpep_dropoff_datetime,PULocationID,DOLocationID,trip_distance,fare_amount,"
    "total_amount"
)
LINE = "2,2024-01-15 12:0{}:00,2024-01-15 12:10:00,74,75,1.5,10,14.5"


def fetch_parts(folder: Path, parts: dict[str, bytes]) -> FetchedFile:
    """Write a folder for January 2024 and fetch it."""
    (folder / "2024-1").mkdir()
    for name, body in parts.items():
        (folder / "2024-1" / name).write_bytes(body)
    (folder / "scratch").mkdir()
    return fetch_month(look_at(template(folder), "green", JANUARY), folder / "scratch")


def template(folder: Path) -> str:
    return f"{folder.as_uri()}/{{year}}-{{month}}"


def minutes(fetched: FetchedFile) -> list[int]:
    frames = [batch.frame for batch in MonthReader(fetched, read_contract("green"))]
    return [pickup.minute for pickup in pl.concat(frames)["pickup_datetime"]]


def parquet(minute: int, **types: pa.DataType) -> bytes:
    return green_parquet(trip(lpep_pickup_datetime=datetime(2024, 1, 15, 12, minute)), types=types)


def test_parquet_parts_are_one_month_in_the_order_of_their_names(tmp_path: Path) -> None:
    parts = {
        "part-00001-c000.snappy.parquet": parquet(1),
        "part-00000-c000.snappy.parquet": parquet(0),
        "_SUCCESS": b"",
        ".part-00000-c000.snappy.parquet.crc": b"crc",
    }
    assert minutes(fetch_parts(tmp_path, parts)) == [0, 1]


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_csv_parts_each_have_the_header(tmp_path: Path, end: str, pack: Callable[[bytes], bytes]) -> None:
    texts = [f"{HEADER}\n{LINE.format(minute)}{end}".encode() for minute in range(2)]
    assert minutes(fetch_parts(tmp_path, {"part-0": pack(texts[0]), "part-1": b"", "part-2": pack(texts[1])})) == [0, 1]


@pytest.mark.parametrize("other", [parquet(1, drone_fee=pa.float64()), f"{HEADER}\n{LINE.format(1)}\n".encode()])
def test_parts_that_differ_are_refused(tmp_path: Path, other: bytes) -> None:
    with pytest.raises(SourceError, match=r"green 2024-01: the parts in .* can.t be joined"):
        fetch_parts(tmp_path, {"part-0": parquet(0), "part-1": other})


def test_a_damaged_part_is_one_line(tmp_path: Path) -> None:
    rows = green_parquet(*(trip(trip_distance=float(number)) for number in range(20_000)))
    with pytest.raises(SourceError, match=r"can.t be joined.*got "):
        fetch_parts(tmp_path, {"part-0": rows[:9_000] + bytes(3_000) + rows[12_000:]})


def test_the_month_is_current_until_a_part_changes(tmp_path: Path) -> None:
    fetched = fetch_parts(tmp_path, {"part-0": parquet(0), "part-1": parquet(1)})
    lake = FolderLake(tmp_path / "lake")
    assert publish_fetched(lake, fetched, tmp_path / "scratch").source.rows == 2
    assert plan_month("green", JANUARY, MonthOptions(template(tmp_path), "local"), lake).need == "current"
    (tmp_path / "2024-1" / "part-2").write_bytes(parquet(2))
    assert plan_month("green", JANUARY, MonthOptions(template(tmp_path), "local"), lake).need == "reload"
