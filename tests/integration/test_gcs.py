"""Failures of Google Cloud Storage: the month is published complete, or the lake is unchanged."""

import gc
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import pytest
from google.auth.exceptions import RefreshError

from conftest import ROOT, bucket
from factories import JANUARY, fetched, green_parquet, make_month, trip
from nyc_tlc.cleaning.clean import clean_month
from nyc_tlc.cleaning.publish import publish_month
from nyc_tlc.contract.contract import read_contract
from nyc_tlc.errors import ConfigurationError, LakeError, TlcError, TransientError
from nyc_tlc.lake import gcs as module
from nyc_tlc.lake.gcs import GcsLake
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.manifest import Manifest
from stand_ins.gcs import Fault, Gcs

KEYS = Keys("green", JANUARY)
SMALL = green_parquet(trip(), trip(passenger_count=0))
CHANCE = random.Random(2024)
MONEY = ("trip_distance", "fare_amount", "extra", "tip_amount", "tolls_amount", "total_amount")
LARGE = green_parquet(*(trip(**{name: CHANCE.random() for name in MONEY}) for _ in range(60_000)))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make upload chunks so small that a test's month has several."""
    monkeypatch.setenv("TLC_GCS_CHUNK_MIB", "0.25")


@pytest.fixture
def lake(gcs: Gcs) -> GcsLake:
    """Return a lake in the folder ``taxi`` of the bucket."""
    return GcsLake(bucket(gcs.url), "taxi")


def check_whole(gcs: Gcs, lake: GcsLake) -> None:
    """Check that the month's files are exactly those in its manifest, with the manifest's digests."""
    manifest = lake.manifest(KEYS)
    assert manifest is not None
    assert {name for name in gcs.names("taxi-lake") if "/manifest/" not in name} == {
        f"taxi/{key}" for key in manifest.file_keys
    }
    for key, digest in manifest.digests.items():
        assert hashlib.sha256(gcs.read("taxi-lake", f"taxi/{key}")).hexdigest() == digest


def begin(lake: GcsLake, body: bytes, folder: Path) -> Callable[[], Manifest]:
    """Run the month up to its publication. Return a function that publishes it."""
    folder.mkdir(exist_ok=True)
    contract, base = read_contract("green"), lake.find_manifest(KEYS).version
    cleaned = clean_month(fetched(body, folder), contract, folder / "cleaned")
    return lambda: publish_month(cleaned, contract, lake, base, datetime.now(UTC))


def objects(gcs: Gcs) -> dict[str, bytes]:
    return {name: gcs.read("taxi-lake", name) for name in gcs.names("taxi-lake")}


def test_uploads_are_sent_in_chunks_and_no_object_is_finished_before_all_are_sent(
    gcs: Gcs, lake: GcsLake, tmp_path: Path
) -> None:
    make_month(lake, LARGE, tmp_path)
    chunks = [call.range for call in gcs.calls if call.method == "PUT"]
    unfinished = [bool(content_range and content_range.endswith("/*")) for content_range in chunks]
    assert sum(unfinished) > 2
    assert unfinished == sorted(unfinished, reverse=True)
    check_whole(gcs, lake)


def test_objects_say_what_they_are(gcs: Gcs, lake: GcsLake, tmp_path: Path) -> None:
    manifest = make_month(lake, SMALL, tmp_path)
    for key, kind in (
        (manifest.clean.key, "application/vnd.apache.parquet"),
        (manifest.source.key, "application/vnd.apache.parquet"),
        (KEYS.manifest, "application/json"),
    ):
        metadata = gcs.metadata("taxi-lake", f"taxi/{key}")
        assert metadata["contentType"] == kind
        assert (
            metadata["metadata"].items()
            >= {
                "color": "green",
                "month": "2024-01",
                "source_sha256": manifest.source.sha256,
                "contract_version": manifest.contract_version,
                "rules_version": manifest.rules_version,
            }.items()
        )


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("status", "PUT", status=503)] * 3,
        [Fault("status", "POST", "uploadType", status=503)] * 2,
        [Fault("status", "GET", status=500), Fault("status", "PUT", status=502)],
        [Fault("status", "PUT", status=429, headers={"Retry-After": "0"})] * 2,
        [Fault("reset", "PUT"), Fault("reset", "PUT"), Fault("reset", "POST", "uploadType")],
        [Fault("lost", "POST", "uploadType")],
        [Fault("status", "DELETE", status=503), Fault("lost", "GET")],
    ],
    ids=["503 to chunks", "503 to sessions", "500 and 502", "429", "resets", "a lost session", "the rest"],
)
def test_what_time_can_heal_is_tried_again(gcs: Gcs, lake: GcsLake, tmp_path: Path, faults: list[Fault]) -> None:
    make_month(lake, SMALL, tmp_path)
    gcs.faults = list(faults)
    make_month(lake, LARGE, tmp_path)
    assert gcs.faults == []
    check_whole(gcs, lake)


