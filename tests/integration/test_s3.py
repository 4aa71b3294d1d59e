"""Failures of Amazon S3: the month is published complete, or the lake is unchanged."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Literal

import boto3
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import NoCredentialsError

from conftest import ROOT
from factories import JANUARY, green_parquet, make_month, trip
from nyc_tlc.errors import ConfigurationError, LakeError, TlcError, TransientError
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.lake import NewFile, SwapRefusedError
from nyc_tlc.lake.s3 import S3Lake, client_config, explain
from stand_ins.gcs import Fault
from stand_ins.s3 import S3

KEYS = Keys("green", JANUARY)
SMALL = green_parquet(trip(), trip(passenger_count=0))
CHANCE = random.Random(2024)
MONEY = ("trip_distance", "fare_amount", "extra", "tip_amount", "tolls_amount", "total_amount")
LARGE = green_parquet(*(trip(**{name: CHANCE.random() for name in MONEY}) for _ in range(20_000)))


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make parts so small that the large month's files have several; let S3 refuse only smaller ones."""
    monkeypatch.setattr("nyc_tlc.lake.s3.PART_BYTES", range(100_000, 200_000))
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 100_000)


@pytest.fixture
def lake(s3: S3) -> S3Lake:
    """Return a lake in the folder ``taxi`` of the bucket."""
    return S3Lake(s3.client(), s3.bucket, "taxi")


def check_whole(s3: S3, lake: S3Lake) -> None:
    """Check that the files are exactly those in the manifest, with its digests, and that no upload is unfinished."""
    manifest = lake.manifest(KEYS)
    assert manifest is not None
    assert {name for name in s3.names() if "/manifest/" not in name} == {f"taxi/{key}" for key in manifest.file_keys}
    for key, digest in manifest.digests.items():
        assert hashlib.sha256(s3.read(f"taxi/{key}")).hexdigest() == digest
    assert s3.unfinished() == 0


def objects(s3: S3) -> dict[str, bytes]:
    return {name: s3.read(name) for name in s3.names()}


def new_file(folder: Path, content: bytes, key: str = "raw/file.parquet") -> NewFile:
    path = folder / "file"
    path.write_bytes(content)
    return NewFile(key, path, len(content), hashlib.sha256(content).hexdigest())


def test_large_files_are_sent_in_parts_and_none_is_completed_before_all_are_sent(
    s3: S3, lake: S3Lake, tmp_path: Path
) -> None:
    make_month(lake, LARGE, tmp_path)
    sent = [number for number, call in enumerate(s3.calls) if "partNumber" in call.path]
    completed = [n for n, call in enumerate(s3.calls) if call.method == "POST" and "uploadId" in call.path]
    assert len(sent) > len(completed) == 2
    assert max(sent) < min(completed)
    check_whole(s3, lake)


@pytest.mark.parametrize("content", [b"", b"small", LARGE], ids=["empty", "small", "large"])
def test_the_same_bytes_sent_again_are_another_version(s3: S3, lake: S3Lake, tmp_path: Path, content: bytes) -> None:
    file = new_file(tmp_path, content)
    versions = []
    for _ in range(3):
        upload = lake.upload(file, {})
        upload.finish()
        assert upload.is_there()
        versions.append(lake.list_objects("raw/")[file.key])
        for stale in versions[:-1]:
            if stale != versions[-1]:
                lake.remove(file.key, stale)
        assert s3.read("taxi/raw/file.parquet") == content
    assert versions[0] != versions[1] != versions[2]
    lake.remove(file.key, versions[-1])
    assert s3.names() == set()


def test_a_removal_whose_answer_was_lost_does_not_hit_what_came_after(s3: S3, lake: S3Lake, tmp_path: Path) -> None:
    file = new_file(tmp_path, LARGE)
    lake.upload(file, {}).finish()
    version = lake.list_objects("raw/")[file.key]
    again = lake.upload(file, {})
    s3.faults = [Fault("lost", "DELETE")]
    finished: list[int] = []

    def finish_meanwhile(_: object) -> None:
        # After the deletion took effect; its answer is lost, so it is tried again.
        if not s3.names() and not finished:
            finished.append(1)
            again.finish()

    s3.after = finish_meanwhile
    S3Lake(s3.client(held=True), s3.bucket, "taxi").remove(file.key, version)
    assert finished
    assert s3.read("taxi/raw/file.parquet") == LARGE


