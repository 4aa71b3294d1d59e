"""Generate months that look like TLC's, without a network: for the demo, the tests and the benchmarks.

A sample has the column names, order and types that TLC published for that month. About as many of its rows as in the
real files have flaws: a pick-up in a neighbouring month or at the default time of a meter clock, no passengers, a
reversal of an earlier fare, a drop-off before the pick-up, an impossible distance. As in the real files, the optional
fields of a block of rows at the end are null. The rows depend only on the colour, the month and their number.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nyc_tlc.contract.dataset import Contract, FileFormat, read_contract
from nyc_tlc.month import Color, Month

Array = npt.NDArray[Any]
#: A generated column: its values, and a mask of those that are null, or None.
Values = tuple[Array, Array | None]

CHUNK_ROWS = 1 << 20
#: Trips in each hour of the day, in percent of the busiest hour.
HOURLY = np.array([40, 28, 19, 13, 10, 12, 25, 50, 65, 68, 70, 76, 82, 84, 88, 90, 88, 95, 100, 92, 84, 80, 74, 56])
#: The first month in which a block of rows at the end of the taxi files lacks passenger_count and other fields.
NULL_BLOCK_SINCE = Month(2018, 7)
#: Two default times of meter clocks that lost the time, and the time of one that is ahead.
LOST_CLOCKS = np.array(["2008-12-31T23:05:12", "2009-01-01T00:02:37", "2041-08-17T16:20:41"], "datetime64[us]")
#: Column -> mean and standard deviation in degrees.
COORDINATES = {
    "pickup_longitude": (-73.975, 0.03),
    "pickup_latitude": (40.751, 0.025),
    "dropoff_longitude": (-73.974, 0.035),
    "dropoff_latitude": (40.751, 0.03),
}

SECOND = np.timedelta64(1, "s")


def write_sample(color: Color, month: Month, rows: int, path: Path) -> None:
    """Write a month's Parquet file as TLC would have published it."""
    schema = read_contract(color).layout(month, "parquet").schema
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
        for chunk in generate_rows(color, month, rows, "parquet"):
            writer.write_table(pa.table(chunk, schema=schema), row_group_size=CHUNK_ROWS)


def generate_rows(color: Color, month: Month, rows: int, file_format: FileFormat) -> Iterator[dict[str, pa.Array]]:
    """Yield chunks of rows with the columns of the month's layout."""
    contract = read_contract(color)
    make = {"yellow": _make_taxi, "green": _make_taxi, "fhv": _make_fhv, "fhvhv": _make_fhvhv}[color]
    for start in range(0, max(rows, 1), CHUNK_ROWS):
        rng = np.random.default_rng([zlib.crc32(color.encode()), month.year, month.month, rows, start])
        clean = make(rng, color, month, rows, np.arange(start, min(start + CHUNK_ROWS, rows)))
        yield _apply_layout(clean, contract, month, file_format)


def _apply_layout(
    clean: dict[str, Values], contract: Contract, month: Month, file_format: FileFormat
) -> dict[str, pa.Array]:
    """Return clean columns with the names and types of the month's layout."""
    schema = contract.layout(month, file_format).schema
    rows = len(clean["pickup_datetime"][0])
    sources = contract.map_columns(schema.names, month, file_format).sources
    columns = {sources[column.name][-1]: column for column in contract.columns if sources.get(column.name)}
    # Until 2014 (CSV) or 2010 (Parquet, where the column is text) codes were abbreviations.
    as_texts = contract.color == "yellow" and month < Month(2015, 1)
    chunk = {}
    for published, kind in zip(schema.names, schema.types, strict=True):
        column = columns.get(published)
        if column is None or column.name not in clean or pa.types.is_null(kind):
            filler = pa.array(np.arange(rows)) if pa.types.is_int64(kind) else pa.nulls(rows)
            chunk[published] = filler.cast(kind)
            continue
        values, null = clean[column.name]
        if pa.types.is_string(kind) and as_texts and column.codes:
            texts = {int(code): text for text, code in reversed(list(column.text_codes.items()))}
            values = np.array([texts.get(code, str(code)) for code in range(100)], object)[values]
        array = pa.array(values, mask=null)
        if pa.types.is_string(kind) and file_format == "parquet" and pa.types.is_timestamp(array.type):
            array = pc.strftime(array.cast(pa.timestamp("s")), "%Y-%m-%d %H:%M:%S")
        chunk[published] = array if file_format == "csv" else array.cast(kind, safe=False)
    return chunk