def test_a_stall_ends_with_the_timeout_and_is_tried_again(
    gcs: Gcs, lake: GcsLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLC_HTTP_TIMEOUT", "0.5")
    gcs.faults = [Fault("stall", "GET", "clean"), Fault("stall", "POST", "uploadType")]
    threading.Timer(1.5, gcs.release.set).start()
    make_month(lake, SMALL, tmp_path)
    check_whole(gcs, lake)


@pytest.mark.parametrize("asked", ["soon", "-5", "1.5", "9" * 5000, "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_retry_after_that_asks_for_nothing_is_passed_over(
    gcs: Gcs, lake: GcsLake, tmp_path: Path, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLC_GCS_GIVE_UP", "5")
    gcs.faults = [Fault("status", "PUT", status=429, headers={"Retry-After": asked})]
    if asked.isdigit():
        with pytest.raises(TransientError, match="HTTP 429"):
            make_month(lake, SMALL, tmp_path)
    else:
        make_month(lake, SMALL, tmp_path)
        check_whole(gcs, lake)


def test_retry_after_is_honoured(gcs: Gcs, lake: GcsLake, tmp_path: Path) -> None:
    gcs.faults = [Fault("status", "PUT", status=429, headers={"Retry-After": "1"})]
    began = time.monotonic()
    make_month(lake, SMALL, tmp_path)
    assert time.monotonic() - began >= 1
    check_whole(gcs, lake)


def test_an_expired_upload_is_not_taken_for_a_missing_bucket(gcs: Gcs, lake: GcsLake, tmp_path: Path) -> None:
    old = make_month(lake, SMALL, tmp_path)
    gcs.faults = [Fault("status", "PUT", status=404)]
    with pytest.raises(TransientError, match="green 2024-01: an upload to gs://taxi-lake/taxi was lost on the way"):
        make_month(lake, LARGE, tmp_path)
    assert lake.manifest(KEYS) == old


@pytest.mark.parametrize("fault", ["lost", "status"])
def test_a_swap_whose_answer_was_lost_is_found_done(
    gcs: Gcs, lake: GcsLake, tmp_path: Path, fault: Literal["lost", "status"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLC_GCS_GIVE_UP", "2")
    make_month(lake, SMALL, tmp_path)
    gcs.faults = [Fault(fault, "POST", "multipart")]
    manifest = make_month(lake, LARGE, tmp_path)
    assert gcs.faults == []
    assert lake.manifest(KEYS) == manifest
    check_whole(gcs, lake)


@pytest.mark.parametrize("about", ["uploadType", "/o/taxi"])
def test_a_bucket_that_stays_down_leaves_the_old_month_and_no_object(
    gcs: Gcs, lake: GcsLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, about: str
) -> None:
    make_month(lake, SMALL, tmp_path)
    before = objects(gcs)
    monkeypatch.setenv("TLC_GCS_GIVE_UP", "0.2")
    gcs.faults = [Fault("status", method, about, 503) for method in ("PUT", "POST", "GET") for _ in range(100)]
    with pytest.raises(TransientError, match="green 2024-01"):
        make_month(lake, LARGE, tmp_path)
    gcs.faults = []
    assert objects(gcs) == before


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("status", "POST", "uploadType", 403)],
        [Fault("status", "PUT", status=403)],
        [Fault("status", "POST", "multipart", 503)] * 100,
    ],
    ids=["an upload begun", "an upload finished", "the manifest"],
)
def test_a_publication_that_fails_leaves_the_old_month_and_the_next_run_leaves_nothing_else(
    gcs: Gcs, lake: GcsLake, tmp_path: Path, faults: list[Fault], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_month(lake, SMALL, tmp_path)
    monkeypatch.setenv("TLC_GCS_GIVE_UP", "0.2")
    gcs.faults = list(faults)
    with pytest.raises(TlcError, match="green 2024-01"):
        make_month(lake, LARGE, tmp_path)
    gcs.faults = []
    gc.collect()
    assert lake.manifest(KEYS) == old
    assert {f"taxi/{key}" for key in old.file_keys} <= gcs.names("taxi-lake")
    make_month(lake, LARGE, tmp_path)
    check_whole(gcs, lake)


def test_bytes_that_changed_on_the_way_are_no_object(gcs: Gcs, lake: GcsLake, tmp_path: Path) -> None:
    gcs.faults = [Fault("corrupt", "PUT", "upload_id")]
    with pytest.raises(LakeError, match="MD5"):
        make_month(lake, SMALL, tmp_path)
    assert lake.manifest(KEYS) is None
    make_month(lake, SMALL, tmp_path)
    check_whole(gcs, lake)


@pytest.mark.parametrize(
    ("status", "kind", "fix"),
    [(403, ConfigurationError, "roles/storage.objectUser"), (401, ConfigurationError, ""), (400, LakeError, "")],
)
def test_a_refusal_says_what_to_do(
    gcs: Gcs, lake: GcsLake, tmp_path: Path, status: int, kind: type[TlcError], fix: str
) -> None:
    gcs.faults = [Fault("status", "POST", "uploadType", status)]
    with pytest.raises(kind) as caught:
        make_month(lake, SMALL, tmp_path)
    assert fix in caught.value.fix
    assert "gs://taxi-lake/taxi" in caught.value.what
    assert gcs.names("taxi-lake") == set()


def test_a_bucket_that_is_not_there_is_named(gcs: Gcs, tmp_path: Path) -> None:
    lake = GcsLake(bucket(gcs.url, "no-such-bucket"))
    with pytest.raises(ConfigurationError, match="no-such-bucket"):
        make_month(lake, SMALL, tmp_path)


def test_credentials_that_are_refused_are_not_shown() -> None:
    error = module.explain(RefreshError("invalid_grant: Invalid JWT Signature.", {"error": "x"}), "green", "gs://b")
    assert isinstance(error, ConfigurationError)
    assert "invalid_grant" in str(error)


def test_reading_back_takes_ranges_not_the_whole(gcs: Gcs, lake: GcsLake, tmp_path: Path) -> None:
    manifest = make_month(lake, LARGE, tmp_path)
    gcs.calls.clear()
    with lake.open(manifest.clean.key) as file:
        assert pq.ParquetFile(file).read(columns=["vendor_id"]).num_rows == 60_000
    ranges = [call.range for call in gcs.calls if call.range]
    spans = [span.removeprefix("bytes=").split("-") for span in ranges]
    assert sum(int(end) - int(start) for start, end in spans) < manifest.clean.bytes
    assert len(ranges) == len([call for call in gcs.calls if "/download/" in call.path])


def test_a_reader_of_a_month_that_is_replaced_meanwhile_is_told_in_one_line(
    gcs: Gcs, lake: GcsLake, tmp_path: Path
) -> None:
    manifest = make_month(lake, LARGE, tmp_path)
    with lake.open(manifest.clean.key) as file:
        file.read(10)
        make_month(lake, SMALL, tmp_path)
        with pytest.raises(LakeError, match="green 2024-01: gs://taxi-lake/taxi failed; got HTTP 404"):
            file.read(10)


def test_a_bucket_that_goes_down_while_a_month_is_read_is_told_in_one_line(
    gcs: Gcs, lake: GcsLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_month(lake, LARGE, tmp_path)
    monkeypatch.setenv("TLC_GCS_GIVE_UP", "0.2")
    with lake.open(manifest.clean.key) as file:
        gcs.faults = [Fault("status", "GET", "/download/")] * 100
        with pytest.raises(TransientError, match="green 2024-01: gs://taxi-lake/taxi did not answer; got HTTP 503"):
            file.read(10)


def test_a_run_killed_in_an_upload_leaves_no_object_and_the_next_one_completes(
    gcs: Gcs, lake: GcsLake, tmp_path: Path
) -> None:
    script = (
        "import sys; from pathlib import Path; from conftest import bucket; from factories import make_month;"
        "from nyc_tlc.lake.gcs import GcsLake; source = Path(sys.argv[2]);"
        "make_month(GcsLake(bucket(sys.argv[1]), 'taxi'), source.read_bytes(), source.parent)"
    )
    (tmp_path / "killed").mkdir()
    source = tmp_path / "killed" / "source"
    source.write_bytes(LARGE)
    gcs.faults = [Fault("stall", "PUT")]
    environment: dict[str, Any] = os.environ | {"PYTHONPATH": f"{ROOT / 'flows'}:{ROOT / 'tests'}"}
    with subprocess.Popen([sys.executable, "-c", script, gcs.url, str(source)], env=environment) as process:
        assert gcs.stalled.wait(60)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    gcs.release.set()
    assert gcs.names("taxi-lake") == set()
    make_month(lake, LARGE, tmp_path)
    check_whole(gcs, lake)
