"""Google Cloud Storage as it is on a bad day: the month comes out whole, or the lake stays as it was."""

import gc
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from google.auth.exceptions import RefreshError

from conftest import ROOT, bucket
from factories import JANUARY, fetched, green_parquet, make_month, trip
from nyc_tlc.cleaning.clean import clean_month
from nyc_tlc.cleaning.publish import publish_month
from nyc_tlc.contract.contract import read_contract
from nyc_tlc.errors import ConfigurationError, ConflictError, LakeError, TlcError, TransientError
from nyc_tlc.lake import gcs as module
from nyc_tlc.lake.gcs import GcsLake
from nyc_tlc.lake.keys import Keys
from stand_ins.gcs import Fault, Gcs

KEYS = Keys("green", JANUARY)
CLEAN = "taxi/" + KEYS.clean
SMALL = green_parquet(trip(), trip(passenger_count=0))
CHANCE = random.Random(2024)
MONEY = ("trip_distance", "fare_amount", "extra", "tip_amount", "tolls_amount", "total_amount")
LARGE = green_parquet(*(trip(**{name: CHANCE.random() for name in MONEY}) for _ in range(60_000)))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks so small that a test's month has several."""
    monkeypatch.setenv("TLC_GCS_CHUNK_MIB", "0.25")


@pytest.fixture
def lake(gcs: Gcs) -> GcsLake:
    """A lake in the folder ``taxi`` of the bucket."""
    return GcsLake(bucket(gcs.url), "taxi")


def check_whole(gcs: Gcs, lake: GcsLake) -> None:
    """The manifest's files are there, and they are what it says."""
    manifest = lake.manifest(KEYS)
    assert manifest is not None
    clean_bytes = gcs.read("taxi-lake", CLEAN)
    assert hashlib.sha256(clean_bytes).hexdigest() == manifest.clean.sha256
    assert hashlib.sha256(gcs.read("taxi-lake", f"taxi/{manifest.source.key}")).hexdigest() == manifest.source.sha256
    rejected = pq.read_metadata(io.BytesIO(gcs.read("taxi-lake", f"taxi/{manifest.quarantine.key}")))
    assert rejected.num_rows == manifest.quarantine.rows


def objects(gcs: Gcs) -> dict[str, bytes]:
    return {name: gcs.read("taxi-lake", name) for name in gcs.names("taxi-lake")}


def test_uploads_stream_in_chunks_while_the_month_is_cleaned(gcs: Gcs, lake: GcsLake, tmp_path: Path) -> None:
    clean_month(fetched(LARGE, tmp_path), read_contract("green"), lake)
    chunks = [call.range for call in gcs.calls if call.method == "PUT"]
    assert len(chunks) > 2
    assert all(told and told.endswith("/*") for told in chunks), "nothing is finished before it is published"
    assert gcs.names("taxi-lake") == set()


