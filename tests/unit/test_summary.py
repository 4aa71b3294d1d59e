"""A month's summary agrees with its clean rows, and is computed again only for another clean file."""

import json
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from conftest import bucket
from factories import JANUARY, green_parquet, make_month, trip
from nyc_tlc.errors import LakeError, ReconciliationError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.gcs import GcsLake
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.month import COLORS, Color
from nyc_tlc.pages.figures import FIGURES, HISTOGRAMS
from nyc_tlc.pages.summary import count_month, read_summaries, read_summary, summary_key
from nyc_tlc.source.sample import write_sample
from stand_ins.gcs import Gcs


@pytest.fixture
def lake(tmp_path: Path) -> FolderLake:
    return FolderLake(tmp_path / "lake")


def counts(table: pl.DataFrame, part: str) -> dict[str, int]:
    key = pl.col("zone").cast(str) if part == "zone" else pl.col("key")
    counted = table.filter(pl.col("part") == part).group_by(key.alias("key")).agg(pl.col("trips").sum())
    return dict(counted.iter_rows())


def test_a_small_month_is_counted_as_by_hand(lake: FolderLake, tmp_path: Path) -> None:
    monday_morning = datetime(2024, 1, 15, 8)
    body = green_parquet(
        trip(lpep_pickup_datetime=monday_morning, trip_distance=0.5, fare_amount=10.0, tip_amount=2.0),
        trip(lpep_pickup_datetime=monday_morning, trip_distance=25.0, PULocationID=265, payment_type=2, tip_amount=0.0),
        trip(lpep_pickup_datetime=datetime(2024, 1, 16, 23, 59), fare_amount=-3.0, total_amount=-3.5, RatecodeID=None),
        trip(passenger_count=0),
        trip(passenger_count=0, trip_distance=-1.0),
    )
    table = read_summary(lake, make_month(lake, body, tmp_path))
    assert counts(table, "day") == {"2024-01-15": 2, "2024-01-16": 1}
    assert counts(table, "hour") == {"1 08": 2, "2 23": 1}
    assert counts(table, "zone") == {"74": 2, "265": 1}
    assert counts(table, "distance") == {"0": 1, "1": 1, "20+": 1}
    assert counts(table, "duration") == {"10": 3}
    assert counts(table, "dropoff") == {"75": 3}
    assert counts(table, "fare") == {"10": 2, "<0": 1}
    assert counts(table, "tip_share") == {"20": 1, "0": 1, "unknown": 1}
    assert counts(table, "payment") == {"1": 2, "2": 1}
    assert counts(table, "rate") == {"1": 2, "unknown": 1}
    assert {rule: rows for rule, rows in counts(table, "rejected").items() if rows} == {"zero_passengers": 2}
    assert counts(table, "warned")["negative_fare"] == 1
    zone = table.row(by_predicate=(pl.col("part") == "zone") & (pl.col("zone") == 74), named=True)
    assert (zone["revenue_sum"], zone["miles_sum"], zone["minutes_sum"]) == (11.0, 2.0, 20.0)
    examples = [json.loads(text) for text in table.filter(pl.col("part") == "example")["text"]]
    assert [each["source_row"] for each in examples] == [3, 4]
    assert examples[1]["rejection_rules"] == ["zero_passengers", "negative_distance"]


def test_what_no_mean_can_bear_is_counted_and_left_out_of_sums(lake: FolderLake, tmp_path: Path) -> None:
    noon = datetime(2024, 1, 15, 12)
    body = green_parquet(
        trip(trip_distance=100.0, total_amount=2000.0, tip_amount=500.0),
        trip(trip_distance=259777.0, total_amount=401_092.32, tip_amount=500.01),
        trip(lpep_dropoff_datetime=datetime(2024, 1, 16, 11, 59)),
        trip(lpep_pickup_datetime=noon, lpep_dropoff_datetime=noon, trip_distance=7.0, tip_amount=3.0, payment_type=2),
    )
    table = read_summary(lake, make_month(lake, body, tmp_path))
    zone = table.row(by_predicate=pl.col("part") == "zone", named=True)
    found = {name: tuple(zone[f"{name}_{part}"] for part in ("sum", "trips", "left_out")) for name in FIGURES}
    assert found["miles"] == (108.5, 3, 1)
    assert found["revenue"] == (2029.0, 3, 1)
    assert found["minutes"] == (20.0, 3, 1)
    # Tips in cash are not recorded, and who took no time had no speed.
    assert found["tip"] == (502.0, 2, 1)
    assert found["mph"] == (pytest.approx(1.5 / (23 + 59 / 60)), 1, 2)


