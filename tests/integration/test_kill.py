"""A run killed anywhere leaves the month as it was or none, never a half; the next run makes it whole."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from factories import JANUARY, green_parquet, make_month, trip
from nyc_tlc.lake import Keys
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.manifest import Manifest

ROOT = Path(__file__).parents[2]
KEYS = Keys("green", JANUARY)
OLD = green_parquet(*(trip(lpep_pickup_datetime=datetime(2024, 1, day)) for day in (3, 4, 5)))
NEW = green_parquet(*(trip(lpep_pickup_datetime=datetime(2024, 1, day)) for day in (4, 6)), trip(passenger_count=0))


def run_until(lake: Path, source: Path, die_at: int) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'flows'}:{ROOT / 'tests'}"}
    command = [sys.executable, str(Path(__file__).with_name("die_at.py")), str(lake), str(source), str(die_at)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def check_whole(lake: FolderLake, manifest: Manifest) -> None:
    """The files are those the manifest names, and the days are no others."""
    clean = lake.path(manifest.clean.key).read_bytes()
    assert hashlib.sha256(clean).hexdigest() == manifest.clean.sha256
    assert pq.read_metadata(lake.path(manifest.quarantine.key)).num_rows == manifest.quarantine.rows
    assert hashlib.sha256(lake.path(manifest.source.key).read_bytes()).hexdigest() == manifest.source.sha256
    assert {path.relative_to(lake.root).as_posix() for path in lake.root.glob("daily/*/*/*")} == {
        day.key for day in manifest.daily
    }
    for day in manifest.daily:
        assert pq.read_metadata(lake.path(day.key)).num_rows == day.rows


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.torture), 3])
def test_killed_at_any_change_of_the_lake(tmp_path: Path, every: int) -> None:
    old_lake, sources = tmp_path / "old", [tmp_path / "old source", tmp_path / "new source"]
    for source, body in zip(sources, (OLD, NEW), strict=True):
        source.mkdir()
        (source / "month").write_bytes(body)
    before = make_month(FolderLake(old_lake), OLD, tmp_path, layout="day")

    def lake_for(name: object) -> Path:
        return Path(shutil.copytree(old_lake, tmp_path / f"lake {name}"))

    lived = run_until(lake_for("that lives"), sources[1] / "month", 0)
    assert lived.returncode == 0, lived.stderr
    changes = int(lived.stdout)
    assert changes > 20

    def die(die_at: int) -> str:
        source = tmp_path / f"source {die_at}"
        source.mkdir()
        shutil.copy(sources[1] / "month", source)
        root = lake_for(die_at)
        assert run_until(root, source / "month", die_at).returncode == -signal.SIGKILL
        lake = FolderLake(root)
        manifest = lake.manifest(KEYS)
        if manifest:
            check_whole(lake, manifest)
        left = "none" if manifest is None else "old" if manifest.started_at == before.started_at else "new"
        remade = make_month(lake, NEW, source, layout="day")
        check_whole(lake, remade)
        assert not (root / "staging").exists()
        return left

    with ThreadPoolExecutor(2) as pool:
        left = list(pool.map(die, range(1, changes + 1, every)))
    # First the old month, then none, then the new one, and no way back.
    assert left == sorted(left, key=["old", "none", "new"].index)
    assert set(left) == {"old", "none", "new"}
