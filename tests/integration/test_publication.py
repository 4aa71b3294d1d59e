"""Two runs of one month: one is stopped at each of its steps, while the other one runs from beginning to end.

Readers that use the manifest always find the complete old month or the complete new one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from azure.core.pipeline import PipelineRequest, PipelineResponse
from azure.core.pipeline.policies import SansIOHTTPPolicy
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from factories import JANUARY, fetched, green_parquet, make_month, trip
from nyc_tlc.cleaning.clean import clean_month
from nyc_tlc.cleaning.publish import publish_month
from nyc_tlc.contract.contract import read_contract
from nyc_tlc.errors import ConflictError
from nyc_tlc.lake.azure import AzureLake
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.gcs import GcsLake
from nyc_tlc.lake.keys import Keys, Layout
from nyc_tlc.lake.lake import Lake
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.s3 import S3Lake
from stand_ins.azure import Azure
from stand_ins.gcs import Gcs
from stand_ins.s3 import S3

KEYS = Keys("green", JANUARY)
OLD = green_parquet(*(trip(lpep_pickup_datetime=datetime(2024, 1, day)) for day in (3, 4, 5)))
NEW = green_parquet(*(trip(lpep_pickup_datetime=datetime(2024, 1, day)) for day in (4, 6)), trip(passenger_count=0))
OTHER = green_parquet(*[trip()] * 3)

#: What the held run makes, what the other one makes, and what was there before.
Case = tuple[tuple[bytes, Layout], tuple[bytes, Layout], bytes | None]
CASES: dict[str, Case] = {
    "another source": ((NEW, "month"), (OTHER, "month"), OLD),
    "the same": ((NEW, "month"), (NEW, "month"), OLD),
    "another layout": ((NEW, "day"), (NEW, "month"), OLD),
    "what was there": ((NEW, "month"), (OLD, "month"), OLD),
    "a new month": ((NEW, "month"), (OTHER, "day"), None),
}
#: A few of the cases show most of it in seconds; all of them are torture.
SHORT = {"another source", "another layout"}


class FolderStore:
    """A folder, in which one thread can be stopped at each change."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open_lake(self, *, held: bool = False) -> Lake:
        """Open the lake again, as another process would."""
        return FolderLake(self.root)

    def read(self, key: str) -> bytes | None:
        path = self.root / key
        return path.read_bytes() if path.is_file() else None

    def names(self) -> set[str]:
        return {path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file()}

    @contextmanager
    def stopping(self, at: int, do: Callable[[], None]) -> Iterator[list[int]]:
        """Call ``do`` before change number ``at``. Yield a list with one number: the count of changes."""
        thread, steps = threading.get_ident(), [0]
        _hooks.append(hook := _FolderHook(self.root, at, do, thread, steps))
        try:
            yield steps
        finally:
            hook.thread = 0
            _hooks.remove(hook)


class _FolderHook:
    """A hook for Python's audit events. They report each change before it is made, so nothing is patched."""

    CHANGES = {"open", "os.mkdir", "os.link", "os.rename", "os.remove", "os.rmdir"}

    def __init__(self, root: Path, at: int, do: Callable[[], None], thread: int, steps: list[int]) -> None:
        self.root, self.at, self.do, self.thread, self.steps = str(root), at, do, thread, steps

    def __call__(self, event: str, details: tuple[object, ...]) -> None:
        if event not in self.CHANGES or not str(details[0]).startswith(self.root):
            return
        if event == "open" and "r" in str(details[1] or "r"):
            return
        self.steps[0] += 1
        if self.steps[0] == self.at and not self._is_locked():
            # The other run works in a thread of its own, whose changes are not counted.
            other = threading.Thread(target=self.do)
            other.start()
            other.join(60)

    def _is_locked(self) -> bool:
        """Return whether this run holds the lake's lock: then the other run would wait, and can't be tested here."""
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


_hooks: list[_FolderHook] = []


def _audit(event: str, details: tuple[object, ...]) -> None:
    for hook in _hooks:
        # Uploads are threads of the held run; the other run's have their own parent.
        if threading.get_ident() == hook.thread:
            hook(event, details)


sys.addaudithook(_audit)