def test_objects_say_what_they_are(s3: S3, lake: S3Lake, tmp_path: Path) -> None:
    manifest = make_month(lake, LARGE, tmp_path)
    for key, kind in (
        (manifest.clean.key, "application/vnd.apache.parquet"),
        (manifest.quarantine.key, "application/vnd.apache.parquet"),
        (KEYS.manifest, "application/json"),
    ):
        head = s3.client().head_object(Bucket=s3.bucket, Key=f"taxi/{key}")
        assert head["ContentType"] == kind
        assert (
            head["Metadata"].items()
            >= {"color": "green", "month": "2024-01", "source-sha256": manifest.source.sha256}.items()
        )


def test_a_swap_needs_the_version_that_is_there(s3: S3, lake: S3Lake) -> None:
    lake.swap("manifest/x", b"one", None, {})
    _, first = lake.read_version("manifest/x") or (b"", "")
    with pytest.raises(SwapRefusedError):
        lake.swap("manifest/x", b"two", None, {})
    lake.swap("manifest/x", b"two", first, {})
    with pytest.raises(SwapRefusedError):
        lake.swap("manifest/x", b"three", first, {})
    with pytest.raises(SwapRefusedError):
        lake.swap("manifest/y", b"three", first, {})
    assert lake.read("manifest/x") == b"two"
    assert lake.read("manifest/y") is None


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("status", "PUT", "partNumber", 503)] * 3,
        [Fault("status", "POST", "uploads", 500), Fault("status", "POST", "uploadId", 502)],
        [Fault("status", "PUT", "partNumber", 429, {"Retry-After": "0"})] * 2,
        [Fault("reset", "PUT"), Fault("reset", "POST", "uploads"), Fault("reset", "GET")],
        [Fault("lost", "POST", "uploads")],
        [Fault("lost", "POST", "uploadId"), Fault("lost", "PUT", "partNumber")],
        [Fault("lost", "PUT", "manifest")],
        [Fault("status", "PUT", "manifest", 409)],
        [Fault("status", "DELETE", "", 503), Fault("lost", "DELETE"), Fault("lost", "HEAD")],
        [Fault("corrupt", "PUT", "partNumber")],
    ],
    ids=[
        "503 to parts",
        "500 and 502",
        "429",
        "resets",
        "a lost beginning",
        "a lost completion",
        "a lost swap",
        "two swaps that met",
        "the rest",
        "a byte",
    ],
)
def test_what_time_can_heal_is_tried_again(s3: S3, lake: S3Lake, tmp_path: Path, faults: list[Fault]) -> None:
    make_month(lake, SMALL, tmp_path)
    s3.faults = list(faults)
    manifest = make_month(lake, LARGE, tmp_path)
    assert s3.faults == []
    assert lake.manifest(KEYS) == manifest
    begun = faults[0].kind == "lost" and faults[0].about == "uploads"
    if begun:
        # What a lost answer began nobody knows of; the bucket's rule clears it.
        assert s3.unfinished() == 1
    else:
        check_whole(s3, lake)


