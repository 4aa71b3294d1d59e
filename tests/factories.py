"""Small months for the tests: sound ones to be spoiled inline, and the ways real files are hostile."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nyc_tlc.cleaning.clean import clean_month
from nyc_tlc.cleaning.publish import publish_month
from nyc_tlc.contract.contract import read_contract
from nyc_tlc.lake.keys import Keys, Layout
from nyc_tlc.lake.lake import Lake
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.months import Color, Month
from nyc_tlc.source.fetch import FetchedFile, fetch_month
from nyc_tlc.source.location import RemoteFile

JANUARY = Month(2024, 1)

GREEN_2024 = {
    "VendorID": pa.int32(),
    "lpep_pickup_datetime": pa.timestamp("us"),
    "lpep_dropoff_datetime": pa.timestamp("us"),
    "store_and_fwd_flag": pa.large_string(),
    "RatecodeID": pa.int64(),
    "PULocationID": pa.int32(),
    "DOLocationID": pa.int32(),
    "passenger_count": pa.int64(),
    "trip_distance": pa.float64(),
    "fare_amount": pa.float64(),
    "extra": pa.float64(),
    "mta_tax": pa.float64(),
    "tip_amount": pa.float64(),
    "tolls_amount": pa.float64(),
    "ehail_fee": pa.float64(),
    "improvement_surcharge": pa.float64(),
    "total_amount": pa.float64(),
    "payment_type": pa.int64(),
    "trip_type": pa.int64(),
    "congestion_surcharge": pa.float64(),
}


def trip(**changes: Any) -> dict[str, Any]:
    """A sound green trip on 15 January 2024, with changes."""
    pickup = changes.get("lpep_pickup_datetime", datetime(2024, 1, 15, 12))
    return {
        "VendorID": 2,
        "lpep_pickup_datetime": pickup,
        "lpep_dropoff_datetime": pickup and pickup + timedelta(minutes=10),
        "store_and_fwd_flag": "N",
        "RatecodeID": 1,
        "PULocationID": 74,
        "DOLocationID": 75,
        "passenger_count": 1,
        "trip_distance": 1.5,
        "fare_amount": 10.0,
        "extra": 1.0,
        "mta_tax": 0.5,
        "tip_amount": 2.0,
        "tolls_amount": 0.0,
        "ehail_fee": None,
        "improvement_surcharge": 1.0,
        "total_amount": 14.5,
        "payment_type": 1,
        "trip_type": 1,
        "congestion_surcharge": 0.0,
    } | changes


def green_parquet(*trips: dict[str, Any], types: dict[str, pa.DataType] | None = None) -> bytes:
    """Trips as a Parquet file with TLC's green layout of 2024; ``types`` changes or adds columns."""
    schema = pa.schema(list((GREEN_2024 | (types or {})).items()))
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(trips), schema=schema), sink)
    return sink.getvalue()


def fetched(
    body: bytes | str, folder: Path, color: Color = "green", month: Month = JANUARY, *, size_known: bool = True
) -> FetchedFile:
    """Bytes as a fetched month, from a source that says how many they are, or does not."""
    path = folder / f"{color}_tripdata_{month}"
    body = body.encode() if isinstance(body, str) else body
    path.write_bytes(body)
    return fetch_month(RemoteFile(color, month, path.as_uri(), bytes=len(body) if size_known else None), folder)


def make_month(
    lake: Lake,
    body: bytes | str,
    folder: Path,
    month: Month = JANUARY,
    color: Color = "green",
    layout: Layout = "month",
) -> Manifest:
    """Bytes all the way into a lake."""
    terms, base = read_contract(color), lake.find_manifest(Keys(color, month)).version
    cleaned = clean_month(fetched(body, folder, color, month), terms, folder / "cleaned", layout=layout)
    return publish_month(cleaned, terms, lake, base, datetime.now(UTC), "a flow run")