class BucketStore:
    """A bucket, of which one client can be stopped at each request."""

    def __init__(self, gcs: Gcs) -> None:
        self.gcs = gcs

    def open_lake(self, *, held: bool = False) -> Lake:
        """Open the lake; the requests of the held run are marked."""
        options = {"api_endpoint": self.gcs.url}
        client = storage.Client(
            "test", AnonymousCredentials(), client_options=options, extra_headers={"X-Held": "yes"} if held else {}
        )
        return GcsLake(client.bucket("taxi-lake"), "taxi")

    def read(self, key: str) -> bytes | None:
        return self.gcs.read("taxi-lake", f"taxi/{key}") if f"taxi/{key}" in self.gcs.names("taxi-lake") else None

    def names(self) -> set[str]:
        return {name.removeprefix("taxi/") for name in self.gcs.names("taxi-lake")}

    def stopping(self, at: int, do: Callable[[], None]) -> AbstractContextManager[list[int]]:
        """Call ``do`` at the held run's request number ``at``."""
        return _stopping(self.gcs, at, do, is_held=lambda handler: bool(handler.headers.get("X-Held")))


class S3Store:
    """A bucket of S3, of which one client can be stopped at each request."""

    def __init__(self, stand_in: S3) -> None:
        self.stand_in = stand_in

    def open_lake(self, *, held: bool = False) -> Lake:
        """Open the lake; the requests of the held run are marked."""
        return S3Lake(self.stand_in.client(held=held), self.stand_in.bucket, "taxi")

    def read(self, key: str) -> bytes | None:
        return self.stand_in.read(f"taxi/{key}") if f"taxi/{key}" in self.stand_in.names() else None

    def names(self) -> set[str]:
        return {name.removeprefix("taxi/") for name in self.stand_in.names()}

    def stopping(self, at: int, do: Callable[[], None]) -> AbstractContextManager[list[int]]:
        """Call ``do`` at the held run's request number ``at``."""
        return _stopping(self.stand_in, at, do)


class AzureStore:
    """A container of Azure, of which one client can be stopped at each request by a policy of its pipeline."""

    def __init__(self, stand_in: Azure) -> None:
        self.stand_in = stand_in
        self.before: Callable[[PipelineRequest[Any]], None] = lambda _: None
        self.after: Callable[[PipelineRequest[Any]], None] = lambda _: None

    def open_lake(self, *, held: bool = False) -> Lake:
        """Open the lake; the requests of the held run call ``before`` and ``after``."""
        store = self

        class Look(SansIOHTTPPolicy[Any, Any]):
            def on_request(self, request: PipelineRequest[Any]) -> None:
                store.before(request)

            def on_response(self, request: PipelineRequest[Any], response: PipelineResponse[Any, Any]) -> None:
                store.after(request)

        return AzureLake(self.stand_in.client(_additional_pipeline_policies=[Look()] if held else []), "taxi")

    def read(self, key: str) -> bytes | None:
        return self.stand_in.read(f"taxi/{key}") if f"taxi/{key}" in self.stand_in.names() else None

    def names(self) -> set[str]:
        return {name.removeprefix("taxi/") for name in self.stand_in.names()}

    def stopping(self, at: int, do: Callable[[], None]) -> AbstractContextManager[list[int]]:
        """Call ``do`` at the held run's request number ``at``."""
        return _stopping(self, at, do)


@contextmanager
def _stopping(
    requests: Any, at: int, do: Callable[[], None], is_held: Callable[[Any], bool] = lambda _: True
) -> Iterator[list[int]]:
    """Call ``do`` before request number ``at`` takes effect; after it if the number is negative.

    Args:
        requests: Its attributes ``before`` and ``after`` are called with each request.
        at: The request's number, from 1.
        do: The function to call.
        is_held: Returns whether a request is the held run's; only those are counted.

    Yields:
        A list with one number: the count of requests.
    """
    steps, counting, stop_after = [0], threading.Lock(), []

    def count(request: Any) -> None:
        if is_held(request):
            with counting:
                steps[0] += 1
                is_stop = steps[0] == abs(at)
            if is_stop and at > 0:
                do()
            elif is_stop:
                stop_after.append(request)

    def answer(request: Any) -> None:
        if any(request is each for each in stop_after):
            do()

    requests.before, requests.after = count, answer
    try:
        yield steps
    finally:
        requests.before = requests.after = lambda _: None


Store = FolderStore | BucketStore | S3Store | AzureStore


