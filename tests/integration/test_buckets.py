"""Failures of the stores that buckets are in: the month is published complete, or the lake is unchanged."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Literal

import boto3
import pyarrow.parquet as pq
import pytest
from azure.core.exceptions import HttpResponseError
from botocore.exceptions import NoCredentialsError
from google.auth.exceptions import RefreshError

from conftest import ROOT, bucket
from factories import JANUARY, green_parquet, make_month, trip
from nyc_tlc.errors import ConfigurationError, LakeError, TlcError, TransientError
from nyc_tlc.lake.azure import AzureLake
from nyc_tlc.lake.gcs import GcsLake
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.s3 import S3Lake, client_config
from nyc_tlc.lake.store import Lake
from stand_ins.azure import Azure
from stand_ins.gcs import Fault, Gcs
from stand_ins.s3 import S3
from stores import FOLDER, BucketStore

KEYS = Keys("green", JANUARY)
SMALL = green_parquet(trip(), trip(passenger_count=0))
CHANCE = random.Random(2024)
MONEY = ("trip_distance", "fare_amount", "extra", "tip_amount", "tolls_amount", "total_amount")
OTHER = green_parquet(trip(), trip(passenger_count=0), trip())
#: More than a reader asks for at once.
LONG = green_parquet(*(trip(**{name: CHANCE.random() for name in MONEY}) for _ in range(20_000)))
#: More than one part, chunk or block of any store.
LARGE = random.Random(7).randbytes(18 << 20)

Name = Literal["gcs", "s3", "azure"]


@pytest.fixture(params=["gcs", "s3", "azure"])
def store(request: pytest.FixtureRequest) -> BucketStore:
    """Return the store of the lake."""
    return BucketStore(request.getfixturevalue(request.param))


def name_of(store: BucketStore) -> Name:
    return "gcs" if isinstance(store.stand_in, Gcs) else "s3" if isinstance(store.stand_in, S3) else "azure"


def check_whole(store: BucketStore) -> None:
    """Check that the files are exactly those in the manifest, with its digests, and that no upload is unfinished."""
    manifest = store.open_lake().manifest(KEYS)
    assert manifest is not None
    assert {key for key in store.objects() if not key.startswith(("manifest/", "history/"))} == manifest.file_keys
    for file in manifest.files:
        assert hashlib.sha256(store.read(file.key)).hexdigest() == file.sha256
    if isinstance(store.stand_in, S3):
        assert store.stand_in.unfinished() == 0


def upload(lake: Lake, folder: Path, content: bytes, labels: dict[str, str] | None = None) -> None:
    path = folder / "file"
    path.write_bytes(content)
    lake.upload("raw/file.parquet", path, hashlib.sha256(content).hexdigest(), labels or {})


def parts(store: BucketStore) -> int:
    """Return the number of requests that sent a part of a file."""
    calls = store.stand_in.calls
    marks = {"gcs": "upload_id", "s3": "partNumber", "azure": "comp=block&"}
    return sum(call.method == "PUT" and marks[name_of(store)] in call.path for call in calls)


def test_a_large_file_is_sent_in_parts_and_a_small_one_at_once(store: BucketStore, tmp_path: Path) -> None:
    for content, expected in ((b"", 0), (b"small", 0), (LARGE, 3)):
        upload(store.open_lake(), tmp_path, content, {"color": "green"})
        assert store.read("raw/file.parquet") == content
        assert parts(store) == expected


def test_objects_say_what_they_are(store: BucketStore, tmp_path: Path) -> None:
    manifest = make_month(store.open_lake(), SMALL, tmp_path)
    stand_in = store.stand_in
    for key, kind in (
        (manifest.clean.key, "application/vnd.apache.parquet"),
        (manifest.quarantine.key, "application/vnd.apache.parquet"),
        (KEYS.manifest, "application/json"),
    ):
        if isinstance(stand_in, Gcs):
            found = stand_in.metadata("taxi-lake", f"{FOLDER}/{key}")
            content_type, metadata = found["contentType"], found["metadata"]
        elif isinstance(stand_in, S3):
            head = stand_in.client().head_object(Bucket=stand_in.bucket, Key=f"{FOLDER}/{key}")
            content_type, metadata = head["ContentType"], head["Metadata"]
        else:
            with stand_in.client() as client:
                blob = client.get_blob_client(f"{FOLDER}/{key}").get_blob_properties()
            content_type, metadata = blob.content_settings.content_type, blob.metadata
        assert content_type == kind
        labels = {name.replace("-", "_"): value for name, value in metadata.items()}
        assert labels.items() >= manifest.labels.items()


#: Faults of a publication that a client's retries heal: what a request meets, by its method and a part of its URL.
HEALED: dict[Name, list[list[Fault]]] = {
    "gcs": [
        [Fault("status", "POST", "uploadType", 503), Fault("reset", "POST", "uploadType")],
        [Fault("lost", "POST", "uploadType"), Fault("lost", "GET")],
        [Fault("status", "GET", "", 500), Fault("status", "DELETE", "", 503)],
    ],
    "s3": [
        [Fault("status", "PUT", "clean", 503), Fault("reset", "PUT", "raw")],
        [Fault("lost", "PUT", "clean"), Fault("lost", "DELETE")],
        [Fault("status", "GET", "list-type", 500), Fault("reset", "GET", "manifest")],
        [Fault("damage", "GET", "manifest"), Fault("cut", "GET", "manifest")],
    ],
    "azure": [
        [Fault("status", "PUT", "clean", 503), Fault("reset", "PUT", "raw")],
        [Fault("lost", "PUT", "clean"), Fault("lost", "DELETE")],
        [Fault("cut", "GET", "comp=list")],
        [Fault("status", "GET", "comp=list", 500), Fault("cut", "GET", "manifest")],
    ],
}


def test_what_time_can_heal_is_tried_again(store: BucketStore, tmp_path: Path) -> None:
    make_month(store.open_lake(), SMALL, tmp_path)
    for number, faults in enumerate(HEALED[name_of(store)]):
        store.stand_in.faults = list(faults)
        manifest = make_month(store.open_lake(), (OTHER, SMALL)[number % 2], tmp_path)
        assert store.stand_in.faults == []
        assert store.open_lake().manifest(KEYS) == manifest
        check_whole(store)


#: Faults of an upload in parts.
HEALED_PARTS: dict[Name, list[list[Fault]]] = {
    "gcs": [
        [Fault("status", "PUT", "upload_id", 503), Fault("reset", "PUT", "upload_id")],
        [Fault("lost", "PUT", "upload_id")],
    ],
    "s3": [
        [Fault("status", "PUT", "partNumber", 503), Fault("reset", "PUT", "partNumber")],
        [Fault("lost", "POST", "uploadId")],
    ],
    "azure": [
        [Fault("status", "PUT", "comp=block&", 503), Fault("reset", "PUT", "comp=block&")],
        [Fault("lost", "PUT", "comp=blocklist")],
    ],
}


@pytest.mark.parametrize("number", range(2), ids=["a part", "the last step's answer is lost"])
def test_an_upload_in_parts_survives(store: BucketStore, tmp_path: Path, number: int) -> None:
    store.stand_in.faults = list(HEALED_PARTS[name_of(store)][number])
    upload(store.open_lake(), tmp_path, LARGE)
    assert store.stand_in.faults == []
    assert store.read("raw/file.parquet") == LARGE


def test_a_stall_ends_with_the_timeout_and_is_tried_again(
    store: BucketStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TLC_HTTP_TIMEOUT", "0.3")
    if isinstance(store.stand_in, S3):
        store.stand_in.forget_clients()
    store.stand_in.faults = [Fault("stall", "GET", "manifest")]
    threading.Timer(0.7, store.stand_in.release.set).start()
    make_month(store.open_lake(), SMALL, tmp_path)
    check_whole(store)


@pytest.mark.parametrize("kind", ["lost", "status"])
def test_a_swap_whose_answer_was_lost_is_found_done(
    store: BucketStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Literal["lost", "status"]
) -> None:
    # A version that is kept has a manifest, too.
    monkeypatch.setenv("TLC_KEEP_VERSIONS", "0")
    make_month(store.open_lake(), SMALL, tmp_path)
    if isinstance(store.stand_in, Gcs):
        meet_fourth_post(store.stand_in, Fault(kind))
    else:
        store.stand_in.faults = [Fault(kind, "PUT", "manifest")]
    manifest = make_month(store.open_lake(), OTHER, tmp_path)
    assert store.stand_in.faults == []
    assert store.open_lake().manifest(KEYS) == manifest
    check_whole(store)


def meet_fourth_post(gcs: Gcs, fault: Fault) -> None:
    """Let the manifest meet a fault. Its URL is that of the three files before it."""
    posts: list[str] = []

    def count(handler: Any) -> None:
        if handler.command == "POST":
            posts.append(handler.path)
            if len(posts) == 4:
                gcs.faults.append(dataclasses.replace(fault, method="POST"))

    gcs.before = count


def test_a_bucket_that_stays_down_leaves_the_old_month_and_no_new_file(
    store: BucketStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_month(store.open_lake(), SMALL, tmp_path)
    before = store.objects()
    give_up_soon(store, monkeypatch)
    about = "uploadType" if isinstance(store.stand_in, Gcs) else "clean"
    store.stand_in.faults = [Fault("status", method, about, 503) for method in ("PUT", "POST") for _ in range(100)]
    with pytest.raises(TransientError, match=r"green 2024-01: .* did not answer; got .*503"):
        make_month(store.open_lake(), OTHER, tmp_path)
    store.stand_in.faults = []
    assert store.open_lake().manifest(KEYS) == old
    assert store.objects() == before, "the files that were sent before are removed"
    make_month(store.open_lake(), OTHER, tmp_path)
    check_whole(store)


def give_up_soon(store: BucketStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLC_GCS_GIVE_UP", "0.2")
    monkeypatch.setenv("TLC_HTTP_RETRIES", "0")
    if isinstance(store.stand_in, S3):
        store.stand_in.forget_clients()


def test_bytes_that_change_on_the_way_are_not_published(store: BucketStore, tmp_path: Path) -> None:
    old = make_month(store.open_lake(), SMALL, tmp_path)
    before = store.objects()
    method, about = ("POST", "uploadType") if isinstance(store.stand_in, Gcs) else ("PUT", "clean")
    store.stand_in.faults = [Fault("corrupt", method, about) for _ in range(10)]
    with pytest.raises(TlcError, match="green 2024-01"):
        make_month(store.open_lake(), OTHER, tmp_path)
    store.stand_in.faults = []
    assert store.open_lake().manifest(KEYS) == old
    assert store.objects() == before


RETENTION = "Object 'x' is subject to bucket's retention policy and cannot be deleted or overwritten until 2027"
BILLING = "The billing account for the owning project is disabled in state closed"
KMS = "Permission denied on Cloud KMS key. Please ensure that your Cloud Storage service account has been authorized"
REQUESTER_PAYS = "Bucket is a requester pays bucket but no user project provided."
DENIED = "AccessDenied User: x is not authorized to perform: {} on resource: y"

#: Store, status, message or code -> the error's kind, and parts of it.
REFUSED: list[tuple[Name, int, str, type[TlcError], tuple[str, ...]]] = [
    ("gcs", 401, "Invalid Credentials", ConfigurationError, ("the credentials", "are refused", "renew them")),
    ("gcs", 403, "x does not have storage.objects.create access", ConfigurationError, ("roles/storage.objectUser",)),
    ("gcs", 403, RETENTION, ConfigurationError, ("a policy of", "without a retention")),
    ("gcs", 403, BILLING, ConfigurationError, ("closed or disabled", "enable billing")),
    ("gcs", 403, KMS, ConfigurationError, ("may not use the key", "roles/cloudkms.cryptoKeyEncrypterDecrypter")),
    ("gcs", 400, REQUESTER_PAYS, ConfigurationError, ("requester-pays", "not supported")),
    ("gcs", 418, "a teapot", LakeError, ("failed", "a teapot")),
    ("s3", 403, "AccessDenied", ConfigurationError, ("a permission is missing", "grant the policy")),
    ("s3", 403, DENIED.format("kms:GenerateDataKey"), ConfigurationError, ("kms:GenerateDataKey and kms:Decrypt",)),
    ("s3", 400, "ExpiredToken", ConfigurationError, ("the credentials", "are refused")),
    ("s3", 403, "InvalidAccessKeyId", ConfigurationError, ("the credentials", "are refused")),
    ("s3", 403, "SignatureDoesNotMatch", ConfigurationError, ("the credentials", "are refused")),
    ("s3", 409, "ConditionalRequestConflict", TransientError, ("did not answer",)),
    ("s3", 418, "Teapot", LakeError, ("failed", "Teapot")),
    ("azure", 403, "AuthorizationPermissionMismatch", ConfigurationError, ("Storage Blob Data Contributor",)),
    ("azure", 403, "AuthenticationFailed", ConfigurationError, ("the credentials", "are refused")),
    ("azure", 409, "BlobImmutableDueToPolicy", ConfigurationError, ("a policy of", "immutability policy")),
    ("azure", 418, "Teapot", LakeError, ("failed", "Teapot")),
]


def test_a_refusal_says_what_to_do(store: BucketStore) -> None:
    method, about = ("POST", "multipart") if isinstance(store.stand_in, Gcs) else ("PUT", "manifest")
    for name, status, message, kind, said in REFUSED:
        if name == name_of(store):
            store.stand_in.faults = [Fault("status", method, about, status, message=message) for _ in range(10)]
            with pytest.raises(TlcError) as caught:
                store.open_lake().swap(KEYS.manifest, b"{}", None, {})
            assert type(caught.value) is kind
            assert str(caught.value).startswith("green 2024-01: ")
            assert [part for part in said if part not in str(caught.value)] == []


def test_a_token_that_expired_before_a_look_is_credentials(s3: S3) -> None:
    # The client asks again, in case that the bucket is in another region.
    s3.faults = [Fault("status", "HEAD", "", 400) for _ in range(5)]
    with pytest.raises(ConfigurationError, match=r"the credentials for s3://.* are refused"):
        BucketStore(s3).open_lake().size("raw/x")


def test_a_bucket_that_is_not_there_is_named(gcs: Gcs, s3: S3, tmp_path: Path) -> None:
    for lake in (GcsLake(bucket(gcs.url, "no-such-bucket")), S3Lake(s3.client(), "no-such-bucket")):
        with pytest.raises(ConfigurationError, match=r"there is no such bucket or container: (gs|s3)://no-such-bucket"):
            make_month(lake, SMALL, tmp_path)


def test_a_container_that_is_not_there_is_named(azure: Azure, tmp_path: Path) -> None:
    azure.container = "no-such-container"
    with pytest.raises(ConfigurationError, match=r"there is no such bucket or container: http://.*/no-such-container"):
        make_month(AzureLake(azure.client()), SMALL, tmp_path)


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLC_HTTP_RETRIES", "1")
    session = boto3.Session("AKIAIOSFODNN7EXAMPLE", "planted-5ecret", region_name="us-east-1")
    client = session.client("s3", endpoint_url="http://127.0.0.1:9", config=client_config())
    with pytest.raises(TransientError, match="did not answer") as caught:
        make_month(S3Lake(client, "taxi-lake"), SMALL, tmp_path)
    assert "planted-5ecret" not in str(caught.value)


def test_errors_without_an_answer_are_told_apart() -> None:
    refused = GcsLake.explain(RefreshError("invalid_grant: Invalid JWT Signature.", {"error": "x"}), "green", "gs://b")
    assert isinstance(refused, ConfigurationError)
    assert "invalid_grant" in str(refused)
    missing = S3Lake.explain(NoCredentialsError(), "green 2024-01", "s3://b")
    assert isinstance(missing, ConfigurationError)
    assert "role" in missing.fix
    assert isinstance(AzureLake.explain(HttpResponseError("cut off"), "green", "https://b"), TransientError)


def test_reading_back_takes_ranges_not_the_whole(store: BucketStore, tmp_path: Path) -> None:
    lake = store.open_lake()
    manifest = make_month(lake, LONG, tmp_path)
    store.stand_in.calls.clear()
    with lake.open(manifest.clean.key) as file:
        assert pq.ParquetFile(file).read(columns=["vendor_id"]).num_rows == 20_000
    spans = [call.range.removeprefix("bytes=").split("-") for call in store.stand_in.calls if call.range]
    assert spans
    assert sum(int(end) - int(start) for start, end in spans) < manifest.clean.bytes


def test_a_reader_of_a_month_that_is_replaced_or_out_of_reach_is_told_in_one_line(
    store: BucketStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = store.open_lake()
    manifest = make_month(lake, LONG, tmp_path)
    with lake.open(manifest.clean.key) as file:
        file.read(10)
        make_month(store.open_lake(), SMALL, tmp_path)
        with pytest.raises(LakeError, match=r"green 2024-01: .* failed; got HTTP 404"):
            file.read(10)
    manifest = make_month(lake, LONG, tmp_path)
    give_up_soon(store, monkeypatch)
    with store.open_lake().open(manifest.clean.key) as file:
        store.stand_in.faults = [Fault("status", "GET", "clean", 503)] * 100
        with pytest.raises(TransientError, match=r"green 2024-01: .* did not answer; got .*503"):
            file.read(10)


KILLED = """
import sys
from pathlib import Path
from factories import make_month
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from nyc_tlc.lake.gcs import GcsLake
client = storage.Client("test", AnonymousCredentials(), client_options={"api_endpoint": sys.argv[1]})
source = Path(sys.argv[2])
make_month(GcsLake(client.bucket("taxi-lake"), "some/folder"), source.read_bytes(), source.parent)
"""


def test_a_run_killed_in_an_upload_leaves_the_month_and_the_next_one_leaves_nothing_else(
    gcs: Gcs, tmp_path: Path
) -> None:
    store = BucketStore(gcs)
    old = make_month(store.open_lake(), SMALL, tmp_path)
    (tmp_path / "killed").mkdir()
    source = tmp_path / "killed" / "source"
    source.write_bytes(OTHER)
    gcs.faults = [Fault("stall", "POST", "uploadType")]
    environment: dict[str, Any] = os.environ | {"PYTHONPATH": f"{ROOT / 'flows'}:{ROOT / 'tests'}"}
    with subprocess.Popen([sys.executable, "-c", KILLED, gcs.url, str(source)], env=environment) as process:
        assert gcs.stalled.wait(60)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    gcs.release.set()
    assert store.open_lake().manifest(KEYS) == old
    make_month(store.open_lake(), OTHER, tmp_path)
    check_whole(store)


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_stores_that_are_not_amazons_get_no_checksum_that_some_refuse(tls_s3: S3, tmp_path: Path) -> None:
    lake = S3Lake(tls_s3.client(own_endpoint=True), tls_s3.bucket, FOLDER)
    make_month(lake, SMALL, tmp_path)
    upload(lake, tmp_path, LARGE)
    sent = [headers for call, headers in zip(tls_s3.calls, tls_s3.headers, strict=True) if call.method == "PUT"]
    assert len(sent) > 5
    for headers in sent:
        names = {name.lower() for name in headers}
        assert not names & {"x-amz-trailer", "x-amz-sdk-checksum-algorithm", "x-amz-checksum-crc32", "content-md5"}
        assert "aws-chunked" not in headers.get("Content-Encoding", "")
        # The signature covers the bytes instead.
        assert len(headers["X-Amz-Content-SHA256"]) == 64
    assert tls_s3.read(f"{FOLDER}/raw/file.parquet") == LARGE


def test_a_publication_costs_the_requests_that_the_documents_say(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = (ROOT / "docs/lakes.md").read_text().partition("| Amazon S3 | GET and HEAD |")[2].splitlines()[2:5]
    two = green_parquet(trip(), trip())
    for row, body, keep in zip(table, (SMALL, two, LONG), (0, 0, 3), strict=True):
        monkeypatch.setenv("TLC_KEEP_VERSIONS", str(keep))
        s3.calls.clear()
        make_month(BucketStore(s3).open_lake(), body, tmp_path)
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
