"""Two runs of one month: one is stopped at each of its steps, while the other one runs from beginning to end.

Readers that use the manifest always find the complete old month or the complete new one.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from factories import JANUARY, fetched, green_parquet, make_month, trip
from nyc_tlc.cleaning.clean import clean_month
from nyc_tlc.cleaning.publish import publish_month
from nyc_tlc.cleaning.raw import fetch_raw
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import ConflictError
from nyc_tlc.lake.history import list_versions
from nyc_tlc.lake.keys import Keys, Layout
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from stores import FolderStore, Store, open_store

KEYS = Keys("green", JANUARY)
OLD = green_parquet(*(trip(lpep_pickup_datetime=datetime(2024, 1, day)) for day in (3, 4, 5)))
NEW = green_parquet(*(trip(lpep_pickup_datetime=datetime(2024, 1, day)) for day in (4, 6)), trip(passenger_count=0))
OTHER = green_parquet(*[trip()] * 3)

#: What a run makes, and in which layout; None: the lake's month, cleaned again from its raw file.
Run = tuple[bytes | None, Layout]
#: The held run, the runs that come and go meanwhile, and what was there before.
Case = tuple[Run, tuple[Run, ...], bytes | None]
CASES: dict[str, Case] = {
    "another source": ((NEW, "month"), ((OTHER, "month"),), OLD),
    "the same": ((NEW, "month"), ((NEW, "month"),), OLD),
    "another layout": ((NEW, "day"), ((NEW, "month"),), OLD),
    "what was there": ((NEW, "month"), ((OLD, "month"),), OLD),
    "a new month": ((NEW, "month"), ((OTHER, "day"),), None),
    "two others, there and back": ((NEW, "month"), ((OTHER, "day"), (OLD, "month")), OLD),
    "cleaned again beside another source": ((None, "day"), ((OTHER, "month"),), OLD),
    "another source beside cleaned again": ((NEW, "month"), ((None, "day"),), OLD),
    "cleaned again twice": ((None, "month"), ((None, "day"),), OLD),
}
#: A few of the cases show most of it in seconds; all of them are torture.
SHORT = ("another source", "cleaned again beside another source")


@pytest.fixture(params=["folder", "gcs", *(pytest.param(name, marks=pytest.mark.torture) for name in ("s3", "azure"))])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return the store of the lake."""
    return open_store(request.param, request, tmp_path)


def begin(lake: Lake, run: Run, folder: Path) -> Callable[[], Manifest]:
    """Run the month up to its publication. Return a function that publishes it."""
    body, layout = run
    folder.mkdir(parents=True)
    contract, found = read_contract("green"), lake.find_manifest(KEYS)
    source = fetched(body, folder) if body else fetch_raw(lake.parse(found.content or b"", KEYS), lake, folder)
    cleaned = clean_month(source, contract, folder / "cleaned", layout=layout)
    return lambda: publish_month(cleaned, contract, lake, found.version, datetime.now(UTC))


@contextmanager
def reading(store: Store) -> Iterator[None]:
    """Read the month by its manifest all the while. A file that is missing belongs to a manifest that was replaced."""
    stop, failures = threading.Event(), []

    def read() -> None:
        lake = store.open_lake()
        while not stop.wait(0.02):
            found = lake.find_manifest(KEYS)
            for key in lake.parse(found.content, KEYS).file_keys if found.content else ():
                if lake.size(key) is None and lake.find_manifest(KEYS).version == found.version:
                    failures.append(key)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        stop.set()
        reader.join(60)
    assert failures == [], "a file is named and not there"


def check_whole(store: Store) -> Manifest:
    """Check that the manifests' files exist, with their digests, and that no version is lost; return the current."""
    *kept, current = list_versions(store.open_lake(), KEYS)
    assert current.manifest.file_keys <= store.objects()
    for file in (file for version in (*kept, current) for file in version.manifest.files):
        assert hashlib.sha256(store.read(file.key)).hexdigest() == file.sha256
    assert all(version.until for version in kept)
    assert len(kept) == 3 or (kept or [current])[0].manifest.replaces is None
    return current.manifest


def list_current(store: Store) -> set[str]:
    """Return the keys of all objects that are not in the history."""
    return {key for key in store.objects() if not key.startswith("history/")}


def clear(store: Store) -> None:
    lake = store.open_lake()
    for key in store.objects():
        lake.remove(key)


def run_interleaved(store: Store, folder: Path, case: Case, at: int) -> int:
    """Run both. Return the number of the held run's steps."""
    held_run, others, before = case
    clear(store)
    (folder / "before").mkdir(parents=True)
    if before is not None:
        make_month(store.open_lake(), before, folder / "before")
    held = begin(store.open_lake(held=True), held_run, folder / "held")
    made: list[Manifest] = []
    found: list[Manifest | None] = []
    failures: list[BaseException] = []

    def run_other() -> None:
        try:
            found.append(store.open_lake().manifest(KEYS))
            if before is not None:
                check_whole(store)
            for number, run in enumerate(others):
                made.append(begin(store.open_lake(), run, folder / f"other {number}")())
                assert check_whole(store) == made[-1]
        except BaseException as error:  # noqa: BLE001  it is raised again where the test can see it
            failures.append(error)

    with reading(store), store.stopping(at, run_other) as steps:
        try:
            published: Manifest | None = held()
        except ConflictError:
            published = None
    if failures:
        raise failures[0]
    # In a folder the other run can't begin while this one holds the lake's lock.
    assert made or not at or isinstance(store, FolderStore) or steps[0] < abs(at)
    stands = check_whole(store)
    if made and published is None:
        assert stands.clean == made[-1].clean
        assert list_current(store) == {*stands.file_keys, KEYS.manifest}, "a run that is refused removes its files"
    else:
        # The held run published after the others, or before them.
        assert published in (stands, *found)
    (folder / "last").mkdir()
    last = make_month(store.open_lake(), NEW, folder / "last")
    assert list_current(store) == {*last.file_keys, KEYS.manifest}
    check_whole(store)
    return steps[0]


def check_all_steps(store: Store, tmp_path: Path, case: Case) -> None:
    steps = run_interleaved(store, tmp_path / "count", case, 0)
    assert steps > 8
    numbers = list(range(1, steps + 1))
    if not isinstance(store, FolderStore):
        numbers += [-number for number in numbers]
    for at in numbers:
        run_interleaved(store, tmp_path / f"at {at}", case, at)


def test_a_run_that_is_held_while_another_one_runs(store: Store, tmp_path: Path) -> None:
    for case in SHORT if isinstance(store, FolderStore) else SHORT[:1]:
        steps = run_interleaved(store, tmp_path / case / "count", CASES[case], 0)
        assert steps > 8
        for at in range(1, steps + 1, steps // 5):
            run_interleaved(store, tmp_path / case / f"at {at}", CASES[case], at)


@pytest.mark.torture
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", sorted(CASES))
def test_a_run_that_is_held_at_any_step_while_another_one_runs(store: Store, tmp_path: Path, case: str) -> None:
    check_all_steps(store, tmp_path, CASES[case])
