"""A data lake in a bucket of Amazon S3, or of a store that speaks its protocol: MinIO, Ceph, R2.

Conditional writes go by an object's ETag. S3 derives it from the bytes and from how they were sent, so the same bytes
sent twice could have the same one, and a deletion that was meant for the first object would hit the second. So a file
is never sent twice in the same way: a large one in parts of a random size, a small one in the other one of the two ways
that there are (as one part, or without parts), if it is there already. An object's version is its ETag and the second
in which it was written.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
    SSLError,
    SSOError,
)

from nyc_tlc.errors import ConfigurationError, LakeError, TlcError, TransientError
from nyc_tlc.lake.attempts import try_again
from nyc_tlc.lake.keys import describe_key
from nyc_tlc.lake.lake import Lake, NewFile, SwapRefusedError, content_type
from nyc_tlc.lake.range_reader import RangeReader
from nyc_tlc.settings import read_settings

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

T = TypeVar("T")

#: The bytes of a part of an upload. S3 takes none of less than 5 MiB but the last one.
PART_BYTES = range(5 << 20, 8 << 20)
RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
#: Two writes met, or bytes were lost or changed on the way.
RETRIED_CODES = frozenset(
    {
        *("ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "SlowDown"),
        *("BadDigest", "IncompleteBody", "XAmzContentChecksumMismatch"),
    }
)
#: An object that isn't there, as GET and as HEAD say it.
NOT_THERE = frozenset({"NoSuchKey", "404"})
PRECONDITION_FAILED = frozenset({"PreconditionFailed", "412"})
BAD_CREDENTIALS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "RequestTimeTooSkewed", "401"}
)
CREDENTIAL_FAILURES = (
    CredentialRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    SSOError,
)
#: What the client raises when something is wrong on the way or at the other end.
FAILURES = (BotoCoreError, ClientError)


def client_config(given: Config | None = None) -> Config:
    """How a lake's client waits. It does not try again: the lake does.

    Args:
        given: What the profile's block says beside.
    """
    timeout = read_settings().http_timeout
    own = Config(connect_timeout=timeout, read_timeout=timeout, retries={"total_max_attempts": 1})
    return given.merge(own) if given else own


class S3Lake(Lake):
    """A data lake in a bucket, under a folder of it."""

    def __init__(self, client: S3Client, bucket: str, folder: str = "") -> None:
        """Use a bucket.

        Args:
            client: A client made with ``client_config``, with the right to list the bucket and to read, write and
                delete its objects.
            bucket: The bucket's name.
            folder: The folder in the bucket that is the lake's root.
        """
        self.client, self.bucket, self._folder = client, bucket, PurePosixPath(folder.strip("/"))

    def url(self, key: str) -> str:
        """The ``s3://`` URL."""
        return f"s3://{self.bucket}/{self.name(key)}"

    def local_path(self, key: str) -> None:
        """Objects of a bucket are not on this machine."""

    def size(self, key: str) -> int | None:
        """An object's size in bytes, None when there is none."""
        found = self.find(key)
        return int(found["ContentLength"]) if found else None

    def open(self, key: str) -> BinaryIO:
        """An object for reading, range by range."""
        size = self.size(key)
        if size is None:
            raise LakeError(f"there is no {key} in the lake", got=self.url(""))
        return cast(BinaryIO, RangeReader(partial(self._read_range, key), size))

    def read_version(self, key: str) -> tuple[bytes, str] | None:
        """A small object's content and version, None when there is none."""

        def read() -> tuple[bytes, str]:
            answer = self.client.get_object(Bucket=self.bucket, Key=self.name(key))
            return answer["Body"].read(), _version(answer["ETag"], answer["LastModified"])

        with self.explained(key):
            try:
                return self._try_again(read)
            except ClientError as error:
                if _code(error) in NOT_THERE:
                    return None
                raise

    def write(self, key: str, content: bytes) -> None:
        """Write a small object, whole or not at all."""
        with self.explained(key):
            self.put(key, content, {})

    def swap(self, key: str, content: bytes, expected: str | None, labels: Mapping[str, str]) -> None:
        """Write a small object if the expected version is there; it carries the labels as its metadata."""
        condition = {"IfMatch": _etag(expected)} if expected else {"IfNoneMatch": "*"}
        with self.explained(key):
            try:
                self.put(key, content, labels, **condition)
            except ClientError as error:
                if _code(error) in PRECONDITION_FAILED | NOT_THERE:
                    raise SwapRefusedError(key) from error
                raise

    def list_objects(self, prefix: str) -> dict[str, str]:
        """The objects whose keys begin with a prefix, and their versions."""
        found: dict[str, str] = {}
        more: dict[str, Any] = {}
        with self.explained(prefix):
            while True:
                page = self.call("list_objects_v2", Prefix=self.name(prefix), **more)
                for each in page.get("Contents", ()):
                    key = each["Key"].removeprefix(self.name("")).lstrip("/")
                    found[key] = _version(each["ETag"], each["LastModified"])
                if not page.get("IsTruncated"):
                    return found
                more = {"ContinuationToken": page["NextContinuationToken"]}

    def remove(self, key: str, version: str | None = None) -> None:
        """Delete an object; with a version, only that one."""

        def remove_version() -> None:
            # What may have been done already, though the answer was lost, is looked at again before the next attempt.
            found = self._head(key)
            if found is None or _version(found["ETag"], found["LastModified"]) != version:
                return
            with contextlib.suppress(self.client.exceptions.NoSuchKey):
                self.client.delete_object(Bucket=self.bucket, Key=self.name(key), IfMatch=found["ETag"])

        with self.explained(key):
            if version is None:
                self.call("delete_object", Key=self.name(key))
                return
            try:
                self._try_again(remove_version)
            except ClientError as error:
                if _code(error) not in PRECONDITION_FAILED | NOT_THERE:
                    raise

    def upload(self, file: NewFile, labels: Mapping[str, str]) -> S3Upload:
        """Send a file but for the last step: what completes its parts, or the whole of a small one."""
        upload = S3Upload(self, file, {**labels, "sha256": file.sha256})
        try:
            with self.explained(file.key):
                upload.send()
        except BaseException:
            upload.abort()
            raise
        return upload

    def find(self, key: str) -> Any | None:
        """What the bucket knows of an object, None when there is none."""
        with self.explained(key):
            return self._try_again(partial(self._head, key))

    def name(self, key: str) -> str:
        """An object's name in the bucket."""
        return str(self._folder / key) + "/" * key.endswith("/") if str(self._folder) != "." else key

    def put(self, key: str, content: bytes, metadata: Mapping[str, str], **condition: str) -> None:
        """Write a small object in one request."""
        self.call(
            "put_object",
            Key=self.name(key),
            Body=content,
            ContentMD5=_md5(content),
            ContentType=content_type(key),
            Metadata=header_names(metadata),
            **condition,
        )

    def call(self, operation: str, **parameters: Any) -> Any:
        """Make a call about the bucket, again while time can heal what it fails of."""
        return self._try_again(partial(getattr(self.client, operation), Bucket=self.bucket, **parameters))

    @contextlib.contextmanager
    def explained(self, key: str) -> Iterator[None]:
        """Turn what the client raises into an error that says what to do."""
        try:
            yield
        except FAILURES as error:
            raise explain(error, describe_key(key), self.url("")) from error

    def _head(self, key: str) -> Any | None:
        try:
            return self.client.head_object(Bucket=self.bucket, Key=self.name(key))
        except ClientError as error:
            if _code(error) in NOT_THERE:
                return None
            raise

    def _read_range(self, key: str, start: int, end: int) -> bytes:
        def read() -> bytes:
            span = f"bytes={start}-{end - 1}"
            return self.client.get_object(Bucket=self.bucket, Key=self.name(key), Range=span)["Body"].read()

        with self.explained(key):
            return self._try_again(read)

    def _try_again(self, call: Callable[[], T]) -> T:
        return try_again(call, _wait_for, self.url(""))


