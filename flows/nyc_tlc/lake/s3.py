"""A data lake in a bucket of Amazon S3, or of a store with the same protocol: MinIO, Ceph, R2.

An object's version, for conditional writes, is its ETag. No two manifests have the same bytes, so none has an earlier
one's ETag.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore import exceptions as boto
from botocore.config import Config

from nyc_tlc.lake.bucket import BAD_CREDENTIALS, NO_BUCKET, NO_PERMISSION, BucketLake, Failure, Refusal
from nyc_tlc.lake.store import Found, content_type
from nyc_tlc.settings import read_settings

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

#: The codes for a missing object, of GET and of HEAD.
NOT_THERE = frozenset({"NoSuchKey", "404"})
#: The client's errors for a body that was cut off or changed on the way.
CUT_OFF = (boto.FlexibleChecksumError, boto.IncompleteReadError, boto.ReadTimeoutError, boto.ResponseStreamingError)
#: Parts of the texts of answers to bad credentials.
BAD_CREDENTIALS_CODES = ("invalidaccesskeyid", "signaturedoesnotmatch", "token", "requesttimetooskewed", "401")
NO_CREDENTIALS = (
    "there are no usable credentials for {url}",
    "give the machine a role, or set the keys as blocks/README.md says",
)
ANOTHER_REGION = ("{url} is in another region", "set AWS_REGION and register the profile again")


def client_config(given: Config | None = None, endpoint_url: str | None = None) -> Config:
    """Return the configuration for a lake's client: ``given``, the profile's, with our time-outs and retries.

    Args:
        endpoint_url: The URL of a store that is not Amazon's. Some of these refuse the checksums that boto3 adds;
            without them the request's signature covers the bytes.
    """
    settings = read_settings()
    checksums: Literal["when_required", "when_supported"] = "when_required" if endpoint_url else "when_supported"
    own = Config(
        connect_timeout=settings.http_timeout,
        read_timeout=settings.http_timeout,
        retries={"mode": "standard", "total_max_attempts": settings.http_retries + 1},
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
    )
    return given.merge(own) if given else own


class S3Lake(BucketLake):
    """A data lake in a folder of a bucket."""

    failures = (boto.BotoCoreError, boto.ClientError)
    refusals = (
        *(Refusal(None, code, *BAD_CREDENTIALS) for code in BAD_CREDENTIALS_CODES),
        # The answer to a HEAD has no body; for an expired token its status is 400.
        Refusal(400, "headobject", *BAD_CREDENTIALS),
        Refusal(None, "credentials", *NO_CREDENTIALS),
        Refusal(None, "sso session", *NO_CREDENTIALS),
        Refusal(403, "kms:", NO_PERMISSION, "grant kms:GenerateDataKey and kms:Decrypt on the bucket's key"),
        Refusal(403, "", NO_PERMISSION, "grant the policy that blocks/README.md has for the bucket"),
        Refusal(404, "nosuchbucket", *NO_BUCKET),
        Refusal(301, "", *ANOTHER_REGION),
        Refusal(307, "", *ANOTHER_REGION),
        Refusal(400, "authorizationheadermalformed", *ANOTHER_REGION),
    )

    def __init__(self, client: S3Client, bucket: str, folder: str = "") -> None:
        """Use a bucket with a client made with ``client_config`` that may list, read, write and delete its objects."""
        super().__init__(folder)
        self._client, self._bucket = client, bucket

    def url(self, key: str) -> str:
        return f"s3://{self._bucket}/{self.name(key)}"

    @classmethod
    def _describe(cls, error: Exception) -> Failure:
        if isinstance(error, boto.ClientError):
            status = int(error.response["ResponseMetadata"].get("HTTPStatusCode", 0))
            # Two conditional writes arrived at the same moment; S3 asks to try again.
            transient = _code(error) == "ConditionalRequestConflict"
            message = error.response["Error"].get("Message", "")
            text = f"HTTP {status}: {_code(error)} {message} ({error.operation_name})"[:300]
            missing = _code(error) in NOT_THERE
            refused = missing or _code(error) == "PreconditionFailed"
            return Failure(status, text, transient, missing=missing, refused=refused)
        transient = isinstance(error, (boto.ConnectionError, boto.HTTPClientError, *CUT_OFF)) and not isinstance(
            error, boto.SSLError
        )
        return Failure(None, str(error).partition("\n")[0][:300], transient, isinstance(error, CUT_OFF))

    def _head(self, name: str) -> tuple[int, Mapping[str, str]]:
        found = self._client.head_object(Bucket=self._bucket, Key=name)
        return found["ContentLength"], found["Metadata"]

    def _get_range(self, name: str, start: int, end: int) -> bytes:
        return self._client.get_object(Bucket=self._bucket, Key=name, Range=f"bytes={start}-{end - 1}")["Body"].read()

    def _get(self, name: str) -> Found:
        answer = self._client.get_object(Bucket=self._bucket, Key=name)
        return Found(answer["Body"].read(), answer["ETag"])

    def _put(self, name: str, content: bytes, metadata: Mapping[str, str], **condition: Any) -> None:
        self._client.put_object(
            Bucket=self._bucket, Key=name, Body=content, **_describe_content(name, metadata), **condition
        )

    def _require_version(self, expected: str | None) -> dict[str, Any]:
        return {"IfMatch": expected} if expected else {"IfNoneMatch": "*"}

    def _list(self, prefix: str) -> Iterable[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        return (each["Key"] for page in pages for each in page.get("Contents", ()))

    def _delete(self, name: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=name)

    def _duplicate(self, name: str, to: str) -> bool:
        self._client.copy_object(Bucket=self._bucket, Key=to, CopySource={"Bucket": self._bucket, "Key": name})
        return True

    def _send(self, name: str, path: Path, metadata: Mapping[str, str]) -> None:
        # boto3's other client, which it takes where it is installed, has retries and errors of its own.
        config = TransferConfig(preferred_transfer_client="classic")
        with create_transfer_manager(self._client, config) as transfers:
            transfers.upload(str(path), self._bucket, name, _describe_content(name, metadata)).result()


def _describe_content(name: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return an object's media type and metadata. Proxies may drop headers whose names have an underscore."""
    return {
        "ContentType": content_type(name),
        "Metadata": {label.replace("_", "-"): value for label, value in metadata.items()},
    }


def _code(error: boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