def test_a_stall_ends_with_the_timeout_and_is_tried_again(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLC_HTTP_TIMEOUT", "0.5")
    lake = S3Lake(s3.client(), s3.bucket, "taxi")
    s3.faults = [Fault("stall", "GET", "clean"), Fault("stall", "PUT", "clean")]
    threading.Timer(1.5, s3.release.set).start()
    make_month(lake, SMALL, tmp_path)
    check_whole(s3, lake)


@pytest.mark.parametrize("about", ["partNumber", "uploads", "manifest", "list-type"])
def test_a_bucket_that_stays_down_leaves_the_old_month_and_the_next_run_leaves_nothing_else(
    s3: S3, lake: S3Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, about: str
) -> None:
    old = make_month(lake, SMALL, tmp_path)
    before = objects(s3)
    monkeypatch.setenv("TLC_HTTP_RETRIES", "1")
    s3.faults = [Fault("status", method, about, 503) for method in ("PUT", "POST", "GET") for _ in range(100)]
    with pytest.raises(TransientError, match=r"green 2024-01|list"):
        make_month(lake, LARGE, tmp_path)
    s3.faults = []
    assert lake.manifest(KEYS) == old
    assert objects(s3).items() >= before.items()
    assert s3.unfinished() == 0
    make_month(lake, LARGE, tmp_path)
    check_whole(s3, lake)


@pytest.mark.parametrize(
    ("status", "kind", "fix"),
    [(403, ConfigurationError, "grant the policy"), (418, LakeError, "")],
)
def test_a_refusal_says_what_to_do(
    s3: S3, lake: S3Lake, tmp_path: Path, status: int, kind: type[TlcError], fix: str
) -> None:
    s3.faults = [Fault("status", "POST", "uploads", status)]
    with pytest.raises(kind) as caught:
        make_month(lake, LARGE, tmp_path)
    assert fix in caught.value.fix
    assert f"s3://{s3.bucket}/taxi" in caught.value.what
    assert s3.names() == set()
    assert s3.unfinished() == 0


def test_a_bucket_that_is_not_there_is_named(s3: S3, tmp_path: Path) -> None:
    lake = S3Lake(s3.client(), "no-such-bucket")
    with pytest.raises(ConfigurationError, match="there is no bucket at s3://no-such-bucket"):
        make_month(lake, SMALL, tmp_path)


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLC_HTTP_RETRIES", "1")
    session = boto3.Session("AKIAIOSFODNN7EXAMPLE", "planted-5ecret", region_name="us-east-1")
    client = session.client("s3", endpoint_url="http://127.0.0.1:9", config=client_config())
    with pytest.raises(TransientError, match="did not answer") as caught:
        make_month(S3Lake(client, "taxi-lake"), SMALL, tmp_path)
    assert "planted-5ecret" not in str(caught.value)


def test_a_machine_without_credentials_is_told_so() -> None:
    error = explain(NoCredentialsError(), "green 2024-01", "s3://b")
    assert isinstance(error, ConfigurationError)
    assert "role" in error.fix


def test_reading_back_takes_ranges_not_the_whole(s3: S3, lake: S3Lake, tmp_path: Path) -> None:
    manifest = make_month(lake, LARGE, tmp_path)
    s3.calls.clear()
    with lake.open(manifest.clean.key) as file:
        assert pq.ParquetFile(file).read(columns=["vendor_id"]).num_rows == 20_000
    spans = [call.range.removeprefix("bytes=").split("-") for call in s3.calls if call.range]
    assert sum(int(end) - int(start) for start, end in spans) < manifest.clean.bytes
    assert len(spans) == len([call for call in s3.calls if call.method == "GET"])


def test_a_reader_of_a_month_that_is_replaced_meanwhile_is_told_in_one_line(
    s3: S3, lake: S3Lake, tmp_path: Path
) -> None:
    manifest = make_month(lake, LARGE, tmp_path)
    with lake.open(manifest.clean.key) as file:
        file.read(10)
        make_month(lake, SMALL, tmp_path)
        with pytest.raises(LakeError, match=r"green 2024-01: s3://.* failed; got HTTP 404"):
            file.read(10)


@pytest.mark.parametrize("at", ["partNumber", "manifest"])
def test_a_run_killed_in_an_upload_leaves_the_month_as_it_was_and_the_next_one_completes(
    s3: S3, lake: S3Lake, tmp_path: Path, at: Literal["partNumber", "manifest"]
) -> None:
    old = make_month(lake, SMALL, tmp_path)
    script = (
        "import sys; from pathlib import Path; import boto3; from nyc_tlc.lake import s3;"
        "from factories import make_month; url, bucket, source = sys.argv[1], sys.argv[2], Path(sys.argv[3]);"
        "s3.PART_BYTES = range(100_000, 200_000);"
        "client = boto3.Session('a', 'b', region_name='us-east-1').client("
        "'s3', endpoint_url=url, config=s3.client_config());"
        "make_month(s3.S3Lake(client, bucket, 'taxi'), source.read_bytes(), source.parent)"
    )
    (tmp_path / "killed").mkdir()
    source = tmp_path / "killed" / "source"
    source.write_bytes(LARGE)
    s3.faults = [Fault("stall", "PUT", at)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'flows'}:{ROOT / 'tests'}"}
    with subprocess.Popen([sys.executable, "-c", script, s3.url, s3.bucket, str(source)], env=environment) as process:
        assert s3.stalled.wait(60)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        # What was on its way is lost with the connection, as a body that was cut.
        s3.faults = []
        assert lake.manifest(KEYS) == old
        manifest = make_month(lake, LARGE, tmp_path)
    assert lake.manifest(KEYS) == manifest
    assert {name for name in s3.names() if "manifest" not in name} == {f"taxi/{key}" for key in manifest.file_keys}


def test_a_publication_costs_the_requests_that_the_documents_say(s3: S3, lake: S3Lake, tmp_path: Path) -> None:
    table = (ROOT / "docs/lakes.md").read_text().partition("| Amazon S3 | GET and HEAD |")[2].splitlines()[2:5]
    two = green_parquet(trip(), trip())
    for row, body in zip(table, (SMALL, two, two), strict=True):
        s3.calls.clear()
        make_month(lake, body, tmp_path)
        listings = sum("list-type" in call.path for call in s3.calls)
        methods = [call.method for call in s3.calls]
        counted = [
            methods.count("GET") + methods.count("HEAD") - listings,
            methods.count("PUT"),
            listings,
            methods.count("DELETE"),
            len(methods),
        ]
        assert [int(cell.strip() or 0) for cell in row.strip("| ").split("|")[1:]] == counted
