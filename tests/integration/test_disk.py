"""A disk is full, read-only, or becomes read-only: the error is one line, and the lake keeps its month."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from factories import JANUARY, fetched, green_parquet, make_month, trip
from nyc_tlc.cleaning.clean import clean_month
from nyc_tlc.cleaning.publish import publish_month
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import ConfigurationError, LakeError, TlcError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import Manifest

KEYS = Keys("green", JANUARY)
SMALL = green_parquet(trip(), trip())
LARGE = green_parquet(*(trip(fare_amount=number / 7, tip_amount=number / 3) for number in range(40_000)))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def begin(lake: FolderLake, body: bytes, folder: Path) -> Callable[[], Manifest]:
    """Run the month up to its publication. Return a function that publishes it."""
    folder.mkdir(exist_ok=True)
    contract, base = read_contract("green"), lake.find_manifest(KEYS).version
    cleaned = clean_month(fetched(body, folder), contract, folder / "cleaned")
    return lambda: publish_month(cleaned, contract, lake, base, datetime.now(UTC))


def check_line(error: TlcError, why: str) -> None:
    assert re.search(rf"green 2024-01: .*{why}", str(error))
    assert "\n" not in str(error)


def test_a_lake_whose_disk_is_full_keeps_its_month_and_takes_the_next_one_when_there_is_room(
    disk: Path, tmp_path: Path
) -> None:
    lake = FolderLake(disk / "lake")
    old = make_month(lake, SMALL, tmp_path)
    before = {path for path in disk.rglob("*") if path.is_file()}
    publish = begin(lake, LARGE, tmp_path / "new")
    (disk / "ballast").write_bytes(os.urandom((2 << 20) - 400_000))
    with pytest.raises(LakeError) as caught:
        publish()
    check_line(caught.value, "No space left on device")
    assert lake.manifest(KEYS) == old
    (disk / "ballast").unlink()
    assert {path for path in disk.rglob("*") if path.is_file()} == before, "no draft is left"
    remount(disk, "size=64m")
    assert begin(lake, LARGE, tmp_path / "new")() == lake.manifest(KEYS)


def test_a_lake_that_becomes_read_only_keeps_its_month(disk: Path, tmp_path: Path) -> None:
    lake = FolderLake(disk / "lake")
    old = make_month(lake, SMALL, tmp_path)
    publish = begin(lake, green_parquet(trip()), tmp_path / "new")
    remount(disk, "ro")
    with pytest.raises(LakeError) as caught:
        publish()
    check_line(caught.value, "Read-only file system")
    assert lake.manifest(KEYS) == old
    remount(disk, "rw")
    assert publish() == lake.manifest(KEYS)


def test_a_scratch_space_that_is_full_is_one_line(disk: Path, tmp_path: Path) -> None:
    month = fetched(LARGE, tmp_path)
    (disk / "ballast").write_bytes(os.urandom((2 << 20) - 200_000))
    with pytest.raises(ConfigurationError) as caught:
        clean_month(month, read_contract("green"), disk / "cleaned")
    check_line(caught.value, "No space left on device; make room, or set TLC_HOME")
