"""Make small months for the tests: valid ones that a test can change, and files with faults."""

from __future__ import annotations

import io
import random
import re
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nyc_tlc.cleaning.clean import clean_month
from nyc_tlc.cleaning.publish import publish_month
from nyc_tlc.contract.dataset import Contract, read_contract
from nyc_tlc.lake.keys import Keys, Layout
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Color, Month
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
    """Return a valid green trip on 15 January 2024, with changes."""
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
    """Return trips as a Parquet file with TLC's green layout of 2024; ``types`` changes or adds columns."""
    schema = pa.schema(list((GREEN_2024 | (types or {})).items()))
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(trips), schema=schema), sink)
    return sink.getvalue()


def fetched(
    body: bytes | str, folder: Path, color: Color = "green", month: Month = JANUARY, *, size_known: bool = True
) -> FetchedFile:
    """Return bytes as a fetched month; the source gives their number or does not."""
    # A folder of its own, as each run has: a lake can have the fetched file linked.
    scratch = Path(tempfile.mkdtemp(dir=folder))
    published = scratch / "published"
    body = body.encode() if isinstance(body, str) else body
    published.write_bytes(body)
    return fetch_month(RemoteFile(color, month, published.as_uri(), bytes=len(body) if size_known else None), scratch)


def without_version(text: str) -> str:
    """Return a text of object keys without the versions in their names."""
    return re.sub(r"\.[0-9a-f]{12}\.", ".", text)


def make_month(
    lake: Lake,
    body: bytes | str,
    folder: Path,
    month: Month = JANUARY,
    color: Color = "green",
    layout: Layout = "month",
) -> Manifest:
    """Clean the bytes of a month's file and publish them in a lake."""
    return publish_fetched(lake, fetched(body, folder, color, month), folder, layout=layout)


def publish_fetched(
    lake: Lake, month: FetchedFile, folder: Path, *, contract: Contract | None = None, layout: Layout = "month"
) -> Manifest:
    """Clean a fetched month in a folder and publish it in a lake."""
    color = month.remote.color
    contract, base = contract or read_contract(color), lake.find_manifest(Keys(color, month.remote.month)).version
    cleaned = clean_month(month, contract, folder / "cleaned", layout=layout)
    # Forced, because a test's month may have nearly all rows rejected.
    return publish_month(cleaned, contract, lake, base, datetime.now(UTC), "a flow run", force=True)


#: Texts that look like a number or a time, or that some reader takes for one.
ODD_VALUES = """inf -inf nan NaN Infinity nan(1) 1e400 -1e400 1e-400 1e5 1E+2 0x1F 0b1 1_0 +5 ++5 +-5 -0 00 007 5. .5 .
    -     + e5 1.0 1.5 1d 5% 127 128 -129 32767 32768 -32769 2147483647 2147483648 9007199254740993 1e3 0.1e1
    ٣ ½ NULL null None N/A NA #N/A <NA> \\N true False
    2020-01-01T10:11:12-05:00 2020-07-01T10:11-0400 2020-07-01T10:11:12-05 2020-11-01T01:30:00-04:00
    2020-03-08T02:30:00-05:00 1700-01-01T00:00:00-05:00 2020-01-01T10:11:12.123456789
    2020-01-01 2020-01-01T10:11:12 2020-01-01t10:11:12 2020-01-01T10:11:12Z 2020-01-01T10:11:12+00 2020-1-01T10:11:12
    2020-02-30T00:00:00 2020-02-29T00:00:00 2021-02-29T00:00:00 2020-01-01T24:00:00 2020-01-01T23:59:60
    2020-01-01T10:11:12. 2020-01-01T10:11:12.5 2020-01-01T10:11:12.123456 2020-01-01T10:11:12.1234567
    0000-01-01T00:00:00 0001-01-01T00:00:00 1677-01-01T00:00:00 2262-12-31T00:00:00 9999-12-31T23:59:59
    10000-01-01T00:00:00 20200101T101112 01/02/2020T10:11:12 N Y n cmt CMT vts Cas CASH crd 0 1 é 日本""".split()