LONG = [pytest.param(name, marks=pytest.mark.torture) for name in ("s3", "s3 in parts")]


@pytest.fixture(params=["folder", "gcs", "azure", *LONG])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return the store of the lake."""
    if request.param == "folder":
        return FolderStore(tmp_path / "lake")
    if request.param == "gcs":
        return BucketStore(request.getfixturevalue("gcs"))
    if request.param == "azure":
        return AzureStore(request.getfixturevalue("azure"))
    if request.param == "s3 in parts":
        request.getfixturevalue("small_parts")
    return S3Store(request.getfixturevalue("s3"))


def begin(lake: Lake, body: bytes, folder: Path, layout: Layout) -> Callable[[], Manifest]:
    """Run the month up to its publication. Return a function that publishes it."""
    folder.mkdir(parents=True)
    contract, base = read_contract("green"), lake.find_manifest(KEYS).version
    cleaned = clean_month(fetched(body, folder), contract, folder / "cleaned", layout=layout)
    return lambda: publish_month(cleaned, contract, lake, base, datetime.now(UTC))


def check_whole(store: Store) -> Manifest:
    """Check that the files in the manifest exist, with the manifest's digests. Return the manifest."""
    manifest = store.open_lake().manifest(KEYS)
    assert manifest is not None
    for key, digest in manifest.digests.items():
        content = store.read(key)
        assert content is not None, f"{key} is named and not there"
        assert hashlib.sha256(content).hexdigest() == digest
    return manifest


def clear(store: Store) -> None:
    lake = store.open_lake()
    for key in store.names():
        lake.remove(key)


def run_interleaved(store: Store, folder: Path, case: Case, at: int) -> int:
    """Run both. Return the number of the held run's steps."""
    (held_body, held_layout), (other_body, other_layout), before = case
    clear(store)
    (folder / "before").mkdir(parents=True)
    if before is not None:
        make_month(store.open_lake(), before, folder / "before")
    held = begin(store.open_lake(held=True), held_body, folder / "held", held_layout)
    made: list[Manifest] = []
    failures: list[BaseException] = []

    def run_other() -> None:
        try:
            if before is not None:
                check_whole(store)
            made.append(begin(store.open_lake(), other_body, folder / "other", other_layout)())
            assert check_whole(store) == made[0]
        except BaseException as error:  # noqa: BLE001  it is raised again where the test can see it
            failures.append(error)

    with store.stopping(at, run_other) as steps:
        try:
            published: Manifest | None = held()
        except ConflictError:
            published = None
    if failures:
        raise failures[0]
    # In a folder the other run can't begin while this one holds the lake's lock. Where files are uploaded in parts, the
    # number of requests varies by one or two.
    assert made or not at or isinstance(store, FolderStore) or steps[0] < abs(at)
    stands = check_whole(store)
    if made and published is None:
        assert stands.clean == made[0].clean
    else:
        # The held run published, before the other one began or after it.
        assert stands in (published, *made)
    (folder / "last").mkdir()
    last = make_month(store.open_lake(), NEW, folder / "last")
    assert store.names() == {*last.file_keys, KEYS.manifest}
    return steps[0]


def check_all_steps(store: Store, tmp_path: Path, case: Case) -> None:
    steps = run_interleaved(store, tmp_path / "count", case, 0)
    assert steps > 8
    numbers = list(range(1, steps + 1))
    if not isinstance(store, FolderStore):
        numbers += [-number for number in numbers]
    for at in numbers:
        run_interleaved(store, tmp_path / f"at {at}", case, at)


@pytest.mark.parametrize("case", sorted(SHORT))
def test_a_run_that_is_held_while_another_one_runs(store: Store, tmp_path: Path, case: str) -> None:
    steps = run_interleaved(store, tmp_path / "count", CASES[case], 0)
    assert steps > 8
    last_ones = range(max(1, steps - 12), steps + 1, 2)
    for at in range(1, steps + 1, 2) if isinstance(store, FolderStore) else last_ones:
        run_interleaved(store, tmp_path / f"at {at}", CASES[case], at)


@pytest.mark.torture
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", sorted(CASES))
def test_a_run_that_is_held_at_any_step_while_another_one_runs(store: Store, tmp_path: Path, case: str) -> None:
    check_all_steps(store, tmp_path, CASES[case])
