"""Months copied from one lake to another: the same bytes, whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from conftest import bucket
from copy_lake import copy_lake
from factories import JANUARY, green_parquet, make_month, trip, without_version
from nyc_tlc.errors import ArgumentError, LakeError, TransientError
from nyc_tlc.lake.copying import copy_month
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.gcs import GcsLake
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.s3 import S3Lake
from nyc_tlc.lake.store import Lake
from stand_ins.gcs import Fault, Gcs
from stand_ins.s3 import S3

KEYS = Keys("green", JANUARY)
BODY = green_parquet(trip(), trip(), trip(passenger_count=0))
OTHER = green_parquet(trip())


@pytest.fixture(params=["folder to s3", "s3 to gcs", "gcs to folder"])
def lakes(request: pytest.FixtureRequest, tmp_path: Path, gcs: Gcs, s3: S3) -> tuple[Lake, Lake]:
    """Return the lake to copy from and the lake to copy to."""
    lakes: dict[str, Lake] = {
        "folder": FolderLake(tmp_path / "lake"),
        "gcs": GcsLake(bucket(gcs.url), "taxi"),
        "s3": S3Lake(s3.client(), s3.bucket, "taxi"),
    }
    source, _, target = request.param.partition(" to ")
    return lakes[source], lakes[target]


def contents(lake: Lake) -> dict[str, bytes]:
    found = {key: lake.read(key) for prefix in ("raw", "clean", "quarantine", "daily") for key in listed(lake, prefix)}
    return {without_version(key): content for key, content in found.items() if content is not None}


def check_copied(target: Lake, manifest: Manifest) -> None:
    """Check that the target has the month: the same manifest but for the versions in the keys."""
    copied = target.manifest(KEYS)
    assert copied is not None
    # The times of a version are those of its lake.
    times = {"published_at": manifest.published_at, "replaces": manifest.replaces}
    same = copied.model_copy(update=times)
    assert without_version(same.to_json().decode()) == without_version(manifest.to_json().decode())
    for file in copied.files:
        assert hashlib.sha256(target.read(file.key) or b"").hexdigest() == file.sha256


def listed(lake: Lake, prefix: str) -> list[str]:
    return sorted(lake.list_keys(f"{prefix}/"))


def test_a_month_is_copied_whole_or_not_at_all_and_another_version_is_kept_unless_forced(
    lakes: tuple[Lake, Lake], tmp_path: Path
) -> None:
    source, target = lakes
    manifest = make_month(source, BODY, tmp_path, layout="day")
    quarantine = source.read(manifest.quarantine.key)
    assert quarantine
    source.write(manifest.quarantine.key, b"something else")
    with pytest.raises(
        LakeError, match=r"green 2024-01: .* is not the file in the manifest; expected [0-9,]+ bytes with"
    ):
        copy_month(source, target, "green", JANUARY, tmp_path)
    assert target.manifest(KEYS) is None
    assert contents(target) == {}
    source.write(manifest.quarantine.key, quarantine)
    assert copy_month(source, target, "green", JANUARY, tmp_path) == "copied"
    check_copied(target, manifest)
    assert contents(target) == contents(source)
    assert copy_month(source, target, "green", JANUARY, tmp_path) == "was there already"
    other = make_month(target, OTHER, tmp_path, layout="day")
    assert copy_month(source, target, "green", JANUARY, tmp_path) == "another version is there"
    assert target.manifest(KEYS) == other
    assert copy_month(source, target, "green", JANUARY, tmp_path, force=True) == "copied"
    check_copied(target, manifest)
    assert contents(target) == contents(source)


def test_a_copy_that_breaks_is_continued_by_the_next_one(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLC_HTTP_RETRIES", "0")
    source, target = FolderLake(tmp_path / "lake"), S3Lake(s3.client(), s3.bucket)
    manifest = make_month(source, BODY, tmp_path)
    s3.faults = [Fault("status", "PUT", "clean", 503)]
    with pytest.raises(TransientError):
        copy_month(source, target, "green", JANUARY, tmp_path)
    assert target.manifest(KEYS) is None
    copy_month(source, target, "green", JANUARY, tmp_path)
    check_copied(target, manifest)
    assert contents(target) == contents(source)


def test_a_month_that_is_not_there_is_one_line(s3: S3, tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="green 2024-01: not in the lake"):
        copy_month(FolderLake(tmp_path / "lake"), S3Lake(s3.client(), s3.bucket), "green", JANUARY, tmp_path)


def test_a_lake_is_not_copied_to_itself() -> None:
    with pytest.raises(ArgumentError, match="local can't be copied to itself; name another profile with --to"):
        copy_lake.fn("green", to="local")
