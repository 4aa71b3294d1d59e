"""Read Parquet months with odd types, odd values and damaged bytes: the rows are right, or there is one clear error."""

from __future__ import annotations

import io
import json
import math
import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from factories import GREEN_2024, JANUARY, ODD_VALUES, mangle_bytes, trip
from nyc_tlc.cleaning.read import MonthReader
from nyc_tlc.cleaning.rules import RuleCheck
from nyc_tlc.contract.dataset import Column, read_contract
from nyc_tlc.errors import SourceError, TlcError
from nyc_tlc.source.fetch import FetchedFile
from nyc_tlc.source.file_format import identify
from nyc_tlc.source.location import RemoteFile
from torture.csv_oracle import LIMITS, find_day_first, read_value

NUMBERS: list[Any] = [0, -0.0, 1, 1.5, -1, 127, 128, 32767, 32768, 70_000, 2**31, 2**40, 1e300, -1e-300, None]
FLOATS: list[Any] = [*NUMBERS, float("nan"), float("inf"), float("-inf")]
TIMES: list[Any] = [
    *(datetime(year, 1, 1, 12, 30) for year in (1, 1500, 1677, 1900, 2024, 2262, 2263, 9999)),
    datetime(2024, 1, 15, 10, 11, 12, 123456),
    None,
]
#: Types a column can have in a re-saved file, and values for it.
KINDS: list[tuple[pa.DataType, list[Any]]] = [
    (pa.int8(), [0, 1, -128, 127, None]),
    (pa.uint64(), [0, 1, 2**63, 2**64 - 1, None]),
    (pa.int64(), [int(value) for value in NUMBERS[:12] if value is not None] + [None]),
    (pa.float64(), FLOATS),
    (pa.float32(), [0, 1, 1.5, 32768, None, float("nan"), float("inf")]),
    (pa.string(), [*(value for value in ODD_VALUES if len(value.encode()) <= 256), "a\0b", None]),
    (pa.large_string(), [*(value for value in ODD_VALUES if len(value.encode()) <= 256), None]),
    (pa.string_view(), [*(value for value in ODD_VALUES if len(value.encode()) <= 256), None]),
    (pa.binary(), [*(value.encode() for value in ODD_VALUES if len(value.encode()) <= 256), None]),
    (pa.null(), [None]),
]
#: What no reader of ours has to understand, but all have to refuse in one line.
REFUSED = [
    pa.decimal256(50, 2),
    pa.bool_(),
    pa.list_(pa.int64()),
    pa.struct([("a", pa.int64())]),
    pa.date32(),
]


def expected(value: Any, kind: pa.DataType, column: Column, day_first: bool | None) -> tuple[Any, bool]:
    """Return the expected value, and whether the source's value can be read."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, True
    if isinstance(value, str):
        return read_value(value, column, day_first)
    if column.type == "timestamp":
        return value, True
    sound = math.isfinite(value)
    if column.type == "float64":
        return (float(value), True) if sound else (None, False)
    sound = sound and value == int(value)
    if column.type == "string":
        sound = sound and -(2**63) <= value < 2**63
        return (column.text_codes.get(str(int(value)), str(int(value))), True) if sound else (None, False)
    limit = LIMITS[column.type]
    sound = sound and -limit <= value < limit
    return (int(value) if sound else None), sound


def make_case(rng: random.Random) -> tuple[bytes, list[dict[str, Any]], dict[str, pa.DataType]]:
    """Return a random file, its rows and its types."""
    types = dict(GREEN_2024)
    values: dict[str, list[Any]] = {}
    for name in rng.sample(list(types), rng.randrange(1, 5)):
        if name.endswith("_datetime"):
            types[name], values[name] = rng.choice(
                [
                    (pa.timestamp("us"), TIMES),
                    (pa.timestamp("ms"), [time and time.replace(microsecond=0) for time in TIMES]),
                    *KINDS[5:],
                ]
            )
        else:
            types[name], values[name] = rng.choice(KINDS)
    rows = [
        trip()
        | {
            name: rng.choice(choice)
            for name, choice in values.items()
            if rng.random() < 0.7 or not _fits(trip()[name], types[name])
        }
        for _ in range(rng.randrange(1, 30))
    ]
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(types.items())))
    texts_of_bytes = [{name: _to_text(value) for name, value in row.items()} for row in table.to_pylist()]
    if rng.random() < 0.3:
        nested = pa.array([{"a": 1, "b": [2]}] * len(rows))
        table = table.add_column(rng.randrange(len(types)), "nested", nested)
    sink = io.BytesIO()
    texts = [name for name, kind in types.items() if kind in (pa.string(), pa.large_string())]
    delta = rng.random() < 0.2
    pq.write_table(
        table,
        sink,
        row_group_size=rng.choice([1, 3, 100]),
        compression=rng.choice(["zstd", "gzip", "snappy", "none"]),
        use_dictionary=False if delta else rng.random() < 0.7,
        column_encoding=dict.fromkeys(texts, rng.choice(["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"]))
        if delta
        else None,
        data_page_version=rng.choice(["1.0", "2.0"]),
        use_deprecated_int96_timestamps=rng.random() < 0.3,
    )
    return sink.getvalue(), texts_of_bytes, types


def _to_text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _fits(value: Any, kind: pa.DataType) -> bool:
    if value is None:
        return True
    if pa.types.is_timestamp(kind):
        return isinstance(value, datetime)
    if kind == pa.binary():
        return isinstance(value, bytes)
    if kind in (pa.string(), pa.large_string(), pa.string_view()):
        return isinstance(value, str)
    return not isinstance(value, (str, datetime)) and kind != pa.null()


def read(body: bytes, folder: Path) -> list[tuple[dict[str, Any], set[str], dict[str, str]]]:
    """Read a file and apply the rules. Return each row's values, faults and source texts."""
    path = folder / "month.parquet"
    path.write_bytes(body)
    remote = RemoteFile("green", JANUARY, path.as_uri(), bytes=len(body))
    contract = read_contract("green")
    rule_check, rows = RuleCheck(contract, JANUARY), []
    file_format = identify(path, remote.name)
    for batch in MonthReader(FetchedFile(remote, path, file_format, len(body), "", 0), contract):
        rule_check(batch)
        frame = batch.frame.with_columns(pl.col(pl.Categorical).cast(pl.String))
        texts = batch.bad_texts.to_list() if batch.bad_texts is not None else [None] * len(frame)
        for number, values in enumerate(frame.to_dicts()):
            bad = {name for name, mask in batch.bad_values.items() if mask[number]}
            rows.append((values, bad, json.loads(texts[number]) if texts[number] else {}))
    return rows


