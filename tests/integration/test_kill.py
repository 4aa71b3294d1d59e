"""A run killed anywhere leaves the complete old or new month; after the next run no other files are left."""

import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
from die_at import make_month_and_die

from factories import JANUARY, green_parquet, make_month, trip
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.history import list_versions
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import Manifest

KEYS = Keys("green", JANUARY)
OLD = green_parquet(*(trip(lpep_pickup_datetime=datetime(2024, 1, day)) for day in (3, 4, 5)))
NEW = green_parquet(*(trip(lpep_pickup_datetime=datetime(2024, 1, day)) for day in (4, 6)), trip(passenger_count=0))


#: Processes of their own, forked from one that has imported all there is to import and run none of it.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["die_at"])
#: Exit codes of a killed process. multiprocessing returns 255 if its fork server lost the status; a run that ends by
#: itself has 0, one that fails 1.
KILLED = (-signal.SIGKILL, 255)


@pytest.fixture(autouse=True)
def path_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes import from the same folders as this one."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def run_until(lake: Path, source: Path, die_at: int) -> tuple[int | None, int]:
    """Return the process's exit code, and the number of changes if it survived."""
    results, tell = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=make_month_and_die, args=(lake, source, die_at, tell))
    process.start()
    tell.close()
    process.join(60)
    return process.exitcode, results.recv() if process.exitcode == 0 else 0


def check_whole(lake: FolderLake, manifest: Manifest) -> None:
    """Check that the files in the manifest exist, with the manifest's digests."""
    for file in manifest.files:
        assert hashlib.sha256(lake.local_path(file.key).read_bytes()).hexdigest() == file.sha256


def month_files(lake: FolderLake) -> set[str]:
    """Return the keys of all files except the manifests."""
    paths = (path for path in lake.root.rglob("*") if path.is_file())
    return {key for path in paths if not (key := path.relative_to(lake.root).as_posix()).startswith("manifest/2")}


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.torture)])
def test_killed_at_a_change_of_the_lake(tmp_path: Path, every: int) -> None:
    old_lake, sources = tmp_path / "old", [tmp_path / "old source", tmp_path / "new source"]
    for source, body in zip(sources, (OLD, NEW), strict=True):
        source.mkdir()
        (source / "month").write_bytes(body)
    before = make_month(FolderLake(old_lake), OLD, tmp_path, layout="day")

    def lake_for(name: object) -> Path:
        return Path(shutil.copytree(old_lake, tmp_path / f"lake {name}"))

    exitcode, changes = run_until(lake_for("that lives"), sources[1] / "month", 0)
    assert exitcode == 0
    assert changes > 20

    def die(die_at: int) -> str:
        source = tmp_path / f"source {die_at}"
        source.mkdir()
        shutil.copy(sources[1] / "month", source)
        root = lake_for(die_at)
        assert run_until(root, source / "month", die_at)[0] in KILLED
        lake = FolderLake(root)
        manifest = lake.manifest(KEYS)
        assert manifest is not None
        check_whole(lake, manifest)
        left = "old" if manifest.started_at == before.started_at else "new"
        remade = make_month(lake, NEW, source, layout="day")
        check_whole(lake, remade)
        old, new = (each.manifest for each in list_versions(lake, KEYS))
        assert (old.source.sha256, new) == (before.source.sha256, remade)
        check_whole(lake, old)
        kept = {*old.file_keys, f"{old.history_folder}/manifest.json"}
        assert month_files(lake) == remade.file_keys | {KEYS.manifest} | kept
        return left

    with ThreadPoolExecutor(2) as pool:
        left = list(pool.map(die, range(changes, 0, -every)))
    # Until a change the old month, from then on the new one, never none.
    assert left == sorted(left, key=["new", "old"].index)
    assert set(left) == {"old", "new"}