def _generate_times(rng: np.random.Generator, month: Month, progress: Array, jitter: int) -> tuple[Array, Array]:
    """Generate pick-up times, nearly in order and distributed as in HOURLY, and durations in seconds."""
    hours = int((month.end - month.start).total_seconds()) // 3600
    weights = np.resize(HOURLY, hours).cumsum()
    second = np.interp(progress * weights[-1], np.concatenate([[0], weights]), np.arange(hours + 1) * 3600.0)
    second = np.abs(second + rng.normal(0, jitter, len(progress)))
    second = np.minimum(second, 2 * (hours * 3600 - 1) - second)
    pickup = np.datetime64(month.start, "us") + second.astype(np.int64) * SECOND
    duration = np.exp(rng.normal(6.5, 0.65, len(progress))).astype(np.int64)
    return pickup, duration


def _choose_rows(rng: np.random.Generator, rows: int, share: float, free: Array) -> Array:
    """Choose rows for a flaw, at least one, among those marked in ``free``, and unmark them."""
    sound = np.flatnonzero(free)
    count = min(len(sound), max(1, round(rows * share)))
    chosen = rng.choice(sound, count, replace=False)
    free[chosen] = False
    return chosen


def _make_dropoffs(rng: np.random.Generator, month: Month, pickup: Array, duration: Array, free: Array) -> Array:
    """Return drop-off times. Change some times: wrong clocks, neighbour months, drop-off first, the repeated hour."""
    rows = len(pickup)
    lost = _choose_rows(rng, rows, 8e-6, free)
    pickup[lost] = LOST_CLOCKS[rng.integers(0, 3, len(lost))]
    spill = _choose_rows(rng, rows, 3e-5, free)
    before = rng.random(len(spill)) < 0.5
    minutes = rng.integers(1, 600, len(spill)) * 60 * SECOND
    pickup[spill] = np.where(before, np.datetime64(month.start) - minutes, np.datetime64(month.end) + minutes)
    dropoff = pickup + duration * SECOND
    first = _choose_rows(rng, rows, 4e-5, free)
    dropoff[first] = pickup[first] - rng.integers(1, 3600, len(first)) * SECOND
    long = _choose_rows(rng, rows, 5e-5, free)
    dropoff[long] = pickup[long] + rng.integers(86_500, 200_000, len(long)) * SECOND
    repeated = np.datetime64(month.dst_end, "us")
    over = (pickup >= repeated) & (dropoff >= repeated + 3600 * SECOND) & (pickup < repeated + 3600 * SECOND)
    dropoff[over & (duration < 3600) & (rng.random(rows) < 0.5)] -= 3600 * SECOND
    return dropoff


def _draw(rng: np.random.Generator, rows: int, shares: dict[Any, float]) -> Array:
    """Draw values by their shares, from a table of 10,000: faster than ``Generator.choice``."""
    values = list(shares)
    counts = np.round(np.array(list(shares.values())) * 10_000).astype(int)
    table = np.repeat(np.array(values), counts)
    return table[rng.integers(0, len(table), rows)]


def _draw_zones(rng: np.random.Generator, rows: int) -> Array:
    """Draw zones 1 to 263, some much more often than others, and a few of 264 (unknown) and 265 (outside)."""
    busy = 1.0 / np.arange(1, 264)
    shuffled = np.random.default_rng(263).permutation(np.arange(1, 264))
    shares = dict(zip(shuffled.tolist(), (0.99 * busy / busy.sum()).tolist(), strict=True))
    return _draw(rng, rows, shares | {264: 0.007, 265: 0.003})


def _draw_miles(rng: np.random.Generator, rows: int, free: Array, digits: int) -> Array:
    """Draw distances in miles, 3.5 % of them zero and a few impossible."""
    miles = np.round(np.exp(rng.normal(0.65, 0.85, rows)), digits)
    miles[rng.random(rows) < 0.035] = 0
    far = _choose_rows(rng, rows, 4e-4, free)
    miles[far] = np.round(100 + 259_677.22 * rng.random(len(far)) ** 8, digits)
    return miles


