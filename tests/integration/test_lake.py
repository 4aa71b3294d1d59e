"""Months in a lake: published atomically, replaced without leftover files, with row counts that add up."""

import dataclasses
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from factories import JANUARY, fetched, green_parquet, make_month, publish_fetched, trip, without_version
from nyc_tlc.cleaning.clean import clean_month
from nyc_tlc.cleaning.publish import publish_month
from nyc_tlc.cleaning.raw import fetch_raw
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import ConflictError, LakeError, ReconciliationError, SourceError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.keys import Keys, Layout
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.publication import remove_leftovers
from nyc_tlc.lake.store import Found, Lake, SwapRefusedError
from nyc_tlc.source.fetch import fetch_month
from nyc_tlc.source.published import look_at
from stores import FolderStore, Store, open_store

KEYS = Keys("green", JANUARY)
DAYS = [date(2024, 1, 3), date(2024, 1, 17), date(2023, 12, 31)]


@pytest.fixture(params=["folder", "gcs", "s3", "azure"])
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return the store under test."""
    return open_store(request.param, request, tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    """Return a folder, for what is the same in all stores."""
    return FolderStore(tmp_path / "lake")


def spread(count: int = 6, **changes: object) -> bytes:
    """Return trips of three days, and one trip without passengers."""
    trips = [trip(lpep_pickup_datetime=datetime(*DAYS[n % 3].timetuple()[:3], n % 24), **changes) for n in range(count)]
    return green_parquet(*trips, trip(passenger_count=0))


def start(lake: Lake, body: bytes, folder: Path, layout: Layout = "month") -> Callable[[], Manifest]:
    """Run the month up to its publication. Return a function that publishes it."""
    folder.mkdir()
    contract, base = read_contract("green"), lake.find_manifest(KEYS).version
    cleaned = clean_month(fetched(body, folder), contract, folder / "cleaned", layout=layout)
    return lambda: publish_month(cleaned, contract, lake, base, datetime.now(UTC))


def check_whole(there: Store) -> None:
    """Check that the month's files are exactly those in its manifest, with the manifest's digests."""
    manifest = there.open_lake().manifest(KEYS)
    assert manifest is not None
    assert {key for key in there.objects() if not key.startswith(("manifest/", "history/"))} == manifest.file_keys
    for file in manifest.files:
        assert hashlib.sha256(there.read(file.key)).hexdigest() == file.sha256


def test_a_month_is_what_its_manifest_says_and_nothing_else(there: Store, tmp_path: Path) -> None:
    manifest = make_month(there.open_lake(), spread(), tmp_path)
    (version,) = {key.split(".")[1] for key in there.objects() if not key.startswith("manifest")}
    assert re.fullmatch(r"[0-9a-f]{12}", version)
    assert there.objects() == {
        f"raw/green/green_tripdata_2024-01.{version}.parquet",
        f"clean/green/year=2024/month=01/green_tripdata_2024-01.{version}.parquet",
        f"quarantine/green/year=2024/month=01/green_tripdata_2024-01.{version}.parquet",
        "manifest/green/2024-01.json",
    }
    said = json.loads(there.read("manifest/green/2024-01.json"))
    clean_bytes = there.read(said["clean"]["key"])
    assert said["color"] == "green"
    assert said["month"] == "2024-01"
    assert said["clean"]["bytes"] == len(clean_bytes)
    assert said["clean"]["sha256"] == hashlib.sha256(clean_bytes).hexdigest()
    assert said["source"]["sha256"] == hashlib.sha256(spread()).hexdigest()
    assert said["source"]["rows"] == 7
    assert said["source"]["format"] == "parquet"
    assert said["source"]["columns"][0] == "VendorID"
    assert said["clean"]["rows"] == pq.read_metadata(io.BytesIO(clean_bytes)).num_rows == 6
    quarantined = pq.read_table(io.BytesIO(there.read(said["quarantine"]["key"])))
    assert said["quarantine"]["rows"] == quarantined.num_rows == sum(said["quarantine"]["rules"].values()) == 1
    assert said["quarantine"]["rules"]["zero_passengers"] == 1
    assert said["warnings"]["negative_fare"] == 0
    assert said["drift"] == []
    assert said["flow_run_id"] == "a flow run"
    assert {"url", "etag", "last_modified", "bytes"} <= said["source"].keys()
    assert {"contract_version", "rules_version", "code_version", "started_at", "finished_at"} <= said.keys()
    assert there.read(manifest.source.key) == spread()
    contract = read_contract("green")
    assert pq.read_schema(io.BytesIO(there.read(manifest.clean.key))).equals(contract.clean_schema)
    assert pq.read_schema(io.BytesIO(there.read(manifest.quarantine.key))).equals(contract.quarantine_schema)
    for key in (manifest.clean.key, manifest.quarantine.key):
        metadata = pq.read_metadata(io.BytesIO(there.read(key))).metadata
        assert metadata is not None
        assert metadata[b"nyc_tlc.color"] == b"green"
        assert metadata[b"nyc_tlc.month"] == b"2024-01"
        assert metadata[b"nyc_tlc.source_sha256"] == manifest.source.sha256.encode()
        assert metadata[b"nyc_tlc.contract_version"] == manifest.contract_version.encode()
        assert metadata[b"nyc_tlc.rules_version"] == manifest.rules_version.encode()


def test_what_a_killed_run_has_left_beside_the_month_is_removed_by_the_next_look(there: Store, tmp_path: Path) -> None:
    manifest = make_month(there.open_lake(), spread(), tmp_path)
    whole = there.objects()
    (tmp_path / "file").write_bytes(b"of a run that was killed")
    digest = hashlib.sha256(b"of a run that was killed").hexdigest()
    sent = [manifest.quarantine.key, manifest.source.key, manifest.clean.key]
    for number in (1, 2, 3):
        for key in sent[:number]:
            left = re.sub(r"\.[0-9a-f]{12}\.", ".000000000000.", key)
            there.open_lake().upload(left, tmp_path / "file", digest, {})
        base = there.open_lake().find_manifest(KEYS).version
        assert base is not None
        remove_leftovers(there.open_lake(), manifest, base)
        assert there.objects() == whole
    check_whole(there)


def test_a_run_at_work_is_refused_after_its_files_were_taken_for_leftovers(there: Store, tmp_path: Path) -> None:
    manifest = make_month(there.open_lake(), spread(), tmp_path)
    at_work = start(there.open_lake(), spread(9), tmp_path / "at work")
    base = there.open_lake().find_manifest(KEYS).version
    assert base is not None
    stray = re.sub(r"\.[0-9a-f]{12}\.", ".000000000000.", manifest.quarantine.key)
    there.open_lake().write(stray, b"of a run that was killed")
    remove_leftovers(there.open_lake(), manifest, base)
    with pytest.raises(ConflictError):
        at_work()
    check_whole(there)


def test_a_file_of_the_user_is_never_shared_with_the_lake(folder: Store, tmp_path: Path) -> None:
    source, scratch = tmp_path / "source" / "green_2024-01", tmp_path / "scratch"
    source.parent.mkdir()
    scratch.mkdir()
    source.write_bytes(spread())
    month = fetch_month(look_at(f"file://{source.parent}/{{color}}_{{year}}-{{month:02d}}", "green", JANUARY), scratch)
    manifest = publish_fetched(folder.open_lake(), month, scratch)
    with source.open("ab") as file:
        file.write(b"changed later")
    assert folder.read(manifest.source.key) == spread()


def test_a_file_that_can_not_be_linked_is_copied(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system at /dev/shm")
    with tempfile.NamedTemporaryFile(dir=other) as file:
        file.write(b"rows")
        file.flush()
        FolderLake(tmp_path).upload("raw/x", Path(file.name), hashlib.sha256(b"rows").hexdigest(), {})
    assert (tmp_path / "raw/x").read_bytes() == b"rows"


def test_doing_it_again_gives_the_same_bytes_under_new_keys(folder: Store, tmp_path: Path) -> None:
    first = make_month(folder.open_lake(), spread(), tmp_path, layout="day")
    before = {without_version(key): folder.read(key) for key in first.file_keys}
    second = make_month(folder.open_lake(), spread(), tmp_path, layout="day")
    assert {without_version(key): folder.read(key) for key in second.file_keys} == before
    assert [file.sha256 for file in second.files] == [file.sha256 for file in first.files]
    assert not first.file_keys & folder.objects()


def test_a_month_that_is_cleaned_again_keeps_its_raw_file(there: Store, tmp_path: Path) -> None:
    first = make_month(there.open_lake(), spread(), tmp_path)
    again = publish_fetched(there.open_lake(), fetch_raw(first, there.open_lake(), tmp_path), tmp_path, layout="day")
    assert again.source == first.source
    assert again.clean.sha256 == first.clean.sha256
    assert again.clean.key != first.clean.key
    check_whole(there)


def test_a_raw_file_that_is_not_the_manifests_is_not_cleaned(there: Store, tmp_path: Path) -> None:
    first = make_month(there.open_lake(), spread(), tmp_path)
    there.open_lake().write(first.source.key, spread(9))
    with pytest.raises(LakeError, match=r"green 2024-01: .* is not the file in the manifest; expected [0-9,]+ bytes"):
        fetch_raw(first, there.open_lake(), tmp_path)


def test_a_month_of_no_rows_or_only_rejected_ones_is_a_month(folder: Store, tmp_path: Path) -> None:
    manifest = make_month(folder.open_lake(), green_parquet(), tmp_path)
    assert (manifest.source.rows, manifest.clean.rows, manifest.quarantine.rows) == (0, 0, 0)
    assert pq.read_table(io.BytesIO(folder.read(manifest.clean.key))).num_rows == 0
    manifest = make_month(folder.open_lake(), green_parquet(*[trip(passenger_count=0)] * 5), tmp_path, layout="day")
    assert (manifest.clean.rows, manifest.quarantine.rows) == (0, 5)


def test_day_folders_hold_the_clean_rows_once_more(folder: Store, tmp_path: Path) -> None:
    manifest = make_month(folder.open_lake(), spread(30), tmp_path, layout="day")
    keys = {date.fromisoformat(day.key.split("pickup_date=")[1][:10]): day.key for day in manifest.daily}
    assert sorted(keys) == sorted(DAYS)
    days = {day: pq.read_table(io.BytesIO(folder.read(key))).to_pylist() for day, key in keys.items()}
    for day, rows in days.items():
        assert {row["pickup_datetime"].date() for row in rows} == {day}
    rows = sorted((row for rows in days.values() for row in rows), key=lambda row: row["source_row"])
    assert rows == pq.read_table(io.BytesIO(folder.read(manifest.clean.key))).to_pylist()


def test_a_remade_month_leaves_no_stray_days_and_no_other_month_is_touched(there: Store, tmp_path: Path) -> None:
    february = green_parquet(trip(lpep_pickup_datetime=datetime(2024, 1, 31, 12)))
    make_month(there.open_lake(), february, tmp_path, JANUARY.plus(1), layout="day")
    make_month(there.open_lake(), spread(), tmp_path, layout="day")
    fewer = green_parquet(trip(lpep_pickup_datetime=datetime(2024, 1, 3)))
    make_month(there.open_lake(), fewer, tmp_path, layout="day")
    assert {without_version(key) for key in there.objects() if key.startswith("daily")} == {
        "daily/green/pickup_date=2024-01-03/green_tripdata_2024-01.parquet",
        "daily/green/pickup_date=2024-01-31/green_tripdata_2024-02.parquet",
    }
    make_month(there.open_lake(), fewer, tmp_path, layout="month")
    assert [without_version(key) for key in there.objects() if key.startswith("daily")] == [
        "daily/green/pickup_date=2024-01-31/green_tripdata_2024-02.parquet"
    ]


def test_a_month_remade_from_the_other_format_leaves_no_stray_raw_file(folder: Store, tmp_path: Path) -> None:
    make_month(folder.open_lake(), spread(), tmp_path)
    header = ",".join(read_contract("green").layout(JANUARY, "csv").columns)
    line = "2,2024-01-15 12:00:00,2024-01-15 12:10:00,N,1,74,75,1,1.5,10,1,.5,2,0,,1,14.5,1,1,0"
    make_month(folder.open_lake(), f"{header}\r\n{line}\r\n", tmp_path)
    raw = [without_version(key) for key in folder.objects() if key.startswith("raw")]
    assert raw == ["raw/green/green_tripdata_2024-01.csv"]


def test_nothing_shows_before_it_is_published(folder: Store, tmp_path: Path) -> None:
    clean_month(fetched(spread(), tmp_path), read_contract("green"), tmp_path / "cleaned")
    assert folder.open_lake().manifest(KEYS) is None
    assert folder.objects() == set()


def test_a_month_whose_cleaning_fails_leaves_what_was_there(folder: Store, tmp_path: Path) -> None:
    make_month(folder.open_lake(), spread(), tmp_path)
    before = {key: folder.read(key) for key in folder.objects()}
    body = bytearray(green_parquet(*(trip(trip_distance=float(number)) for number in range(20_000))))
    body[len(body) // 3 : len(body) // 3 + 3000] = b"\0" * 3000
    with pytest.raises(SourceError):
        make_month(folder.open_lake(), bytes(body), tmp_path)
    assert {key: folder.read(key) for key in folder.objects()} == before


def test_accounts_that_do_not_add_up_are_never_published(
    folder: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_month(folder.open_lake(), spread(), tmp_path)
    before = {key: folder.read(key) for key in folder.objects()}
    monkeypatch.setattr("nyc_tlc.cleaning.rules.RuleCheck.rejected", {"zero_passengers": 2})
    with pytest.raises(ReconciliationError, match="green 2024-01"):
        make_month(folder.open_lake(), spread(60), tmp_path)
    assert {key: folder.read(key) for key in folder.objects()} == before


def test_a_swap_needs_the_version_that_is_there(there: Store) -> None:
    lake = there.open_lake()
    lake.swap("manifest/x", b"one", None, {})
    first = lake.find("manifest/x").version
    with pytest.raises(SwapRefusedError):
        lake.swap("manifest/x", b"two", None, {})
    lake.swap("manifest/x", b"two", first, {})
    with pytest.raises(SwapRefusedError):
        lake.swap("manifest/x", b"three", first, {})
    with pytest.raises(SwapRefusedError):
        lake.swap("manifest/y", b"three", first, {})
    assert lake.read("manifest/x") == b"two"
    assert lake.find("manifest/y") == Found(None, None)


def test_of_two_runs_of_one_month_the_later_to_publish_fails_before_it_sends_a_file(
    there: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = there.open_lake()
    slow = start(lake, spread(90), tmp_path / "slow")
    monkeypatch.setattr(lake, "upload", pytest.fail)
    manifest = make_month(there.open_lake(), spread(), tmp_path)
    with pytest.raises(ConflictError, match="green 2024-01: another run"):
        slow()
    assert there.open_lake().manifest(KEYS) == manifest
    check_whole(there)


def test_quarantine_is_sent_first_and_clean_last(tmp_path: Path) -> None:
    sent: list[str] = []

    class Watched(FolderLake):
        def upload(self, key: str, path: Path, sha256: str, labels: Mapping[str, str]) -> None:
            sent.append(key.partition("/")[0])
            super().upload(key, path, sha256, labels)

    make_month(Watched(tmp_path / "lake"), spread(), tmp_path)
    assert sent == ["quarantine", "raw", "clean"], "any leftover of a killed run has a quarantine file beside it"


def test_a_lake_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("a file where the folder should be")
    with pytest.raises(LakeError, match="green 2024-01"):
        make_month(FolderLake(tmp_path / "lake"), spread(), tmp_path)


def test_a_manifest_that_does_not_add_up_cannot_be_read(folder: Store, tmp_path: Path) -> None:
    text = make_month(folder.open_lake(), spread(), tmp_path).to_json()
    Manifest.model_validate_json(text)
    for part, change in (
        ("source", {"rows": 8}),
        ("clean", {"rows": 5}),
        ("quarantine", {"rules": {"zero_passengers": 0}}),
    ):
        said = json.loads(text)
        said[part] |= change
        with pytest.raises(ReconciliationError, match="green 2024-01"):
            Manifest.model_validate(said)


@pytest.mark.parametrize(
    ("trips", "message"),
    [
        ([], "green 2024-01: the file has no rows"),
        (
            [trip(lpep_pickup_datetime=datetime(2024, 10, 5))] * 3 + [trip()],
            r"green 2024-01: 75\.0 % of its 4 rows are rejected; expected at most 50 % \(TLC_MAX_REJECTED\);"
            r" got pickup_outside_month 3; the first one: vendor_id=2, pickup_datetime=2024-10-05 00:00:00",
        ),
    ],
    ids=["no rows", "another month's file"],
)
def test_a_wholly_wrong_file_does_not_replace_a_good_month_unless_forced(
    folder: Store, tmp_path: Path, trips: list[dict[str, object]], message: str
) -> None:
    make_month(folder.open_lake(), spread(), tmp_path)
    before = {key: folder.read(key) for key in folder.objects()}
    contract, base = read_contract("green"), folder.open_lake().find_manifest(KEYS).version
    # The folder's name is not a pattern.
    cleaned = clean_month(fetched(green_parquet(*trips), tmp_path), contract, tmp_path / "clean[x]*?")
    with pytest.raises(SourceError, match=message):
        publish_month(cleaned, contract, folder.open_lake(), base, datetime.now(UTC))
    assert {key: folder.read(key) for key in folder.objects()} == before
    publish_month(cleaned, contract, folder.open_lake(), base, datetime.now(UTC), force=True)
    check_whole(folder)


def test_the_share_that_may_be_rejected_can_be_set(
    folder: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLC_MAX_REJECTED", "10")
    contract = read_contract("green")
    cleaned = clean_month(fetched(spread(6), tmp_path), contract, tmp_path / "cleaned")
    with pytest.raises(SourceError, match=r"14\.3 %"):
        publish_month(cleaned, contract, folder.open_lake(), None, datetime.now(UTC))
    assert folder.objects() == set()
    own = dataclasses.replace(contract, max_rejected=12)
    with pytest.raises(SourceError, match=r"at most 12 % \(green\.yaml\)"):
        publish_month(cleaned, own, folder.open_lake(), None, datetime.now(UTC))
    publish_month(cleaned, dataclasses.replace(own, max_rejected=15), folder.open_lake(), None, datetime.now(UTC))


def test_a_manifest_that_cannot_be_read_is_named_and_replaced(there: Store, tmp_path: Path) -> None:
    make_month(there.open_lake(), spread(), tmp_path)
    for content in (b"", b'{"color": "green", "month": "2024-01", "clean": 7}'):
        there.open_lake().write(KEYS.manifest, content)
        there.open_lake().write("manifest/green/old.json", b"{}")
        with pytest.raises(
            LakeError, match=r"green 2024-01: the manifest .*manifest/green/2024-01\.json can't be read"
        ):
            there.open_lake().manifest(KEYS)
        assert there.open_lake().months("green") == [JANUARY]
        manifest = make_month(there.open_lake(), spread(9), tmp_path)
        there.open_lake().remove("manifest/green/old.json")
        assert there.open_lake().manifest(KEYS) == manifest
        check_whole(there)


def test_files_are_as_others_may_read_them(tmp_path: Path) -> None:
    there = FolderStore(tmp_path / "lake")
    old = os.umask(0o027)
    try:
        make_month(there.open_lake(), spread(), tmp_path)
        there.open_lake().write("backfills/spring.json", b"{}")
    finally:
        os.umask(old)
    modes = {oct(path.stat().st_mode & 0o777) for path in there.root.rglob("*") if path.is_file()}
    assert modes == {"0o640"}
