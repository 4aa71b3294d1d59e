"""A data lake in a bucket of Amazon S3, or of a store with the same protocol: MinIO, Ceph, R2.

Conditional writes compare an object's ETag. S3 computes the ETag from the bytes and from how they were sent. If the
same bytes were sent twice in the same way, both objects would have the same ETag, and a deletion meant for the first
object could delete the second. So a file is never sent twice in the same way. A large file is sent in parts of a random
size. A small file can be sent as one part or without parts; if it exists already, the other way is used. An object's
version is its ETag and the second in which it was written.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import hashlib
import random
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

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

from nyc_tlc.errors import ConfigurationError, LakeError, TlcError
from nyc_tlc.lake.bucket import BucketLake, FailedCall
from nyc_tlc.lake.lake import NewFile, SwapRefusedError, content_type
from nyc_tlc.retries import RETRIED_STATUSES, call_with_retries
from nyc_tlc.settings import read_settings

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

T = TypeVar("T")

#: The range for the bytes of an upload's part. S3 refuses parts of less than 5 MiB, except the last one.
PART_BYTES = range(5 << 20, 8 << 20)
#: Two writes at the same time, or bytes were lost or changed during the transfer.
RETRIED_CODES = frozenset(
    {
        *("ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "SlowDown"),
        *("BadDigest", "IncompleteBody", "XAmzContentChecksumMismatch"),
    }
)
#: The codes for a missing object, of GET and of HEAD.
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
#: The client's errors for failures of the network or the service.
FAILURES = (BotoCoreError, ClientError)


def client_config(given: Config | None = None) -> Config:
    """Return the configuration for a lake's client. It does not retry, because the lake does.

    Args:
        given: The configuration in the profile's block.
    """
    timeout = read_settings().http_timeout
    own = Config(connect_timeout=timeout, read_timeout=timeout, retries={"total_max_attempts": 1})
    return given.merge(own) if given else own


class S3Lake(BucketLake):
    """A data lake in a folder of a bucket."""

    def __init__(self, client: S3Client, bucket: str, folder: str = "") -> None:
        """Use a bucket.

        Args:
            client: A client made with ``client_config``, with permission to list the bucket and to read, write and
                delete its objects.
            bucket: The bucket's name.
            folder: The folder in the bucket that is the lake's root.
        """
        super().__init__(folder, FAILURES, explain)
        self.client, self.bucket = client, bucket

    def url(self, key: str) -> str:
        """Return an object's ``s3://`` URL."""
        return f"s3://{self.bucket}/{self.name(key)}"

    def size(self, key: str) -> int | None:
        """Return an object's size in bytes; None if it does not exist."""
        found = self.find(key)
        return int(found["ContentLength"]) if found else None

    def read_range(self, key: str, start: int, end: int) -> bytes:
        """Read a part of an object."""

        def read() -> bytes:
            span = f"bytes={start}-{end - 1}"
            return self.client.get_object(Bucket=self.bucket, Key=self.name(key), Range=span)["Body"].read()

        with self.translate_errors(key):
            return self._retry(read)

    def read_version(self, key: str) -> tuple[bytes, str] | None:
        """Read a small object. Return its content and version; None if it does not exist."""

        def read() -> tuple[bytes, str]:
            answer = self.client.get_object(Bucket=self.bucket, Key=self.name(key))
            return answer["Body"].read(), _version(answer["ETag"], answer["LastModified"])

        with self.translate_errors(key):
            try:
                return self._retry(read)
            except ClientError as error:
                if _code(error) in NOT_THERE:
                    return None
                raise

    def write(self, key: str, content: bytes) -> None:
        """Write a small object atomically."""
        with self.translate_errors(key):
            self.put(key, content, {})

    def swap(self, key: str, content: bytes, expected: str | None, labels: Mapping[str, str]) -> None:
        """Write a small object if its version is the expected one; the labels become its metadata."""
        condition = {"IfMatch": _etag(expected)} if expected else {"IfNoneMatch": "*"}
        with self.translate_errors(key):
            try:
                self.put(key, content, labels, **condition)
            except ClientError as error:
                if _code(error) in PRECONDITION_FAILED | NOT_THERE:
                    raise SwapRefusedError(key) from error
                raise

    def list_objects(self, prefix: str) -> dict[str, str]:
        """Return the keys that start with a prefix, and their versions."""
        found: dict[str, str] = {}
        more: dict[str, Any] = {}
        with self.translate_errors(prefix):
            while True:
                page = self.call("list_objects_v2", Prefix=self.name(prefix), **more)
                for each in page.get("Contents", ()):
                    found[self.key(each["Key"])] = _version(each["ETag"], each["LastModified"])
                if not page.get("IsTruncated"):
                    return found
                more = {"ContinuationToken": page["NextContinuationToken"]}

    def remove(self, key: str, version: str | None = None) -> None:
        """Delete an object; with a version, only if the object has it."""

        def remove_version() -> None:
            # Look again before each attempt: an earlier one may have deleted the object and only its answer was lost.
            found = self._head(key)
            if found is None or _version(found["ETag"], found["LastModified"]) != version:
                return
            with contextlib.suppress(self.client.exceptions.NoSuchKey):
                self.client.delete_object(Bucket=self.bucket, Key=self.name(key), IfMatch=found["ETag"])

        with self.translate_errors(key):
            if version is None:
                self.call("delete_object", Key=self.name(key))
                return
            try:
                self._retry(remove_version)
            except ClientError as error:
                if _code(error) not in PRECONDITION_FAILED | NOT_THERE:
                    raise

    def upload(self, file: NewFile, labels: Mapping[str, str]) -> S3Upload:
        """Send a large file's parts, which ``finish`` completes; a small file is sent by ``finish``."""
        upload = S3Upload(self, file, {**labels, "sha256": file.sha256})
        try:
            with self.translate_errors(file.key):
                upload.send()
        except BaseException:
            upload.abort()
            raise
        return upload

    def find(self, key: str) -> Any | None:
        """Return an object's metadata, the answer to HEAD; None if it does not exist."""
        with self.translate_errors(key):
            return self._retry(partial(self._head, key))

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
        """Make a call about the bucket; repeat it after transient failures."""
        return self._retry(partial(getattr(self.client, operation), Bucket=self.bucket, **parameters))

    def _head(self, key: str) -> Any | None:
        try:
            return self.client.head_object(Bucket=self.bucket, Key=self.name(key))
        except ClientError as error:
            if _code(error) in NOT_THERE:
                return None
            raise

    def _retry(self, call: Callable[[], T]) -> T:
        return call_with_retries(call, _read_retry_after, self.url(""))


