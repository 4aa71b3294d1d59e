"""A month that its source changed is kept as it was: listed, read as of a time, loaded and compared, in every store."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factories import JANUARY, fetched, green_parquet, make_month, publish_fetched, trip
from nyc_tlc.cleaning.raw import fetch_raw
from nyc_tlc.errors import ArgumentError, LakeError, ReconciliationError
from nyc_tlc.lake.diff import compare
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.history import find_prunable, find_version, keep_version, list_versions, remove_versions
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Month
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import load_month
from stand_ins.gcs import Gcs
from stores import BucketStore, Store, open_store

KEYS = Keys("green", JANUARY)
DAYS = [datetime(2024, 1, day, 12) for day in range(1, 29)]
#: 28 trips, of which two are the same, and a rejected one.
OLD = [*(trip(lpep_pickup_datetime=at) for at in DAYS), trip(lpep_pickup_datetime=DAYS[0]), trip(passenger_count=0)]
#: 3 are dropped, one of them one of the two; 3 have another tip, and one of these no vendor; 2 are added.
NEW = [
    *OLD[6:-2],
    *(each | {"tip_amount": 9.5} for each in OLD[2:4]),
    OLD[4] | {"tip_amount": 9.5, "VendorID": None},
    trip(passenger_count=0),
    trip(lpep_pickup_datetime=DAYS[9], PULocationID=1),
    trip(lpep_pickup_datetime=DAYS[9], PULocationID=2),
    OLD[0],
]


@pytest.fixture(params=["folder", "gcs", "s3", "azure"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return the store of the lake."""
    return open_store(request.param, request, tmp_path)


@pytest.fixture
def lake(tmp_path: Path) -> FolderLake:
    """Return an empty lake."""
    return FolderLake(tmp_path / "lake")


def publish(lake: Lake, folder: Path, *fares: float) -> Manifest:
    return make_month(lake, green_parquet(*(trip(fare_amount=fare) for fare in fares)), folder)


def clean_again(lake: Lake, folder: Path) -> Manifest:
    manifest = lake.manifest(KEYS)
    assert manifest
    return publish_fetched(lake, fetch_raw(manifest, lake, folder), folder)


def names(lake: Lake) -> list[str]:
    return [each.manifest.version for each in list_versions(lake, KEYS)]


@pytest.mark.parametrize("store", ["folder", "gcs"], indirect=True)
def test_a_replaced_month_is_listed_read_as_of_its_time_and_compared(store: Store, tmp_path: Path) -> None:
    lake = store.open_lake()
    old = make_month(lake, green_parquet(*OLD), tmp_path, layout="day")
    new = make_month(lake, green_parquet(*NEW), tmp_path)
    assert names(lake) == [old.version, new.version]
    assert [each.until for each in list_versions(lake, KEYS)] == [new.published_at, None]
    assert lake.list_keys("clean/") == {new.clean.key}, "at rest a month has one clean file"
    for which in (old.version, old.published_at, new.published_at - timedelta(microseconds=1)):
        then = find_version(lake, KEYS, which if isinstance(which, str) else str(which))
        assert then
        for file, was in zip(then.files, old.files, strict=True):
            assert hashlib.sha256(store.read(file.key)).hexdigest() == was.sha256 == file.sha256
    for which in (None, new.version, str(new.published_at), "2999-01-01"):
        assert find_version(lake, KEYS, which) == new
    found = compare((lake, then), (lake, new), tmp_path, tmp_path / "rows.parquet")
    assert (found.only_old, found.only_new, found.both) == (6, 5, 24)
    assert str(found) == "-1 rows; 2 added; 3 dropped; tip_amount differs in 3; vendor_id differs in 1"
    assert found.columns[1].examples == [("2024-01-05 12:00:00", "2", "null")]
    sides = pq.read_table(tmp_path / "rows.parquet", columns=["side"])["side"].to_pylist()
    assert (sides.count("old"), sides.count("new")) == (6, 5)


def test_a_version_is_a_source_file_however_often_it_is_cleaned(lake: FolderLake, tmp_path: Path) -> None:
    first = publish(lake, tmp_path, 1)
    again = clean_again(lake, tmp_path)
    assert names(lake) == [again.version]
    assert (again.published_at, again.replaces) == (first.published_at, None)
    publish(lake, tmp_path, 2)
    third = clean_again(lake, tmp_path)
    assert names(lake) == [again.version, third.version]
    between = str(third.finished_at)
    assert (find_version(lake, KEYS, between) or first).version == third.version
    assert (find_version(lake, KEYS, str(first.published_at)) or third).version == again.version


def test_a_copy_of_what_is_current_is_no_version(store: Store, tmp_path: Path) -> None:
    lake = store.open_lake()
    first = publish(lake, tmp_path, 1)
    # As runs leave it that are killed or refused before they publish.
    keep_version(lake, first)
    keep_version(lake, first)
    again = clean_again(lake, tmp_path)
    assert names(lake) == [again.version]
    assert find_prunable(lake, KEYS, 0) == set(), "another run may be making it"
    last = publish(lake, tmp_path, 2)
    assert names(lake) == [again.version, last.version]
    assert {key.split("/")[3].rpartition(".")[2] for key in lake.list_keys("history/")} == {again.version}


