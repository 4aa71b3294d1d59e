"""Files of every layout are read with the contract's types, nulls for empty values, and faults marked."""

import gzip
import io
import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factories import GREEN_2024, JANUARY, fetched, green_parquet, trip
from nyc_tlc.cleaning.conform import Batch
from nyc_tlc.cleaning.read import MonthReader
from nyc_tlc.contract.contract import read_contract
from nyc_tlc.errors import ContractError, SourceError
from nyc_tlc.months import Color, Month


def read(body: bytes | str, folder: Path, color: Color = "green", month: Month = JANUARY) -> Batch:
    batches = list(MonthReader(fetched(body, folder, color, month), read_contract(color)))
    assert len(batches) == 1
    return batches[0]


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
    ],
)
def test_a_code_of_any_type_becomes_an_integer(tmp_path: Path, kind: pa.DataType, value: object, expected: int) -> None:
    batch = read(green_parquet(trip(passenger_count=value), types={"passenger_count": kind}), tmp_path)
    assert rows(batch)[0]["passenger_count"] == expected
    assert not batch.bad_values


@pytest.mark.parametrize(
    ("kind", "value"),
    [(pa.float64(), 1.5), (pa.float64(), 1e9), (pa.int64(), 70_000), (pa.string(), "two"), (pa.string(), "nan")],
)
def test_a_value_that_cannot_be_cast_is_null_and_marked(tmp_path: Path, kind: pa.DataType, value: object) -> None:
    body = green_parquet(trip(passenger_count=None), trip(passenger_count=value), types={"passenger_count": kind})
    batch = read(body, tmp_path)
    assert [row["passenger_count"] for row in rows(batch)] == [None, None]
    assert batch.bad_values["passenger_count"].to_list() == [False, True]


@pytest.mark.parametrize("kind", [pa.timestamp("us", "UTC"), pa.int64(), pa.bool_()])
def test_a_pickup_time_of_another_nature_breaks_the_contract(tmp_path: Path, kind: pa.DataType) -> None:
    value = {"timestamp[us, tz=UTC]": datetime(2024, 1, 15), "int64": 1, "bool": True}[str(kind)]
    body = green_parquet(trip() | {"lpep_pickup_datetime": value}, types={"lpep_pickup_datetime": kind})
    with pytest.raises(ContractError, match="lpep_pickup_datetime"):
        read(body, tmp_path)


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
        ("2020-01-01", None),
        ("2020-01-01 00:30", None),
        ("2020-01-01 00:30:60", None),
        ("2020-01-01 00:30:00Z", None),
        ("2020-1-1 00:30:00", None),
        ("01/01/2020 00:30:00", None),
        ("0000-01-01 00:30:00", None),
        ("2020-02-30 00:30:00", None),
    ],
)
@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_times_are_as_tlc_writes_them_or_with_isos_t(
    tmp_path: Path, text: str, read_as: datetime | None, file_format: str
) -> None:
    if file_format == "csv":
        batch = read_fhv(f"{FHV}\n{GOOD.replace('2020-01-01 00:30:00', text)}\n", tmp_path)
    else:
        body = green_parquet(trip() | {"lpep_pickup_datetime": text}, types={"lpep_pickup_datetime": pa.string()})
        batch = read(body, tmp_path)
    assert rows(batch)[0]["pickup_datetime"] == read_as
    assert list(batch.bad_values) == ([] if read_as else ["pickup_datetime"])


@pytest.mark.parametrize("text", ["inf", "-inf", "Infinity", "1e999", "nan"])
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


def test_old_nanosecond_times_outside_their_range_are_bad_values_and_the_others_exact(tmp_path: Path) -> None:
    moments = [
        datetime(2024, 1, 15, 12, 0, 0, 123456),
        datetime(1600, 1, 1),
        datetime(2300, 1, 1),
        None,
        datetime(1, 1, 1),
    ]
    table = pa.Table.from_pylist(
        [trip() | {"lpep_pickup_datetime": moment} for moment in moments], pa.schema(list(GREEN_2024.items()))
    )
    batch = read(parquet_of(table, use_deprecated_int96_timestamps=True), tmp_path)
    assert [row["pickup_datetime"] for row in rows(batch)] == [moments[0], None, None, None, None]
    assert batch.bad_values["pickup_datetime"].to_list() == [False, True, True, False, True]
    assert rows(batch)[1]["dropoff_datetime"] == datetime(2024, 1, 15, 12, 10)


def test_many_small_row_groups_are_one_batch(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([trip()] * 500, pa.schema(list(GREEN_2024.items())))
    assert read(parquet_of(table, row_group_size=1), tmp_path).frame.height == 500


def test_columns_of_one_letter_that_occur_twice_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([trip()], pa.schema(list(GREEN_2024.items())))
    body = parquet_of(table.append_column("a", pa.array([1])).append_column("a", pa.array([1])))
    with pytest.raises(ContractError, match="twice"):
        read(body, tmp_path)


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