class S3Upload:
    """An upload short of its last step."""

    def __init__(self, lake: S3Lake, file: NewFile, metadata: Mapping[str, str]) -> None:
        """Prepare an upload; nothing is sent yet."""
        self._lake, self._file, self._metadata = lake, file, header_names(metadata)
        self._parts: list[CompletedPartTypeDef] = []
        self._digests = b""
        self._id: str | None = None

    def send(self) -> None:
        """Send a large file's parts. A small one is read once, to know that it is what it should be."""
        if self._file.size < PART_BYTES.stop:
            collections.deque(self._file.pieces(), maxlen=0)
            return
        self._begin()
        size = random.choice(PART_BYTES)  # noqa: S311  it only has to differ
        unsent = bytearray()
        for piece in self._file.pieces():
            unsent += piece
            while len(unsent) > size:
                self._send_part(bytes(unsent[:size]))
                del unsent[:size]
        self._send_part(bytes(unsent))

    def is_there(self) -> bool:
        """Whether the object has these bytes already: it says so, and it was checked when it was written."""
        found = self._lake.find(self._file.key)
        if found is None:
            return False
        there = found["ContentLength"], found["Metadata"].get("sha256")
        return bool(there == (self._file.size, self._file.sha256))

    def finish(self) -> None:
        """Make it the object."""
        with self._lake.explained(self._file.key):
            if self._id is None:
                content = b"".join(self._file.pieces())
                found = self._lake.find(self._file.key)
                if found is None or found["ETag"] != f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"':
                    self._lake.put(self._file.key, content, self._metadata)
                    return
                self._begin()
                self._send_part(content)
            self._complete()

    def abort(self) -> None:
        """Give it up. Should this not arrive, a rule of the bucket clears what was sent (docs/lakes.md)."""
        if self._id is not None:
            with contextlib.suppress(*FAILURES):
                self._lake.call("abort_multipart_upload", Key=self._name, UploadId=self._id)
            self._id = None

    @property
    def _name(self) -> str:
        return self._lake.name(self._file.key)

    def _begin(self) -> None:
        kind = content_type(self._file.key)
        begun = self._lake.call("create_multipart_upload", Key=self._name, ContentType=kind, Metadata=self._metadata)
        self._id = begun["UploadId"]

    def _send_part(self, content: bytes) -> None:
        number = len(self._parts) + 1
        sent = self._lake.call(
            "upload_part",
            Key=self._name,
            UploadId=self._id,
            PartNumber=number,
            Body=content,
            ContentMD5=_md5(content),
        )
        checksums = {name: sent[name] for name in ("ChecksumCRC32",) if name in sent}
        self._parts.append(cast("CompletedPartTypeDef", {"PartNumber": number, "ETag": sent["ETag"], **checksums}))
        self._digests += hashlib.md5(content, usedforsecurity=False).digest()

    def _complete(self) -> None:
        try:
            self._lake.call(
                "complete_multipart_upload",
                Key=self._name,
                UploadId=self._id,
                MultipartUpload={"Parts": self._parts},
            )
        except ClientError as error:
            # Completed already, though the answer was lost? Then the object is the one that these parts make.
            found = self._lake.find(self._file.key) if _code(error) == "NoSuchUpload" else None
            whole = f"{hashlib.md5(self._digests, usedforsecurity=False).hexdigest()}-{len(self._parts)}"
            if found is None or found["ETag"] != f'"{whole}"':
                raise
        self._id = None