def check_values(rng: random.Random, folder: Path) -> int:
    """Check that a valid file of odd types and values is read as the oracle says. Return the number of rows."""
    body, source, types = make_case(rng)
    contract = read_contract("green")
    sources = contract.map_columns(list(types), JANUARY, "parquet").sources
    rows = read(body, folder)
    assert len(rows) == len(source)
    times = (row[name] for row in source for name in types if name.endswith("_datetime"))
    day_first = find_day_first(time for time in times if isinstance(time, str))
    for number, ((values, bad, texts), row) in enumerate(zip(rows, source, strict=True)):
        for column in contract.columns[:-2]:
            for name in sources[column.name]:
                value, sound = expected(row[name], types[name], column, day_first)
                shown = f"row {number}, {name} {types[name]} {row[name]!r}"
                assert repr(values[column.name]) == repr(value), shown
                assert (column.name in bad) == (not sound), shown
                if not sound and isinstance(row[name], str):
                    assert texts[column.name] == row[name], shown
        assert set(texts) == bad
    return len(rows)


def check_refused(rng: random.Random, folder: Path) -> None:
    """Check that a type that no column has is refused in one line."""
    kind = rng.choice(REFUSED)
    # A flag can be a boolean.
    names = ["fare_amount", "VendorID", "lpep_pickup_datetime", *(["store_and_fwd_flag"] if kind != pa.bool_() else [])]
    name = rng.choice(names)
    table = pa.Table.from_pylist([trip()], schema=pa.schema(list(GREEN_2024.items())))
    position = table.schema.get_field_index(name)
    sink = io.BytesIO()
    pq.write_table(table.set_column(position, name, pa.nulls(1, kind)), sink)
    try:
        read(sink.getvalue(), folder)
    except TlcError as error:
        assert name in str(error)
        assert "\n" not in str(error)
        return
    raise AssertionError(f"{name} of {kind} was read")


def check_damaged(rng: random.Random, folder: Path) -> bool:
    """Check that damaged bytes give rows or an error of one line. Return whether they were refused."""
    rows = [trip(lpep_pickup_datetime=datetime(2024, 1, 15) + timedelta(minutes=number)) for number in range(50)]
    sink = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist(rows, schema=pa.schema(list(GREEN_2024.items()))),
        sink,
        row_group_size=20,
        compression=rng.choice(["zstd", "none"]),
    )
    try:
        read(mangle_bytes(sink.getvalue(), rng), folder)
    except TlcError as error:
        assert "\n" not in str(error)
        assert isinstance(error, SourceError) or "column" in str(error)
        return True
    return False


def fuzz(seed: int, cases: int, folder: Path) -> int:
    """Run cases with a seed. Return the number of compared rows.

    Raises:
        AssertionError: when a case fails; it has the seed and the case.
    """
    rows = 0
    for case in range(cases):
        rng = random.Random(f"{seed}-{case}")
        try:
            if case % 2:
                check_damaged(rng, folder)
            elif case % 20 == 0:
                check_refused(rng, folder)
            else:
                rows += check_values(rng, folder)
        except BaseException as error:
            raise AssertionError(f"seed {seed}, case {case}: {type(error).__name__}: {error}") from error
    return rows
