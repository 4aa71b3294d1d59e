"""Files of every layout are read with the contract's types, nulls for empty values, and faults marked."""

import gzip
import io
import json
import tracemalloc
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factories import GREEN_2024, JANUARY, fetched, green_parquet, trip
from nyc_tlc.cleaning.conform import Batch
from nyc_tlc.cleaning.read import MonthReader
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import ContractError, SourceError
from nyc_tlc.month import Color, Month


def read(body: bytes | str, folder: Path, color: Color = "green", month: Month = JANUARY) -> Batch:
    """Read a month as one batch: the lines around an odd one are read in batches of their own."""
    first, *others = MonthReader(fetched(body, folder, color, month), read_contract(color))
    return join_batches([first, *others]) if others else first


def join_batches(batches: list[Batch]) -> Batch:
    def join(parts: list[pl.Series | None], filler: bool | None, kind: type[pl.DataType]) -> pl.Series | None:
        if all(part is None for part in parts):
            return None
        return pl.concat(
            pl.repeat(filler, len(batch.frame), dtype=kind, eager=True) if part is None else part
            for part, batch in zip(parts, batches, strict=True)
        )

    names = dict.fromkeys(name for batch in batches for name in batch.bad_values)
    masks = {name: join([batch.bad_values.get(name) for batch in batches], False, pl.Boolean) for name in names}
    return Batch(
        pl.concat(batch.frame for batch in batches),
        {name: mask for name, mask in masks.items() if mask is not None},
        join([batch.raw for batch in batches], None, pl.String),
        join([batch.bad_texts for batch in batches], None, pl.String),
        dict(sum((Counter(batch.null_texts) for batch in batches), Counter())),
    )


def rows(batch: Batch) -> list[dict[str, Any]]:
    return batch.frame.with_columns(pl.col(pl.Categorical).cast(pl.String)).to_dicts()


def test_a_parquet_month_comes_out_in_contract_types(tmp_path: Path) -> None:
    batch = read(green_parquet(trip(), trip(passenger_count=None)), tmp_path)
    first, second = rows(batch)
    assert first["pickup_datetime"] == datetime(2024, 1, 15, 12)
    assert first["pickup_location_id"] == 74
    assert first["file_month"] == date(2024, 1, 1)
    assert (first["source_row"], second["source_row"]) == (0, 1)
    assert second["passenger_count"] is None
    assert first["pickup_longitude"] is None
    assert batch.frame.schema["vendor_id"] == pl.Int8


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (pa.float64(), 3.0, 3),
        (pa.int64(), 3, 3),
        (pa.decimal128(5, 0), 3, 3),
        (pa.string(), " 3 ", 3),
        (pa.string(), "3.0", 3),
        (pa.float64(), float("nan"), None),
        (pa.null(), None, None),
        (pa.string(), "  ", None),
        (pa.binary(), b"3", 3),
        (pa.string_view(), "3", 3),
    ],
)
def test_a_code_of_any_type_becomes_an_integer(tmp_path: Path, kind: pa.DataType, value: object, expected: int) -> None:
    batch = read(green_parquet(trip(passenger_count=value), types={"passenger_count": kind}), tmp_path)
    assert rows(batch)[0]["passenger_count"] == expected
    assert not batch.bad_values


@pytest.mark.parametrize(
    ("kind", "value"),
    [(pa.float64(), 1.5), (pa.float64(), 1e9), (pa.int64(), 70_000), (pa.string(), "two"), (pa.string(), "nan(1)")],
)
def test_a_value_that_cannot_be_cast_is_null_and_marked(tmp_path: Path, kind: pa.DataType, value: object) -> None:
    body = green_parquet(trip(passenger_count=None), trip(passenger_count=value), types={"passenger_count": kind})
    batch = read(body, tmp_path)
    assert [row["passenger_count"] for row in rows(batch)] == [None, None]
    assert batch.bad_values["passenger_count"].to_list() == [False, True]


@pytest.mark.parametrize("kind", [pa.timestamp("us", "UTC"), pa.timestamp("us", "-05:00"), pa.int64(), pa.bool_()])
def test_a_pickup_time_of_another_nature_breaks_the_contract(tmp_path: Path, kind: pa.DataType) -> None:
    body = green_parquet(trip() | {"lpep_pickup_datetime": None}, types={"lpep_pickup_datetime": kind})
    with pytest.raises(ContractError, match=r"lpep_pickup_datetime.*New York wall-clock, like 2024-01-31 23:59:59"):
        read(body, tmp_path)