def header_names(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels as an object's metadata, which are headers: proxies may drop those with an underscore."""
    return {name.replace("_", "-"): value for name, value in labels.items()}


def is_transient(error: Exception) -> bool:
    """Whether time can heal what a call failed of."""
    if isinstance(error, ClientError):
        return _status(error) in RETRIED_STATUSES or _code(error) in RETRIED_CODES
    network = (ConnectionError, HTTPClientError, IncompleteReadError, ResponseStreamingError)
    return isinstance(error, network) and not isinstance(error, SSLError)


def explain(error: Exception, name: str, url: str) -> TlcError:
    """What a client's error means for a person."""
    got = str(error).partition("\n")[0][:300]
    if is_transient(error):
        return TransientError(f"{name}: {url} did not answer", got=got, fix="try again later")
    if isinstance(error, CREDENTIAL_FAILURES):
        return ConfigurationError(
            f"{name}: there are no credentials for {url} that can be used",
            got=got,
            fix="give the machine a role, or set the keys as blocks/README.md says",
        )
    if not isinstance(error, ClientError):
        return LakeError(f"{name}: {url} can't be used", got=got)
    code = _code(error)
    got = f"HTTP {_status(error)}: {code}"
    if code in BAD_CREDENTIALS:
        return ConfigurationError(
            f"{name}: the credentials for {url} are refused",
            got=got,
            fix="renew them as blocks/README.md says, and register the profile again",
        )
    if _status(error) == 403:
        return ConfigurationError(
            f"{name}: no right to {url}", got=got, fix="grant the policy that blocks/README.md has for the bucket"
        )
    if code == "NoSuchBucket":
        return ConfigurationError(f"{name}: there is no bucket at {url}", got=got, fix="create it, or correct its name")
    if _status(error) in (301, 307) or code == "AuthorizationHeaderMalformed":
        return ConfigurationError(
            f"{name}: {url} is in another region", got=got, fix="set AWS_REGION and register the profile again"
        )
    if code == "NoSuchUpload":
        return TransientError(f"{name}: an upload to {url} was lost on the way", got=got, fix="run it again")
    return LakeError(f"{name}: {url} failed", got=got)


def _wait_for(error: Exception) -> str | None:
    """What an attempt's failure asks to wait, None when another attempt makes no sense."""
    if not is_transient(error):
        return None
    headers: Mapping[str, str] = {}
    if isinstance(error, ClientError):
        headers = error.response["ResponseMetadata"].get("HTTPHeaders", {})
    return headers.get("retry-after", "")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _version(etag: str, written: datetime) -> str:
    """An object's version: answers to GET and HEAD have no part of a second, so a listing's is left out."""
    return f"{etag} {written:%Y-%m-%dT%H:%M:%S}"


def _etag(version: str) -> str:
    return version.rpartition(" ")[0]


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