def test_the_newest_versions_are_kept(
    lake: FolderLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = [publish(lake, tmp_path, fare) for fare in range(5)]
    assert names(lake) == [each.version for each in made[1:]]
    with pytest.raises(LakeError, match=rf"does not have the version of .*; got {made[1].version} of"):
        find_version(lake, KEYS, str(made[0].published_at))
    remove_versions(lake, find_prunable(lake, KEYS, 1))
    assert names(lake) == [each.version for each in made[3:]]
    monkeypatch.setenv("TLC_KEEP_VERSIONS", "0")
    made.append(publish(lake, tmp_path, 8))
    # The fifth was not kept: nobody knows what stood after the fourth.
    assert names(lake) == [made[3].version, made[5].version]
    with pytest.raises(LakeError, match="does not have the version of"):
        find_version(lake, KEYS, str(made[4].published_at))
    lake.write(f"{made[3].history_folder}/manifest.json", b"{}")
    assert names(lake) == [made[5].version]
    assert "green 2024-01: a kept version is left out: " in caplog.text


def test_what_is_listed_while_versions_are_removed_is_whole(gcs: Gcs, tmp_path: Path) -> None:
    store = BucketStore(gcs)
    lake = store.open_lake()
    made = [publish(lake, tmp_path, fare) for fare in range(3)]
    listed: list[list[str]] = []

    def look() -> None:
        versions = [each.manifest for each in list_versions(store.open_lake(), KEYS)]
        assert {key for each in versions for key in each.file_keys} <= store.objects()
        listed.append([each.version for each in versions])

    with store.stopping(4, look):
        remove_versions(store.open_lake(held=True), find_prunable(lake, KEYS, 0))
    assert listed == [[made[2].version]]
    assert names(lake) == [made[2].version]


def test_before_its_first_version_a_month_was_not_there(lake: FolderLake, tmp_path: Path) -> None:
    publish(lake, tmp_path, 1)
    assert find_version(lake, KEYS, "2009-01-01") is None
    assert find_version(lake, Keys("green", JANUARY.plus(1)), "2024-06-01") is None
    with pytest.raises(ArgumentError, match="'yesterday' is no version; expected a day"):
        find_version(lake, KEYS, "yesterday")


def test_what_is_broken_is_not_kept_and_keeps_nothing_back(
    lake: FolderLake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lake.remove(publish(lake, tmp_path, 1).source.key)
    second = publish(lake, tmp_path, 2)
    assert "green 2024-01: the old version is not kept: the lake has no raw/green/" in caplog.text
    assert names(lake) == [second.version]
    lake.write(KEYS.manifest, b"{}")
    third = publish(lake, tmp_path, 3)
    assert "the month is replaced and not kept" in caplog.text
    assert names(lake) == [third.version]


def test_without_kept_versions_a_publication_asks_nothing_more(
    gcs: Gcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BucketStore(gcs)

    def count(fare: float) -> tuple[int, bool]:
        store.stand_in.calls.clear()
        publish(store.open_lake(), tmp_path, fare)
        return len(store.stand_in.calls), any("history" in call.path for call in store.stand_in.calls)

    first, _ = count(1)
    asked, _ = count(2)
    monkeypatch.setenv("TLC_KEEP_VERSIONS", "0")
    plain, history = count(3)
    # Three removals: raw, clean and quarantine.
    assert (plain, history) == (first + 3, False)
    assert asked > plain


def test_counts_that_do_not_add_up_fail(lake: FolderLake, tmp_path: Path) -> None:
    manifest = publish(lake, tmp_path, 1, 2)
    wrong = manifest.model_copy(update={"source": manifest.source.model_copy(update={"rows": 3})})
    with pytest.raises(ReconciliationError, match=r"expected \(3, 2\); got \(2, 2\)"):
        compare((lake, wrong), (lake, manifest), tmp_path)


def test_a_kept_version_can_be_loaded_and_loads_says_which(lake: FolderLake, tmp_path: Path) -> None:
    old, new = publish(lake, tmp_path, 1), publish(lake, tmp_path, 1, 2)
    warehouse = DuckDbWarehouse(tmp_path / "warehouse.duckdb")
    for manifest in (new, find_version(lake, KEYS, old.version)):
        assert manifest
        load_month(LakeFile(manifest, lake), warehouse)
        assert warehouse.query("SELECT version, row_count FROM ny_taxi.loads") == [
            (manifest.version, manifest.clean.rows)
        ]
        assert warehouse.query("SELECT count(*) FROM ny_taxi.green_trip_data") == [(manifest.clean.rows,)]


def test_tlc_filled_in_the_vendors_of_december_2020(lake: FolderLake, tmp_path: Path, real_data: Path) -> None:
    month = Month(2020, 12)
    for name in ("csv/green_tripdata_2020-12.csv.gz", "parquet/green_tripdata_2020-12.parquet"):
        publish_fetched(lake, fetched((real_data / name).read_bytes(), tmp_path, month=month), tmp_path)
    old, new = (each.manifest for each in list_versions(lake, Keys("green", month)))
    found = compare((lake, old), (lake, new), tmp_path, tmp_path / "rows.parquet")
    assert (found.only_old, found.only_new, found.both, found.matched) == (36_838, 36_838, 46_292, 36_836)
    assert [(each.name, each.rows) for each in found.columns] == [("vendor_id", 36_836)]
    # Without the vendor the rows are the same, counted here by Arrow.
    rows = pq.read_table(tmp_path / "rows.parquet").drop(["vendor_id", "source_row"])
    sides = [rows.filter(pa.compute.equal(rows["side"], side)).drop("side") for side in ("old", "new")]
    one, other = (each.sort_by([(name, "ascending") for name in each.schema.names]) for each in sides)
    assert one.equals(other)
