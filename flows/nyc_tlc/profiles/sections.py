"""The sections of a profile's YAML file: one for each block, named after its type, with the block's fields as keys."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, ClassVar, Literal, cast

from prefect.blocks.core import Block
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SendgridEmail, SlackWebhook
from prefect.filesystems import LocalFileSystem
from prefect.types import SecretDict
from prefect_gcp import GcpCredentials, GcsBucket
from prefect_gcp.bigquery import BigQueryWarehouse
from prefect_sqlalchemy import SqlAlchemyConnector
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr

from nyc_tlc.profiles.block_classes import import_class
from nyc_tlc.yaml_files import StrictModel


def _absolute_path(path: str) -> str:
    if not path.startswith(("/", "~")):
        raise ValueError("a path has to start with / or ~, so that it does not depend on the working directory")
    return path


def _parse_key(text: str) -> SecretDict:
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        content = None
    if not isinstance(content, dict):
        raise ValueError("not the JSON of a service account key (in .env, put it between single quotes)")
    return SecretDict(content)


def _slack_url(url: SecretStr) -> SecretStr:
    # For any other address Prefect's block sends nothing, without an error.
    if not re.match(r"https://hooks\.slack(-gov)?\.com/services/", url.get_secret_value()):
        raise ValueError("not an incoming webhook of Slack, which starts with https://hooks.slack.com/services/")
    return url


def _web_address(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(("https://", "http://")):
        raise ValueError("not a web address: it has to start with https:// or http://")
    return url


RootedPath = Annotated[str, AfterValidator(_absolute_path)]
ServiceAccountKey = Annotated[SecretDict, BeforeValidator(_parse_key)]


class OptionalBlock:
    """The class of a block from an optional package; it is imported when it is used."""

    def __init__(self, slug: str) -> None:
        """Name the block type."""
        self._slug = slug

    def __get__(self, _: object, owner: type) -> type[Block]:
        """Import the class."""
        return import_class(self._slug)


class Section(StrictModel):
    """The keys for one block. Credentials are no key: they are always the profile's own block."""

    block: ClassVar[type[Block]]

    def fields(self) -> dict[str, Any]:
        """Return the block's fields."""
        return {key: dict(part) if isinstance(part, BaseModel) else part for key, part in self}


class GcpCredentialsSection(Section):
    """The profile's credentials at Google; without a key, each machine's application default credentials."""

    block = GcpCredentials
    project: str
    service_account_file: RootedPath | None = None
    service_account_info: ServiceAccountKey | None = None


class GcsBucketSection(Section):
    """A lake in a bucket of Google Cloud Storage."""

    block = GcsBucket
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*[a-z0-9]$")]
    bucket_folder: str = ""


class AwsClientParameters(StrictModel):
    """The address of a store that is not Amazon's."""

    endpoint_url: Annotated[str, Field(pattern=r"^https?://")] | None = None


class AwsCredentialsSection(Section):
    """The profile's credentials at Amazon; without keys, those that boto3 finds on the machine."""

    block = cast("type[Block]", OptionalBlock("aws-credentials"))
    aws_access_key_id: str | None = None
    aws_secret_access_key: SecretStr | None = None
    region_name: str | None = None
    assume_role_arn: str | None = None
    aws_client_parameters: AwsClientParameters | None = None

    def fields(self) -> dict[str, Any]:
        """Return the block's fields that are set; the block does not accept empty ones."""
        return {key: value for key, value in super().fields().items() if value is not None}


class S3BucketSection(Section):
    """A lake in an S3 bucket."""

    block = cast("type[Block]", OptionalBlock("s3-bucket"))
    bucket_name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*[a-z0-9]$")]
    bucket_folder: str = ""


class AzureCredentialsSection(Section):
    """The profile's credentials at Azure; with only the account's address, those found on the machine."""

    block = cast("type[Block]", OptionalBlock("azure-blob-storage-credentials"))
    account_url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    connection_string: SecretStr | None = None
    tenant_id: str | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None


class AzureContainerSection(Section):
    """A lake in a container of Azure Blob Storage."""

    block = cast("type[Block]", OptionalBlock("azure-blob-storage-container"))
    container_name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*[a-z0-9]$")]
    base_folder: str | None = None


class LocalFileSystemSection(Section):
    """A lake in a folder."""

    block = LocalFileSystem
    basepath: RootedPath


class ConnectionInfo(StrictModel):
    """A Postgres database, in parts and not as a URL: Prefect then stores only the password as a secret."""

    driver: Literal["postgresql+psycopg2"] = "postgresql+psycopg2"
    host: str
    port: Annotated[int, Field(ge=1, le=65535)] = 5432
    database: str
    username: str
    password: SecretStr
    query: dict[str, str] | None = None


class SqlAlchemyConnectorSection(Section):
    """The warehouse in Postgres."""

    block = SqlAlchemyConnector
    connection_info: ConnectionInfo


class BigQueryWarehouseSection(Section):
    """The warehouse in BigQuery."""

    block = BigQueryWarehouse


class SlackWebhookSection(Section):
    """Notifications in a Slack channel."""

    block = SlackWebhook
    url: Annotated[SecretStr, AfterValidator(_slack_url)]


class SendgridEmailSection(Section):
    """Notifications by e-mail, sent by SendGrid."""

    block = SendgridEmail
    api_key: SecretStr
    sender_email: str
    to_emails: Annotated[list[str], Field(min_length=1)]


class CustomWebhookSection(Section):
    """Notifications to a web address, as JSON with ``subject`` and ``body``; Prefect keeps the address secret."""

    block = CustomWebhookNotificationBlock
    url: Annotated[SecretStr, AfterValidator(_web_address)]
    token: SecretStr | None = None

    def fields(self) -> dict[str, Any]:
        """Return the block's fields; the address and the token are among its secrets."""
        secrets = {key: value.get_secret_value() for key, value in self if value}
        return {
            "name": "nyc-tlc",
            "url": "{{ url }}",
            "json_data": {"subject": "{{ subject }}", "body": "{{ body }}"},
            "headers": {"Authorization": "Bearer {{ token }}"} if self.token else None,
            "secrets": secrets,
        }


#: The sections by block type. Credentials come before the blocks that refer to them.
SECTIONS: dict[str, type[Section]] = {
    "gcp-credentials": GcpCredentialsSection,
    "gcs-bucket": GcsBucketSection,
    "aws-credentials": AwsCredentialsSection,
    "s3-bucket": S3BucketSection,
    "azure-blob-storage-credentials": AzureCredentialsSection,
    "azure-blob-storage-container": AzureContainerSection,
    "local-file-system": LocalFileSystemSection,
    "sqlalchemy-connector": SqlAlchemyConnectorSection,
    "bigquery-warehouse": BigQueryWarehouseSection,
    "slack-webhook": SlackWebhookSection,
    "sendgrid-email": SendgridEmailSection,
    "custom-webhook": CustomWebhookSection,
}
#: (Block type, field) -> the credentials block that the field refers to.
CREDENTIALS = {
    ("gcs-bucket", "gcp_credentials"): "gcp-credentials",
    ("bigquery-warehouse", "gcp_credentials"): "gcp-credentials",
    ("s3-bucket", "credentials"): "aws-credentials",
    ("azure-blob-storage-container", "credentials"): "azure-blob-storage-credentials",
}
LAKES = ("gcs-bucket", "s3-bucket", "azure-blob-storage-container", "local-file-system")
#: The blocks that send notifications; a profile has at most one of them.
NOTIFICATIONS = ("slack-webhook", "sendgrid-email", "custom-webhook")
