"""Read texts as times: as TLC writes them, and as other tools write TLC's times. All are New York wall-clock times."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from nyc_tlc.month import NEW_YORK

#: What is expected of times that can't be read.
TIME_FORM = "times must be New York wall-clock, like 2024-01-31 23:59:59"
#: Zones of New York's times in Parquet files; their wall-clock times are used.
NEW_YORK_ZONES = (NEW_YORK.key, "US/Eastern")
#: The first and the last second of the years 1 to 9999, counted from 1970.
FIRST_SECOND = int(datetime(1, 1, 1, tzinfo=UTC).timestamp())
LAST_SECOND = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
#: A time as TLC writes it or with ISO's T, with or without seconds, a fraction, and an offset of New York. There is no
#: year 0.
ISO_TIME = (
    r"^(?<date>(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])-[0-9]{2}-[0-9]{2})"
    r"[ T](?<minute>(?:[01][0-9]|2[0-3]):[0-5][0-9])(?:(?<second>:[0-5][0-9])(?<fraction>\.[0-9]{1,9})?)?"
    r"(?: ?-(?<offset>0[45])(?::?00)?)?$"
)
#: A time of 12 hours, with the day before or after the month.
TWELVE_HOUR_TIME = (
    r"^(?<first>[0-9]{1,2})/(?<middle>[0-9]{1,2})/(?<year>[1-9][0-9]{3}) "
    r"(?<hour>0?[1-9]|1[0-2])(?<minute>:[0-5][0-9])(?<second>:[0-5][0-9])? ?(?<half>[AaPp][Mm])$"
)
SHORTEST_TIME = len("2024-01-01 00:00:00")

#: Whether the day is before the month in a file's times of 12 hours; None if that is not certain.
FindDayFirst = Callable[[], bool | None]


def read_times(texts: pl.Series, find_day_first: FindDayFirst) -> pl.Series:
    """Return the times of texts without blanks around them, null for missing and unreadable ones.

    ``find_day_first`` is called if a text is a time of 12 hours.
    """
    times = _read_iso_times(texts)
    day_first = find_day_first() if texts.str.contains(TWELVE_HOUR_TIME).any() else None
    if day_first is None:
        return times
    return times.zip_with(times.is_not_null(), _read_twelve_hour_times(texts, day_first))


def read_plain_times(array: pa.Array | pa.ChunkedArray) -> pl.Series | None:
    """Read times as TLC writes them all at once. Return None if one of them needs ``read_times``.

    Arrow also accepts dates without a time and times without seconds; these are found by their length.
    """
    lengths = pc.min_max(pc.binary_length(array)).as_py()
    if lengths["min"] is None or lengths["min"] < SHORTEST_TIME:
        return None
    try:
        times = pc.cast(array, pa.timestamp("us"))
    except pa.ArrowInvalid:
        return None
    if pc.min_max(times.cast(pa.int64()))["min"].as_py() < FIRST_SECOND * 10**6:
        return None
    return pl.Series(times)


def _read_iso_times(texts: pl.Series) -> pl.Series:
    parts = texts.str.extract_groups(ISO_TIME).struct.unnest()
    text = pl.concat_str(
        "date", pl.lit(" "), "minute", pl.col("second").fill_null(":00"), pl.col("fraction").fill_null("")
    )
    time = text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False)
    utc = (time + pl.duration(hours=pl.col("offset").cast(pl.Int64))).dt.replace_time_zone("UTC")
    here = utc.dt.convert_time_zone(NEW_YORK.key).dt.replace_time_zone(None)
    return parts.select(pl.when(pl.col("offset").is_null() | (here == time)).then(time)).to_series()


def _read_twelve_hour_times(texts: pl.Series, day_first: bool) -> pl.Series:
    day, month = ("first", "middle") if day_first else ("middle", "first")
    date = pl.concat_str("year", pl.col(month).str.zfill(2), pl.col(day).str.zfill(2), separator="-")
    second = pl.col("second").fill_null(":00")
    text = pl.concat_str(date, pl.lit(" "), pl.col("hour").str.zfill(2), "minute", second, pl.lit(" "), "half")
    time = text.str.to_uppercase().str.to_datetime("%Y-%m-%d %I:%M:%S %p", time_unit="us", strict=False)
    return texts.str.extract_groups(TWELVE_HOUR_TIME).struct.unnest().select(time).to_series()


def find_day_first(texts: Iterable[pl.Series]) -> bool | None:
    """Return whether the day is before the month in all times of 12 hours, None if no day above 12 shows it."""
    first = middle = 0
    for each in texts:
        parts = each.str.extract_groups(TWELVE_HOUR_TIME).struct.unnest()
        highest = parts.select(pl.col("first", "middle").cast(pl.Int64).max().fill_null(0)).row(0)
        first, middle = max(first, highest[0]), max(middle, highest[1])
    return first > 12 if (first > 12) != (middle > 12) else None


def read_timestamps(name: str, kind: pa.TimestampType) -> pl.Expr:
    """Return a column of timestamps, null outside the years 1 to 9999."""
    second = {"s": 1_000, "ms": 1_000, "us": 10**6, "ns": 10**9}[kind.unit]
    # In New York, the first hours of the year 1 of UTC are in the year 0.
    first, last = (FIRST_SECOND + (86_400 if kind.tz else 0)) * second, (LAST_SECOND + 1) * second - 1
    within = pl.col(name).to_physical().is_between(max(first, -(2**63)), min(last, 2**63 - 1))
    time: pl.Expr = pl.when(within).then(pl.col(name))
    if kind.tz:
        time = time.dt.convert_time_zone(NEW_YORK.key).dt.replace_time_zone(None)
    return time.cast(pl.Datetime("us"), strict=False)
