"""What a backfill says of space before it fetches anything, and a disk that is too small."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from conftest import bucket
from nyc_tlc.errors import ConfigurationError
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.gcs import GcsLake
from nyc_tlc.month import Month
from nyc_tlc.planning.month_plan import MonthPlan, Need
from nyc_tlc.planning.space import check_space, describe_space
from nyc_tlc.source.location import RemoteFile
from stand_ins.gcs import Gcs

PETABYTE = 10**15


def planned(month: int, size: int | None, need: Need = "ingest") -> MonthPlan:
    """Return the plan of a month of 2024 whose file has a size."""
    remote = RemoteFile("green", Month(2024, month), "https://somewhere/month", bytes=size)
    return MonthPlan("green", Month(2024, month), need, "why", remote)


def test_the_plan_says_what_is_fetched_what_it_becomes_and_what_is_free_where_the_lake_is(tmp_path: Path) -> None:
    plans = [planned(1, 600_000_000), planned(2, 400_000_000), planned(3, None), planned(4, 10**12, "current")]
    said = describe_space(plans, FolderLake(tmp_path / "lake"), ["duckdb"])
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize / 1e9
    described = re.fullmatch(
        r"3 months are due: 1\.0 GB to fetch, about 2\.1 GB in the lake, 2\.7 GB in duckdb, "
        r"the source does not say how large 1 of them are; ([\d.,]+) GB are free at (.*)",
        said,
    )
    assert described, said
    assert float(described[1].replace(",", "")) == pytest.approx(free, abs=2)
    assert described[2] == str(tmp_path / "lake")


def test_months_that_do_not_fit_are_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    lake = FolderLake(tmp_path / "lake")
    check_space([planned(1, 1_000_000)], lake, ["duckdb"])
    check_space([planned(1, PETABYTE, "current")], lake, ["duckdb"])
    with pytest.raises(
        ConfigurationError, match=r"too small for the months that are due; expected about 4,800,000\.0 GB"
    ):
        check_space([planned(1, PETABYTE)], lake, ["duckdb"])


def test_a_bucket_needs_no_room_here_and_a_warehouse_beside_it_does(gcs: Gcs) -> None:
    lake = GcsLake(bucket(gcs.url))
    check_space([planned(1, PETABYTE)], lake, ["bigquery"])
    with pytest.raises(ConfigurationError, match=r"expected about 2,700,000\.0 GB free"):
        check_space([planned(1, PETABYTE)], lake, ["duckdb"])