@pytest.mark.parametrize("zone", ["America/New_York", "US/Eastern"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_with_the_zone_of_new_york_become_wall_clock(tmp_path: Path, zone: str, unit: str) -> None:
    instants = [datetime(2024, 1, 15, 17, tzinfo=UTC), datetime(2024, 7, 15, 16, tzinfo=UTC)]
    trips = (trip() | {"lpep_pickup_datetime": instant} for instant in instants)
    batch = read(green_parquet(*trips, types={"lpep_pickup_datetime": pa.timestamp(unit, zone)}), tmp_path)
    assert [row["pickup_datetime"] for row in rows(batch)] == [datetime(2024, 1, 15, 12), datetime(2024, 7, 15, 12)]


@pytest.mark.parametrize("kind", [pa.timestamp("ns"), pa.timestamp("ms"), pa.timestamp("s")])
def test_times_of_any_unit_become_microseconds(tmp_path: Path, kind: pa.DataType) -> None:
    batch = read(green_parquet(trip(), types={"lpep_pickup_datetime": kind}), tmp_path)
    assert rows(batch)[0]["pickup_datetime"] == datetime(2024, 1, 15, 12)


def test_flags_lose_their_blanks(tmp_path: Path) -> None:
    batch = read(green_parquet(*(trip(store_and_fwd_flag=flag) for flag in ("N", " Y", " ", "", None))), tmp_path)
    assert [row["store_and_fwd_flag"] for row in rows(batch)] == ["N", "Y", None, None, None]


def test_unknown_columns_are_an_error_when_strict(tmp_path: Path) -> None:
    month = fetched(green_parquet(trip(drone_fee=1.0), types={"drone_fee": pa.float64()}), tmp_path)
    assert MonthReader(month, read_contract("green")).column_map.drift == ("drone_fee",)
    with pytest.raises(ContractError, match="drone_fee"):
        MonthReader(month, read_contract("green"), strict=True)


YELLOW_2010 = ",".join(read_contract("yellow").layout(Month(2010, 1), "csv").columns)


@pytest.mark.parametrize(
    ("vendor", "payment", "vendor_id", "payment_type"),
    [
        ("CMT", "CRD", 1, 1),
        ("VTS", "CAS", 2, 2),
        ("DDS", "CSH", 3, 2),
        ("VTS", "Cre", 2, 1),
        ("CMT", "No Charge", 1, 3),
        ("CMT", "Dispute", 1, 4),
        ("CMT", "UNK", 1, 5),
    ],
)
def test_text_codes_of_old_files_become_todays(
    tmp_path: Path, vendor: str, payment: str, vendor_id: int, payment_type: int
) -> None:
    line = f"{vendor},2010-01-26 07:41:00,2010-01-26 07:45:00,1,0.75,-73.9,40.7,1,,-73.9,40.7,{payment},4.5,0,.5,0,0,5"
    row = rows(read(f"{YELLOW_2010}\n\r\n{line}\r\n", tmp_path, "yellow", Month(2010, 1)))[0]
    assert (row["vendor_id"], row["payment_type"]) == (vendor_id, payment_type)
    assert (row["pickup_longitude"], row["mta_tax"], row["pickup_location_id"]) == (-73.9, 0.5, None)


def test_an_unheard_of_text_code_is_a_bad_value(tmp_path: Path) -> None:
    line = "XYZ,2010-01-26 07:41:00,2010-01-26 07:45:00,1,0.75,-73.9,40.7,1,,-73.9,40.7,CAS,4.5,0,0.5,0,0,5"
    batch = read(f"{YELLOW_2010}\n{line}\n", tmp_path, "yellow", Month(2010, 1))
    assert list(batch.bad_values) == ["vendor_id"]


def test_store_and_forward_of_2009_becomes_the_flag_of_today(tmp_path: Path) -> None:
    header = ",".join(read_contract("yellow").layout(Month(2009, 1), "csv").columns)
    line = "VTS,2009-01-04 02:52:00,2009-01-04 03:02:00,1,2.6,-73.9,40.7,,{},-73.9,40.6,CASH,8.9,0.5,,0,0,9.4"
    text = "\n".join([header, "", *(line.format(flag) for flag in ("0", "1", ""))]) + "\n"
    batch = read(text, tmp_path, "yellow", Month(2009, 1))
    assert [row["store_and_fwd_flag"] for row in rows(batch)] == ["N", "Y", None]


FHV = "dispatching_base_num,pickup_datetime,dropoff_datetime,PULocationID,DOLocationID,SR_Flag"
GOOD = "B00001,2020-01-01 00:30:00,2020-01-01 01:44:00,264,265,"


def read_fhv(text: str | bytes, folder: Path) -> Batch:
    return read(text, folder, "fhv", Month(2020, 1))


@pytest.mark.parametrize(
    "text",
    [
        f"{FHV}\n{GOOD}\n",
        f"{FHV}\r\n{GOOD}\r\n",
        f"{FHV}\n\r\n{GOOD}\r\n",
        f"{FHV}\n\n\r\n{GOOD}\r\n\r\n",
        f"\ufeff{FHV}\n{GOOD}\n",
        f"{FHV}\n{GOOD}",
        f"{FHV}\n{GOOD},,\n",
        f"{FHV.upper()}\n{GOOD}\n",
        '"' + FHV.replace(",", '","') + '"\r\n"' + GOOD.replace(",", '","') + '"\r\n',
        f"{FHV}\n{GOOD.replace('00:30:00', '00:30:00.000000')}\n",
    ],
)
def test_csv_of_every_shape_gives_the_same_row(tmp_path: Path, text: str) -> None:
    batch = read_fhv(text, tmp_path)
    assert batch.raw is None or batch.raw.null_count() == 1
    row = rows(batch)[0]
    assert row["dispatching_base_num"] == "B00001"
    assert row["pickup_datetime"] == datetime(2020, 1, 1, 0, 30)
    assert (row["pickup_location_id"], row["dropoff_location_id"], row["sr_flag"]) == (264, 265, None)


@pytest.mark.parametrize(
    "line",
    [
        "B00001,2020-01-01 00:30:00",
        f"{GOOD},surprise",
        f"{GOOD},,surprise",
        '"B00001,2020-01-01 00:30:00,2020-01-01 01:44:00,264,265,',
        "garbage",
        "B00001,2020-01-01 00:30:00,2020-01-01 01:44:00,264,265,1,2,3,4",
    ],
)
def test_a_line_that_is_no_record_keeps_its_text_and_spoils_no_other(tmp_path: Path, line: str) -> None:
    batch = read_fhv(f"{FHV}\r\n{GOOD}\r\n{line}\r\n{GOOD}\r\n", tmp_path)
    assert batch.raw is not None
    assert batch.raw.to_list() == [None, line, None]
    first, spoilt, last = rows(batch)
    assert spoilt == dict.fromkeys(spoilt) | {"file_month": date(2020, 1, 1), "source_row": 1}
    assert first | {"source_row": 2} == last


def test_a_last_line_cut_short_is_no_record_even_when_only_surplus_fields_are_gone(tmp_path: Path) -> None:
    month = fetched(f"{FHV}\r\n{GOOD},,\r\n{GOOD},", tmp_path, "fhv", Month(2020, 1))
    *_, last = MonthReader(month, read_contract("fhv"))
    assert last.raw is not None
    assert last.raw.to_list() == [f"{GOOD},"]


def test_bytes_that_are_no_text_are_kept_readable(tmp_path: Path) -> None:
    batch = read_fhv(f"{FHV}\n{GOOD}\n".encode() + b"B\xff\xfe,2020\n", tmp_path)
    assert batch.raw is not None
    assert batch.raw.to_list() == [None, r"B\xff\xfe,2020"]


def test_an_empty_csv_month_has_no_batches(tmp_path: Path) -> None:
    reader = MonthReader(fetched(f"{FHV}\r\n", tmp_path, "fhv", Month(2020, 1)), read_contract("fhv"))
    assert list(reader) == []
    assert reader.rows == 0


def test_blocks_do_not_cut_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nyc_tlc.cleaning.csv_records.BLOCK_BYTES", 100)
    lines = [GOOD.replace("B00001", f"B{number:05d}") for number in range(50)]
    month = fetched("\r\n".join([FHV, *lines, ""]), tmp_path, "fhv", Month(2020, 1))
    batches = list(MonthReader(month, read_contract("fhv")))
    assert len(batches) > 10
    bases = [row["dispatching_base_num"] for batch in batches for row in rows(batch)]
    assert bases == [f"B{number:05d}" for number in range(50)]
    assert [row["source_row"] for batch in batches for row in rows(batch)] == list(range(50))


def test_a_gzip_cut_off_in_the_middle_is_damaged(tmp_path: Path) -> None:
    lines = [f"B{number:05d},2020-01-01 00:{number % 60:02d}:00,,{number % 263 + 1},," for number in range(90_000)]
    body = gzip.compress("\r\n".join([FHV, *lines, ""]).encode())
    reader = MonthReader(fetched(body[: len(body) // 2], tmp_path, "fhv", Month(2020, 1)), read_contract("fhv"))
    with pytest.raises(SourceError, match="damaged"):
        list(reader)


def test_a_parquet_with_spoilt_pages_is_damaged(tmp_path: Path) -> None:
    body = bytearray(green_parquet(*(trip(trip_distance=float(number)) for number in range(20_000))))
    body[len(body) // 3 : len(body) // 3 + 3000] = b"\0" * 3000
    reader = MonthReader(fetched(bytes(body), tmp_path), read_contract("green"))
    with pytest.raises(SourceError, match="damaged"):
        list(reader)


def lines_of_fhv(count: int) -> list[str]:
    return [GOOD.replace("B00001", f"B{number:05d}") for number in range(count)]


@pytest.mark.parametrize("neighbours", [0, 4_000])
@pytest.mark.parametrize(
    "line",
    [
        'B00001,2020-01-01 00:30:00,2020-01-01 01:44:00,"26"4,265,',
        '""B"",2020-01-01 00:30:00,2020-01-01 01:44:00,264,265,',
        'B0"1,2020-01-01 00:30:00,2020-01-01 01:44:00,264,265,',
        "B0\r1,2020-01-01 00:30:00,2020-01-01 01:44:00,264,265,",
        '"B01\n',
        "\r",
    ],
)
def test_a_line_is_judged_alike_alone_and_among_thousands(tmp_path: Path, line: str, neighbours: int) -> None:
    sound = lines_of_fhv(neighbours)
    half = len(sound) // 2
    batch = read_fhv("\r\n".join([FHV, *sound[:half], line, *sound[half:], ""]), tmp_path)
    assert batch.raw is not None
    assert [text for text in batch.raw if text is not None] == line.split("\n")[:1] + [""][: line.count("\n") - 1]
    assert batch.frame["pickup_datetime"].count() == neighbours


def test_a_carriage_return_and_a_quoted_line_end_do_not_make_up_for_each_other(tmp_path: Path) -> None:
    one = GOOD.replace("B00001", "B\r1")
    two = GOOD.replace("B00001", '"B\n1"')
    batch = read_fhv(f"{FHV}\n{GOOD}\n{one}\n{GOOD}\n{two}\n{GOOD}\n", tmp_path)
    assert batch.raw is not None
    assert batch.raw.to_list() == [None, one, None, '"B', two.partition("\n")[2], None]


@pytest.mark.parametrize("size_known", [True, False])
def test_a_last_line_without_an_end_counts_where_the_source_says_that_the_file_is_whole(
    tmp_path: Path, size_known: bool
) -> None:
    month = fetched(f"{FHV}\n{GOOD}\n{GOOD}", tmp_path, "fhv", Month(2020, 1), size_known=size_known)
    batches = list(MonthReader(month, read_contract("fhv")))
    raws = [batch.raw[-1] if batch.raw is not None else None for batch in batches]
    assert raws[-1] == (None if size_known else GOOD)


@pytest.mark.parametrize(
    ("text", "read_as"),
    [
        ("2020-01-01 00:30:00", datetime(2020, 1, 1, 0, 30)),
        ("2020-01-01T00:30:00", datetime(2020, 1, 1, 0, 30)),
        ("2020-01-01 00:30:00.25", datetime(2020, 1, 1, 0, 30, 0, 250_000)),
        (" 2020-01-01 00:30:00 ", datetime(2020, 1, 1, 0, 30)),
        ("2020-01-01 00:30", datetime(2020, 1, 1, 0, 30)),
        ("2020-01-01T00:30:00.123456789", datetime(2020, 1, 1, 0, 30, 0, 123456)),
        ("2020-01-01 00:30:00-05:00", datetime(2020, 1, 1, 0, 30)),
        ("2020-07-01T00:30:00.5-0400", datetime(2020, 7, 1, 0, 30, 0, 500_000)),
        ("2020-01-01 00:30-05", datetime(2020, 1, 1, 0, 30)),
        # The hour that occurs twice has both offsets, the hour that is left out has none.
        ("2020-11-01 01:30:00-04:00", datetime(2020, 11, 1, 1, 30)),
        ("2020-11-01 01:30:00-05:00", datetime(2020, 11, 1, 1, 30)),
        ("2020-03-08 02:30:00-05:00", None),
        ("2020-01-01 00:30:00-04:00", None),
        ("2020-07-01 00:30:00-05:00", None),
        ("2020-01-01 00:30:00+00:00", None),
        ("2020-01-01 00:30:00 UTC", None),
        ("2020-01-31 12:30:10 AM", None),
        ("01/31/2020 00:30", None),
        ("2020-01-01", None),
        ("2020-01-01 00:30:60", None),
        ("2020-01-01 00:30:00Z", None),
        ("2020-1-1 00:30:00", None),
        ("01/01/2020 00:30:00", None),
        ("0000-01-01 00:30:00", None),
        ("2020-02-30 00:30:00", None),
    ],
)
@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_times_are_new_yorks_as_tlc_or_iso_writes_them(
    tmp_path: Path, text: str, read_as: datetime | None, file_format: str
) -> None:
    if file_format == "csv":
        batch = read_fhv(f"{FHV}\n{GOOD.replace('2020-01-01 00:30:00', text)}\n", tmp_path)
    else:
        body = green_parquet(trip() | {"lpep_pickup_datetime": text}, types={"lpep_pickup_datetime": pa.string()})
        batch = read(body, tmp_path)
    assert rows(batch)[0]["pickup_datetime"] == read_as
    assert list(batch.bad_values) == ([] if read_as else ["pickup_datetime"])


@pytest.mark.parametrize("text", ["inf", "-inf", "Infinity", "1e999", "nan(1)"])
def test_what_is_no_number_is_a_bad_value_in_csv(tmp_path: Path, text: str) -> None:
    header = ",".join(read_contract("green").layout(Month(2020, 8), "csv").columns)
    line = f"2,2020-08-01 00:00:00,2020-08-01 00:10:00,N,1,74,75,1,1.5,{text},0,0,0,0,,0,10,1,1,0"
    batch = read(f"{header}\n{line}\n", tmp_path, "green", Month(2020, 8))
    assert list(batch.bad_values) == ["fare_amount"]
    assert batch.bad_texts is not None
    assert json.loads(batch.bad_texts[0]) == {"fare_amount": text}


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_infinity_is_a_bad_value_in_parquet(tmp_path: Path, value: float) -> None:
    batch = read(green_parquet(trip(fare_amount=value), trip()), tmp_path)
    assert batch.bad_values["fare_amount"].to_list() == [True, False]
    assert batch.bad_texts is not None
    assert [text and json.loads(text) for text in batch.bad_texts] == [{"fare_amount": str(value)}, None]


def test_a_nul_in_a_text_is_a_bad_value_in_both_formats(tmp_path: Path) -> None:
    batch = read(green_parquet(trip(store_and_fwd_flag="N\0")), tmp_path)
    assert list(batch.bad_values) == ["store_and_fwd_flag"]
    batch = read_fhv(f"{FHV}\n{GOOD.replace('B00001', 'B' + chr(0))}\ngarb{chr(0)}age\n", tmp_path)
    assert list(batch.bad_values) == ["dispatching_base_num"]
    assert batch.raw is not None
    assert batch.raw[1] == r"garb\x00age"
    assert batch.bad_texts is not None
    assert json.loads(batch.bad_texts[0]) == {"dispatching_base_num": "B\0"}
    assert "\0" not in batch.bad_texts[0]


@pytest.mark.parametrize("kind", [pa.decimal256(50, 2), pa.bool_(), pa.list_(pa.int64()), pa.date32()])
def test_a_type_that_holds_no_fare_breaks_the_contract(tmp_path: Path, kind: pa.DataType) -> None:
    with pytest.raises(ContractError, match="fare_amount"):
        read(green_parquet(trip(fare_amount=None), types={"fare_amount": kind}), tmp_path)


def parquet_of(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def test_bytes_that_are_no_text_are_damage_in_parquet(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([trip(), trip()], pa.schema(list(GREEN_2024.items())))
    position = table.schema.get_field_index("store_and_fwd_flag")
    flags = pa.array([b"N", b"\xff\xfe"]).view(pa.string())
    body = parquet_of(table.set_column(position, "store_and_fwd_flag", flags))
    with pytest.raises(SourceError, match="damaged"):
        read(body, tmp_path)


def test_a_flipped_bit_in_a_columns_name_is_damage(tmp_path: Path) -> None:
    body = green_parquet(trip()).replace(b"trip_type", b"trip_t\xf9pe")
    with pytest.raises(SourceError):
        read(body, tmp_path)


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_texts_stored_as_differences_are_read(tmp_path: Path, encoding: str) -> None:
    table = pa.Table.from_pylist([trip(), trip(store_and_fwd_flag="Y")], pa.schema(list(GREEN_2024.items())))
    body = parquet_of(table, use_dictionary=False, column_encoding={"store_and_fwd_flag": encoding})
    assert [row["store_and_fwd_flag"] for row in rows(read(body, tmp_path))] == ["N", "Y"]


def int96(moments: list[datetime | None], *before: pa.Field, **options: Any) -> bytes:
    """Return a month as Spark writes it: times of INT96, behind other columns."""
    schema = pa.schema([*before, *GREEN_2024.items()])
    trips = [trip() | {"lpep_pickup_datetime": moment, "meta": {"a": 1, "b": 2}} for moment in moments]
    return parquet_of(pa.Table.from_pylist(trips, schema), use_deprecated_int96_timestamps=True, **options)


def test_old_nanosecond_times_are_exact_whatever_their_year(tmp_path: Path) -> None:
    moments = [datetime(2024, 1, 15, 12, 0, 0, 123456), datetime(1500, 1, 1), datetime(2500, 1, 1), None]
    batch = read(int96(moments), tmp_path)
    assert [row["pickup_datetime"] for row in rows(batch)] == moments
    assert not batch.bad_values


def test_a_struct_before_old_times_moves_no_value(tmp_path: Path) -> None:
    moment = datetime(2024, 1, 15, 12)
    struct = pa.field("meta", pa.struct([("a", pa.int64()), ("b", pa.int64())]))
    for row in rows(read(int96([moment] * 3, struct), tmp_path)):
        assert (row["vendor_id"], row["payment_type"], row["pickup_datetime"]) == (2, 1, moment)


def test_old_times_in_many_row_groups_with_dictionaries_are_read(tmp_path: Path) -> None:
    moments: list[datetime | None] = [datetime(2024, 1, 1, minute // 60, minute % 60) for minute in range(1_000)]
    batch = read(int96(moments, row_group_size=300), tmp_path)
    assert [row["pickup_datetime"] for row in rows(batch)] == moments


def test_flags_as_booleans_are_y_and_n(tmp_path: Path) -> None:
    trips = (trip(store_and_fwd_flag=flag) for flag in (True, False, None))
    batch = read(green_parquet(*trips, types={"store_and_fwd_flag": pa.bool_()}), tmp_path)
    assert [row["store_and_fwd_flag"] for row in rows(batch)] == ["Y", "N", None]
    trips = (trip(store_and_fwd_flag=flag) for flag in ("True", "false"))
    assert [row["store_and_fwd_flag"] for row in rows(read(green_parquet(*trips), tmp_path))] == ["Y", "N"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.string_view()])
def test_texts_stored_as_bytes_or_views_are_texts(tmp_path: Path, kind: pa.DataType) -> None:
    form = bytes.decode if pa.types.is_string_view(kind) else bytes
    spoilt = {"store_and_fwd_flag": form(b"Y"), "lpep_pickup_datetime": form(b"2024-01-15 12:00:00")}
    body = green_parquet(trip() | spoilt, types=dict.fromkeys(spoilt, kind))
    (row,) = rows(read(body, tmp_path))
    assert (row["store_and_fwd_flag"], row["pickup_datetime"]) == ("Y", datetime(2024, 1, 15, 12))


def test_bytes_that_are_not_utf8_are_damage_in_parquet(tmp_path: Path) -> None:
    body = green_parquet(trip(store_and_fwd_flag=b"\xff"), types={"store_and_fwd_flag": pa.binary()})
    with pytest.raises(SourceError, match="damaged"):
        read(body, tmp_path)


def test_many_small_row_groups_are_one_batch(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([trip()] * 500, pa.schema(list(GREEN_2024.items())))
    assert read(parquet_of(table, row_group_size=1), tmp_path).frame.height == 500


def test_columns_of_one_letter_that_occur_twice_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([trip()], pa.schema(list(GREEN_2024.items())))
    body = parquet_of(table.append_column("a", pa.array([1])).append_column("a", pa.array([1])))
    with pytest.raises(ContractError, match="twice"):
        read(body, tmp_path)


def with_times(*pickups: str) -> str:
    return "\n".join([FHV, *(GOOD.replace("2020-01-01 00:30:00", pickup) for pickup in pickups), ""])


@pytest.mark.parametrize(
    ("pickups", "expected"),
    [
        (
            ["01/02/2020 12:30:10 AM", "01/31/2020 1:05 PM"],
            [datetime(2020, 1, 2, 0, 30, 10), datetime(2020, 1, 31, 13, 5)],
        ),
        (
            ["1/2/2020 12:30:10 pm", "31/1/2020 11:59:59 pm"],
            [datetime(2020, 2, 1, 12, 30, 10), datetime(2020, 1, 31, 23, 59, 59)],
        ),
        (["01/02/2020 12:30:10 AM", "01/03/2020 01:05:00 PM"], [None, None]),
        (["01/31/2020 12:30:10 AM", "31/01/2020 01:05:00 PM"], [None, None]),
        (["01/31/2020 13:30:10 AM", "01/31/2020 00:05:00 PM"], [None, None]),
        (
            ["01/31/2020 12:30:10 AM", "2020-01-02 00:30:00"],
            [datetime(2020, 1, 31, 0, 30, 10), datetime(2020, 1, 2, 0, 30)],
        ),
    ],
)
@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_times_of_twelve_hours_are_read_if_a_day_above_12_shows_their_order(
    tmp_path: Path, file_format: str, pickups: list[str], expected: list[datetime | None]
) -> None:
    if file_format == "csv":
        batch = read_fhv(with_times(*pickups), tmp_path)
    else:
        trips = (trip() | {"lpep_pickup_datetime": pickup} for pickup in pickups)
        batch = read(green_parquet(*trips, types={"lpep_pickup_datetime": pa.string()}), tmp_path)
    assert [row["pickup_datetime"] for row in rows(batch)] == expected
    assert list(batch.bad_values) == (["pickup_datetime"] if None in expected else [])


def test_the_order_of_day_and_month_is_that_of_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nyc_tlc.cleaning.csv_records.BLOCK_BYTES", 100)
    body = with_times(*["01/02/2020 12:30:10 AM"] * 20, "01/31/2020 12:30:10 AM")
    first, *_ = MonthReader(fetched(body, tmp_path, "fhv", Month(2020, 1)), read_contract("fhv"))
    assert rows(first)[0]["pickup_datetime"] == datetime(2020, 1, 2, 0, 30, 10)


@pytest.mark.parametrize(
    "text", ["NA", "N/A", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None", r"\N", "-", " NA "]
)
def test_what_other_tools_write_for_null_is_null_and_counted(tmp_path: Path, text: str) -> None:
    header = ",".join(read_contract("green").layout(Month(2020, 8), "csv").columns)
    line = f"2,2020-08-01 00:00:00,{text},{text},1,74,{text},{text},1.5,9,0,0,0,0,,0,10,1,1,0"
    empty = line.replace(f",{text},", ",,").replace(f",{text},", ",,")
    batch = read(f"{header}\n{line}\n{line}\n{empty}\n", tmp_path, "green", Month(2020, 8))
    columns = ("dropoff_datetime", "store_and_fwd_flag", "dropoff_location_id", "passenger_count")
    assert [[row[name] for name in columns] for row in rows(batch)] == [[None] * 4] * 3
    assert not batch.bad_values
    assert batch.null_texts == dict.fromkeys(columns, 2)


def test_a_code_that_looks_like_null_is_the_code(tmp_path: Path) -> None:
    line = "CMT,2010-01-26 07:41:00,2010-01-26 07:45:00,1,0.75,-73.9,40.7,1,,-73.9,40.7,NA,4.5,0,.5,0,0,5"
    batch = read(f"{YELLOW_2010}\n{line}\n", tmp_path, "yellow", Month(2010, 1))
    assert (rows(batch)[0]["payment_type"], batch.null_texts) == (5, {})


def test_of_two_columns_with_one_name_the_first_value_counts(tmp_path: Path) -> None:
    trips = [trip() | {"vendor.id": vendor, "VendorID": other} for vendor, other in ((1, 2), (None, 2), (None, None))]
    assert [
        row["vendor_id"] for row in rows(read(green_parquet(*trips, types={"vendor.id": pa.int64()}), tmp_path))
    ] == [
        2,
        2,
        None,
    ]


def test_a_row_with_a_value_in_one_of_two_columns_is_not_marked_for_what_the_other_has(tmp_path: Path) -> None:
    both = trip() | {"VendorID": "x", "vendor.id": 2}
    batch = read(green_parquet(both, types={"VendorID": pa.string(), "vendor.id": pa.int64()}), tmp_path)
    assert (rows(batch)[0]["vendor_id"], batch.bad_values) == (2, {})


def test_of_two_columns_that_cannot_be_read_the_first_ones_text_is_kept(tmp_path: Path) -> None:
    both = trip() | {"VendorID": "x", "vendor.id": "y"}
    batch = read(green_parquet(both, types={"VendorID": pa.string(), "vendor.id": pa.string()}), tmp_path)
    assert batch.bad_texts is not None
    assert json.loads(batch.bad_texts[0]) == {"vendor_id": "x"}


def test_a_header_may_have_any_character(tmp_path: Path) -> None:
    header = "Unnamed: 0,,,trip (mi),côté," + FHV.replace("_", ".").replace("PUL", "puL")
    reader = MonthReader(fetched(f"{header}\n0,,,1,2,{GOOD}\n", tmp_path, "fhv", Month(2020, 1)), read_contract("fhv"))
    assert set(reader.column_map.drift) == {"Unnamed: 0", "a column without a name", "trip (mi)", "côté"}
    (batch,) = reader
    assert rows(batch)[0]["pickup_location_id"] == 264


def test_blank_lines_by_the_million_take_no_memory(tmp_path: Path) -> None:
    body = gzip.compress(f"{FHV}\n{GOOD}\n".encode() + b"\n\r\n" * 900_000 + f"{GOOD}\n\r\r\n".encode())
    tracemalloc.start()
    batch = read_fhv(body, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert batch.raw is not None
    assert batch.raw.to_list() == [None, None, "\r"]
    assert peak < 32 << 20


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (f"{FHV},{'x' * 70_000}\n{GOOD}\n", "header line of more than 65,536 bytes"),
        (f"{FHV}\n{GOOD}\n{GOOD}{',' * 70_000}\n", "line of more than 65,536 bytes"),
        (gzip.compress(f"{FHV}\n".encode() + f"{GOOD}\n".encode() * 100_000), "TLC_MAX_EXPANSION"),
    ],
)
def test_files_that_fill_the_memory_are_refused(tmp_path: Path, body: str | bytes, what: str) -> None:
    with pytest.raises(SourceError, match=what):
        read_fhv(body, tmp_path)


def test_how_much_a_file_may_expand_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLC_MAX_EXPANSION", "1000")
    body = gzip.compress(f"{FHV}\n".encode() + f"{GOOD}\n".encode() * 100_000)
    assert read_fhv(body, tmp_path).frame.height == 100_000


def test_a_block_with_one_odd_line_keeps_every_row(tmp_path: Path) -> None:
    sound = lines_of_fhv(20_000)
    lines = [*sound[:7_000], "garbage", *sound[7_000:15_000], GOOD.replace("264", "inf"), *sound[15_000:]]
    batch = read_fhv("\r\n".join([FHV, *lines, ""]), tmp_path)
    assert batch.raw is not None
    assert batch.raw.is_not_null().arg_true().to_list() == [7_000]
    assert batch.bad_values["pickup_location_id"].arg_true().to_list() == [15_001]
    bases = batch.frame["dispatching_base_num"].cast(pl.String).to_list()
    assert bases == [
        *(f"B{n:05d}" for n in range(7_000)),
        None,
        *(f"B{n:05d}" for n in range(7_000, 15_000)),
        "B00001",
        *(f"B{n:05d}" for n in range(15_000, 20_000)),
    ]