def test_a_tip_of_15_percent_is_counted_where_15_begins(lake: FolderLake, tmp_path: Path) -> None:
    # In floating point, 2.55 of 17 dollars are a little less.
    body = green_parquet(trip(fare_amount=17.0, tip_amount=2.55), trip(fare_amount=17.0, tip_amount=2.54))
    assert counts(read_summary(lake, make_month(lake, body, tmp_path)), "tip_share") == {"15": 1, "10": 1}


@pytest.mark.parametrize("color", COLORS)
def test_every_part_of_every_color_counts_all_trips(color: Color, lake: FolderLake, tmp_path: Path) -> None:
    source = tmp_path / "sample.parquet"
    write_sample(color, JANUARY, 3_000, source)
    manifest = make_month(lake, source.read_bytes(), tmp_path, color=color)
    table = read_summary(lake, manifest)
    parts = {part: sum(counts(table, part).values()) for part in ("day", "hour", "zone", "duration")}
    assert set(parts.values()) == {manifest.clean.rows}
    for name, histogram in HISTOGRAMS.items():
        assert set(counts(table, name)) <= {*histogram.labels, "unknown"}
    revenue = table.filter(pl.col("part") == "zone")["revenue_sum"]
    assert revenue.null_count() == (len(revenue) if color == "fhv" else 0)


def test_a_clean_file_with_other_rows_than_its_manifest_is_not_counted(lake: FolderLake, tmp_path: Path) -> None:
    manifest = make_month(lake, green_parquet(trip(), trip()), tmp_path)
    other = manifest.clean.model_copy(update={"rows": 3})
    with pytest.raises(ReconciliationError, match="expected 3 rows; got 2"):
        count_month(lake, manifest.model_copy(update={"clean": other}))


def test_a_clean_file_that_is_damaged_is_named(lake: FolderLake, tmp_path: Path) -> None:
    manifest = make_month(lake, green_parquet(trip()), tmp_path)
    lake.local_path(manifest.clean.key).write_bytes(b"not a Parquet file")
    with pytest.raises(LakeError, match=r"green 2024-01: .*parquet can't be counted"):
        read_summary(lake, manifest)


def test_a_month_in_a_bucket_is_counted_too(gcs: Gcs, lake: FolderLake, tmp_path: Path) -> None:
    body = green_parquet(trip(), trip(PULocationID=265))
    here, there = (
        read_summary(each, make_month(each, body, tmp_path)) for each in (lake, GcsLake(bucket(gcs.url), "t"))
    )
    assert here.equals(there)


def test_a_summary_is_kept_until_the_clean_file_is_another(lake: FolderLake, tmp_path: Path) -> None:
    def made() -> int:
        return lake.local_path(summary_key(old)).stat().st_mtime_ns

    old = make_month(lake, green_parquet(trip()), tmp_path)
    read_summary(lake, old)
    first_made = made()
    assert sum(counts(read_summary(lake, old), "day").values()) == 1
    assert made() == first_made, "it was counted once"
    new = make_month(lake, green_parquet(trip(), trip()), tmp_path)
    assert sum(counts(read_summary(lake, new), "day").values()) == 2


def test_a_month_without_rows_has_a_summary(lake: FolderLake, tmp_path: Path) -> None:
    manifest: Manifest = make_month(lake, green_parquet(), tmp_path)
    assert counts(read_summary(lake, manifest), "day") == {}
    assert read_summaries(lake, [manifest], lambda month, table: (month, table.height > 0)) == [(manifest, True)]