def test_objects_say_what_they_are(gcs: Gcs, lake: GcsLake, tmp_path: Path) -> None:
    manifest = make_month(lake, SMALL, tmp_path)
    for key, kind in (
        (KEYS.clean, "application/vnd.apache.parquet"),
        (KEYS.raw("parquet"), "application/vnd.apache.parquet"),
        (KEYS.manifest, "application/json"),
    ):
        told = gcs.metadata("taxi-lake", f"taxi/{key}")
        assert told["contentType"] == kind
        assert (
            told["metadata"].items()
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


def test_retry_after_is_honoured(gcs: Gcs, lake: GcsLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(module.time, "sleep", waited.append)
    gcs.faults = [Fault("status", "PUT", status=429, headers={"Retry-After": "7"})]
    make_month(lake, SMALL, tmp_path)
    assert 7 in waited


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


def test_a_publication_that_fails_before_it_replaced_anything_leaves_the_old_month(
    gcs: Gcs, lake: GcsLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_month(lake, SMALL, tmp_path)
    monkeypatch.setenv("TLC_GCS_GIVE_UP", "0.2")
    month = fetched(SMALL, tmp_path)
    staged = clean_month(month, read_contract("green"), lake)
    gcs.faults = [Fault("status", "PUT", status=503)] * 100 + [Fault("status", "POST", "resumable", 503)] * 100
    with pytest.raises(TransientError):
        publish_month(staged, read_contract("green"), lake, datetime.now(UTC))
    gcs.faults = []
    assert lake.manifest(KEYS) == old
    check_whole(gcs, lake)


@pytest.mark.parametrize("fault", [Fault("status", "POST", "uploadType", 403), Fault("status", "PUT", status=403)])
def test_an_upload_that_failed_is_not_finished_when_its_memory_is_cleared(
    gcs: Gcs, lake: GcsLake, tmp_path: Path, fault: Fault
) -> None:
    make_month(lake, SMALL, tmp_path)
    before = objects(gcs)
    staged = clean_month(fetched(green_parquet(trip()), tmp_path), read_contract("green"), lake)
    gcs.faults = [fault]
    with pytest.raises(TlcError):
        publish_month(staged, read_contract("green"), lake, datetime.now(UTC))
    del staged
    gc.collect()
    after = objects(gcs)
    assert after.keys() == before.keys()
    assert {name: after[name] for name in after if "/manifest/" not in name} == {
        name: before[name] for name in before if "/manifest/" not in name
    }


def test_a_publication_that_fails_half_way_leaves_no_manifest_and_the_next_run_makes_the_month(
    gcs: Gcs, lake: GcsLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_month(lake, SMALL, tmp_path)
    monkeypatch.setenv("TLC_GCS_GIVE_UP", "0.2")
    gcs.faults = [Fault("status", "POST", "multipart", 503)] * 100
    with pytest.raises(TransientError):
        make_month(lake, LARGE, tmp_path)
    gcs.faults = []
    assert lake.manifest(KEYS) is None
    make_month(lake, LARGE, tmp_path)
    check_whole(gcs, lake)


def test_bytes_that_changed_on_the_way_are_no_object(gcs: Gcs, lake: GcsLake, tmp_path: Path) -> None:
    gcs.faults = [Fault("corrupt", "PUT")]
    with pytest.raises(LakeError):
        make_month(lake, SMALL, tmp_path)
    assert gcs.names("taxi-lake") == set()
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


def test_an_object_someone_else_replaced_meanwhile_is_a_conflict(gcs: Gcs, lake: GcsLake, tmp_path: Path) -> None:
    staged = clean_month(fetched(LARGE, tmp_path), read_contract("green"), lake)
    bucket(gcs.url).blob(CLEAN).upload_from_string(b"someone else's")
    with pytest.raises(ConflictError):
        publish_month(staged, read_contract("green"), lake, datetime.now(UTC))
    assert objects(gcs) == {CLEAN: b"someone else's"}


def test_a_run_overtaken_in_the_middle_of_its_publication_fails_and_the_other_one_stands(
    gcs: Gcs, lake: GcsLake, tmp_path: Path
) -> None:
    for name in ("slow", "fast"):
        (tmp_path / name).mkdir()
    raised: list[BaseException] = []

    def slow() -> None:
        try:
            make_month(GcsLake(bucket(gcs.url), "taxi"), LARGE, tmp_path / "slow")
        except TlcError as error:
            raised.append(error)

    gcs.faults = [Fault("stall", "PUT", "quarantine")]
    runner = threading.Thread(target=slow)
    runner.start()
    assert gcs.stalled.wait(30)
    fast = make_month(lake, SMALL, tmp_path / "fast")
    gcs.release.set()
    runner.join(60)
    assert [type(error) for error in raised] == [ConflictError]
    assert lake.manifest(KEYS) == fast
    check_whole(gcs, lake)


def test_reading_back_takes_ranges_not_the_whole(gcs: Gcs, lake: GcsLake, tmp_path: Path) -> None:
    manifest = make_month(lake, LARGE, tmp_path)
    gcs.calls.clear()
    with lake.open(manifest.clean.key) as file:
        assert pq.ParquetFile(file).read(columns=["vendor_id"]).num_rows == 60_000
    ranges = [call.range for call in gcs.calls if call.range]
    spans = [told.removeprefix("bytes=").split("-") for told in ranges]
    assert sum(int(end) - int(start) for start, end in spans) < manifest.clean.bytes
    assert len(ranges) == len([call for call in gcs.calls if "/download/" in call.path])


def test_what_is_being_read_does_not_change_under_the_reader(gcs: Gcs, lake: GcsLake, tmp_path: Path) -> None:
    manifest = make_month(lake, LARGE, tmp_path)
    with lake.open(manifest.clean.key) as file:
        file.read(10)
        make_month(lake, SMALL, tmp_path)
        file.seek(manifest.clean.bytes - 10)
        with pytest.raises(Exception, match="404"):
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