class S3Upload:
    """An upload whose last step is not done yet."""

    def __init__(self, lake: S3Lake, file: NewFile, metadata: Mapping[str, str]) -> None:
        """Prepare an upload; nothing is sent yet."""
        self._lake, self._file, self._metadata = lake, file, header_names(metadata)
        self._parts: list[CompletedPartTypeDef] = []
        self._digests = b""
        self._id: str | None = None

    def send(self) -> None:
        """Send a large file's parts. A small file is only read, to check its digest."""
        if self._file.size < PART_BYTES.stop:
            collections.deque(self._file.pieces(), maxlen=0)
            return
        self._begin()
        size = random.choice(PART_BYTES)  # noqa: S311  no secret depends on it
        unsent = bytearray()
        for piece in self._file.pieces():
            unsent += piece
            while len(unsent) > size:
                self._send_part(bytes(unsent[:size]))
                del unsent[:size]
        self._send_part(bytes(unsent))

    def is_there(self) -> bool:
        """Return whether the object has these bytes already, by its size and the digest in its metadata."""
        found = self._lake.find(self._file.key)
        if found is None:
            return False
        there = found["ContentLength"], found["Metadata"].get("sha256")
        return bool(there == (self._file.size, self._file.sha256))

    def finish(self) -> None:
        """Complete the parts, or send a small file: it becomes the object."""
        with self._lake.translate_errors(self._file.key):
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
        """Cancel the upload. If the request fails, a rule of the bucket deletes the sent parts (docs/lakes.md)."""
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
            # An earlier attempt may have completed it and only its answer was lost; then the ETag is that of the parts.
            found = self._lake.find(self._file.key) if _code(error) == "NoSuchUpload" else None
            whole = f"{hashlib.md5(self._digests, usedforsecurity=False).hexdigest()}-{len(self._parts)}"
            if found is None or found["ETag"] != f'"{whole}"':
                raise
        self._id = None


def header_names(labels: Mapping[str, str]) -> dict[str, str]:
    """Return labels with dashes in their names: they become headers, and proxies may drop those with an underscore."""
    return {name.replace("_", "-"): value for name, value in labels.items()}


def is_transient(error: Exception) -> bool:
    """Return whether a later attempt can succeed."""
    if isinstance(error, ClientError):
        return _status(error) in RETRIED_STATUSES or _code(error) in RETRIED_CODES
    network = (ConnectionError, HTTPClientError, IncompleteReadError, ResponseStreamingError)
    return isinstance(error, network) and not isinstance(error, SSLError)


def explain(error: Exception, name: str, url: str) -> TlcError:
    """Return the error to raise for a client's error."""
    if not isinstance(error, ClientError):
        got = str(error).partition("\n")[0][:300]
        if is_transient(error):
            return FailedCall(name, url, got).without_answer()
        if isinstance(error, CREDENTIAL_FAILURES):
            return ConfigurationError(
                f"{name}: there are no usable credentials for {url}",
                got=got,
                fix="give the machine a role, or set the keys as blocks/README.md says",
            )
        return LakeError(f"{name}: {url} can't be used", got=got)
    code, status = _code(error), _status(error)
    call = FailedCall(name, url, f"HTTP {status}: {code}")
    if is_transient(error):
        return call.without_answer()
    if code in BAD_CREDENTIALS:
        return call.with_bad_credentials()
    if status == 403:
        return call.without_permission("grant the policy that blocks/README.md has for the bucket")
    if code == "NoSuchBucket":
        return call.without_bucket()
    if status in (301, 307) or code == "AuthorizationHeaderMalformed":
        fix = "set AWS_REGION and register the profile again"
        return ConfigurationError(f"{name}: {url} is in another region", got=call.got, fix=fix)
    return call.of_lost_upload() if code == "NoSuchUpload" else call.of_other_kind()


def _read_retry_after(error: Exception) -> str | None:
    """Return a failure's Retry-After header, empty if it has none; None if a later attempt would fail too."""
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
    """Return an object's version. Only listings have fractions of a second, so these are left out."""
    return f"{etag} {written:%Y-%m-%dT%H:%M:%S}"


def _etag(version: str) -> str:
    return version.rpartition(" ")[0]


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