ODD_VALUES += [
    "",
    " ",
    "\t",
    "  \t ",
    " 5",
    "5 ",
    "\t5 ",
    "\u00a05",
    "5\u2003",
    "2020-01-01 10:11",
    "2020-01-01 10:11:12",
    " 2020-01-01 10:11:12 ",
    "2020-01-01  10:11:12",
    "2020-01-01 10:11:12 AM",
    "2020-01-01 10:11:12 -05:00",
    "2020-01-01 10:11:12 UTC",
    "1/2/2020 12:11:12 AM",
    "01/31/2020 1:11 pm",
    "01/31/2020 00:11:12 AM",
    "02/30/2020 10:11:12 AM",
    "01/31/2020 10:11:12",
    "2020-01-01 10:11+01:00",
    "x" * 256,
    "x" * 257,
    "é" * 129,
]
#: Bytes that a disk, a network or a spreadsheet can put into a line.
ODD_BYTES = [
    b'"',
    b'""',
    b"\r",
    b"\0",
    b",",
    b",,",
    b" ",
    b"\t",
    b"\xc3\xa9",
    b"\xff",
    b"\xef\xbb\xbf",
    b"'",
    b"\\",
    b"\x0c",
    b"\n",
]


def mangle_line(line: bytes, rng: random.Random) -> bytes:
    """Return a line of a CSV file (without its line end), with a random fault or none."""
    fields = line.split(b",")
    at = rng.randrange(len(fields))
    match rng.randrange(12):
        case 0 | 1 | 2:
            fields[at] = rng.choice(ODD_VALUES).encode()
        case 3:
            fields[at] = b'"' + fields[at] + b'"'
        case 4:
            fields[at] = b'"' + rng.choice(ODD_VALUES).encode() + rng.choice([b'"', b'"5', b'""', b' "', b""])
        case 5:
            fields = [b'"' + field.strip(b'"') + b'"' for field in fields]
        case 6:
            fields += rng.choice([[b""], [b"", b""], [b'""'], [b" "], [b"x"], [b""] * 99, [b""] * 100, [b""] * 101])
        case 7:
            fields = fields[: rng.randrange(len(fields) + 1)]
        case 8:
            return rng.choice([b"", b"\r", b"\r\r", b" ", b",", b"garbage", b"\0" * 5, b'"', b'""', b"," * 50])
        case 9 | 10:
            place = rng.randrange(len(line) + 1)
            return line[:place] + rng.choice(ODD_BYTES) + line[place:]
        case _:
            place = rng.randrange(len(line) + 1)
            return line[:place] + line[place + 1 :]
    return b",".join(fields)


def mangle_csv(lines: list[bytes], rng: random.Random, faults: int) -> bytes:
    """Return lines, the header first, as a file with a number of faults: in lines, between them and at the end."""
    body = list(lines)
    for _ in range(faults):
        at = rng.randrange(1, len(body))
        body[at] = mangle_line(body[at], rng)
    end = rng.choice([b"\n", b"\r\n"])
    odd_ends = [b"\n", b"\r\n", b"\r\r\n", b"\n\n", b"\n\r\n"]
    ends = [end, *(end if rng.random() < 0.97 else rng.choice(odd_ends) for _ in body[1:])]
    text = b"".join(line + end for line, end in zip(body, ends, strict=True))
    if rng.random() < 0.3:
        text = text[: max(len(text) - rng.randrange(60), len(lines[0]) + len(end))]
    return text


def mangle_bytes(body: bytes, rng: random.Random) -> bytes:
    """Return a file with flipped bits, a hole, a repeated part or a missing end."""
    data = bytearray(body)
    place = rng.randrange(len(data))
    match rng.randrange(6):
        case 0 | 1:
            for _ in range(rng.choice([1, 1, 2, 8])):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 2:
            # Most faults matter in the footer, at the end of the file.
            data[-rng.randrange(1, min(len(data), 2000))] ^= 1 << rng.randrange(8)
        case 3:
            data[place : place + rng.randrange(1, 300)] = b""
        case 4:
            data[place : place + 100] = bytes(100)
        case _:
            data[place:place] = data[place : place + 200]
    return bytes(data)