def _make_taxi(rng: np.random.Generator, color: Color, month: Month, rows: int, position: Array) -> dict[str, Values]:
    yellow, count = color == "yellow", len(position)
    block_share = (0.05 if yellow else 0.10) if month >= NULL_BLOCK_SINCE else 0.0
    block_start = rows - round(rows * block_share)
    in_block = position >= block_start
    progress = np.where(in_block, (position - block_start) / max(rows - block_start, 1), position / max(block_start, 1))
    pickup, duration = _generate_times(rng, month, progress, 900)
    free = np.ones(count, bool)
    dropoff = _make_dropoffs(rng, month, pickup, duration, free)
    miles = _draw_miles(rng, count, free, 2)
    null_in_block = None if not in_block.any() else in_block
    passengers = _draw(rng, count, {1: 0.76, 2: 0.14, 3: 0.04, 4: 0.02, 5: 0.02, 6: 0.02}).astype(np.int64)
    passengers[_choose_rows(rng, count, 0.011 if yellow else 0.006, free & ~in_block)] = 0
    payment = _draw(rng, count, {1: 0.76, 2: 0.215, 3: 0.005, 4: 0.015, 5: 0.005}).astype(np.int64)
    if yellow:
        payment[in_block] = 0
    rate = _draw(rng, count, {1: 0.945, 2: 0.035, 3: 0.003, 4: 0.002, 5: 0.01, 99: 0.005}).astype(np.int64)
    vendors = {1: 0.24, 2: 0.7585, 6: 0.0015} if month >= Month(2020, 1) else {1: 0.48, 2: 0.52}
    if month < Month(2011, 1):
        vendors = {1: 0.47, 2: 0.5, 3: 0.03}
    elif month >= Month(2025, 1):
        vendors = {1: 0.2, 2: 0.79, 5: 0.0005, 6: 0.0015, 7: 0.008}
    fare = np.round(3.0 + 0.7 * np.floor(np.minimum(miles, 60) * 3.2 + duration / 90), 2)
    tip = np.where(payment == 1, np.round(fare * rng.integers(10, 31, count) / 100, 2), 0.0)
    amounts = {
        "fare_amount": fare,
        "extra": _draw(rng, count, {0.0: 0.4, 0.5: 0.15, 1.0: 0.2, 2.5: 0.2, 5.0: 0.05}),
        "mta_tax": np.full(count, 0.5),
        "tip_amount": tip,
        "tolls_amount": _draw(rng, count, {0.0: 0.93, 6.94: 0.07}),
        "improvement_surcharge": np.full(count, 1.0 if month >= Month(2022, 12) else 0.3),
        "congestion_surcharge": _draw(rng, count, {2.5: 0.92, 0.0: 0.08}),
        "airport_fee": _draw(rng, count, {0.0: 0.91, 1.75: 0.09}),
        "cbd_congestion_fee": _draw(rng, count, {0.75: 0.74, 0.0: 0.26}),
    }
    amounts["total_amount"] = np.round(sum(amounts.values(), np.zeros(count)), 2)
    pickup_zone, dropoff_zone = _draw_zones(rng, count), _draw_zones(rng, count)
    vendor = _draw(rng, count, vendors)
    later = free & ~in_block
    later[:1] = False
    reversal = _choose_rows(rng, count, 0.011 if yellow else 0.003, later)
    for values in (vendor, pickup, dropoff, pickup_zone, dropoff_zone, miles, *amounts.values()):
        values[reversal] = values[reversal - 1]
    for values in amounts.values():
        values[reversal] *= -1
    coordinates = {name: np.round(rng.normal(*spread, count), 6) for name, spread in COORDINATES.items()}
    surcharges = ("congestion_surcharge",) if not yellow else ("congestion_surcharge", "airport_fee")
    columns: dict[str, Values] = {name: (values, None) for name, values in (amounts | coordinates).items()}
    columns |= {name: (amounts[name], null_in_block) for name in surcharges}
    columns |= {
        "vendor_id": (vendor, None),
        "pickup_datetime": (pickup, None),
        "dropoff_datetime": (dropoff, None),
        "passenger_count": (passengers, null_in_block),
        "trip_distance": (miles, None),
        "rate_code": (rate, null_in_block),
        "store_and_fwd_flag": (_draw(rng, count, {"N": 0.995, "Y": 0.005}), null_in_block),
        "pickup_location_id": (pickup_zone, None),
        "dropoff_location_id": (dropoff_zone, None),
        "payment_type": (payment, None if yellow else null_in_block),
        "trip_type": (_draw(rng, count, {1: 0.97, 2: 0.03}), null_in_block),
        "ehail_fee": (np.zeros(count), np.ones(count, bool)),
    }
    if month < Month(2010, 1):
        del columns["store_and_fwd_flag"]  # all null in the files
    return columns


def _make_fhv(rng: np.random.Generator, color: Color, month: Month, rows: int, position: Array) -> dict[str, Values]:
    count = len(position)
    pickup, duration = _generate_times(rng, month, position / max(rows, 1), 6 * 3600)
    dropoff = _make_dropoffs(rng, month, pickup, duration, np.ones(count, bool))
    base = np.array([f"B{number:05d}" for number in np.random.default_rng(1).integers(1, 3400, 500)])
    dispatching = base[(rng.random(count) ** 3 * len(base)).astype(int)]
    other = rng.random(count) < 0.1
    affiliated = np.where(other, base[rng.integers(0, len(base), count)], dispatching)
    return {
        "dispatching_base_num": (dispatching, None),
        "pickup_datetime": (pickup, None),
        "dropoff_datetime": (dropoff, None),
        "pickup_location_id": (_draw_zones(rng, count), rng.random(count) < 0.2),
        "dropoff_location_id": (_draw_zones(rng, count), rng.random(count) < 0.2),
        "affiliated_base_number": (affiliated, rng.random(count) < 0.01),
    }


def _make_fhvhv(rng: np.random.Generator, color: Color, month: Month, rows: int, position: Array) -> dict[str, Values]:
    """Generate high-volume for-hire trips; Uber reports some columns that Lyft does not."""
    count = len(position)
    pickup, duration = _generate_times(rng, month, position / max(rows, 1), 900)
    free = np.ones(count, bool)
    dropoff = _make_dropoffs(rng, month, pickup, duration, free)
    uber = rng.random(count) < 0.73
    ubers = np.array([f"B0{number}" for number in (2764, 2872, 2875, 2887, 2682, 2864, 2869, 2765, 2870, 2617)])
    base = np.where(uber, ubers[rng.integers(0, len(ubers), count)], "B02510")
    wait = rng.integers(60, 900, count)
    miles = _draw_miles(rng, count, free, 3)
    fare = np.round(7.0 + np.minimum(miles, 60) * 1.6 + duration * 0.006 + rng.random(count), 2)
    refund = _choose_rows(rng, count, 1e-4, free)
    fare[refund] *= -1
    tolls = _draw(rng, count, {0.0: 0.92, 6.94: 0.08})
    rides = {
        "shared_request_flag": {"N": 0.98, "Y": 0.02},
        "shared_match_flag": {"N": 0.995, "Y": 0.005},
        "wav_request_flag": {"N": 0.998, "Y": 0.002},
        "wav_match_flag": {"N": 0.93, "Y": 0.07},
    }
    flags = {name: (_draw(rng, count, shares), None) for name, shares in rides.items()}
    blank = " " if month < Month(2021, 1) else "N"
    return {
        "hvfhs_license_num": (np.where(uber, "HV0003", "HV0005"), None),
        "dispatching_base_num": (base, None),
        "originating_base_num": (base, ~uber),
        "request_datetime": (pickup - wait * SECOND, None),
        "on_scene_datetime": (pickup - (wait // 4) * SECOND, ~uber),
        "pickup_datetime": (pickup, None),
        "dropoff_datetime": (dropoff, None),
        "pickup_location_id": (_draw_zones(rng, count), None),
        "dropoff_location_id": (_draw_zones(rng, count), None),
        "trip_miles": (miles, None),
        "trip_time": (duration, None),
        "base_passenger_fare": (fare, None),
        "tolls": (tolls, None),
        "bcf": (np.round(fare * 0.0275, 2), None),
        "sales_tax": (np.round(fare * 0.08875, 2), None),
        "congestion_surcharge": (_draw(rng, count, {2.75: 0.38, 0.0: 0.62}), None),
        "airport_fee": (_draw(rng, count, {0.0: 0.92, 2.5: 0.08}), None),
        "tips": (np.where(rng.random(count) < 0.18, np.round(fare * 0.2, 2), 0.0), None),
        "driver_pay": (np.round(fare * 0.78, 2), None),
        "access_a_ride_flag": (np.where(uber, blank, "N"), None),
        **flags,
        "cbd_congestion_fee": (_draw(rng, count, {1.5: 0.35, 0.0: 0.65}), None),
    }
