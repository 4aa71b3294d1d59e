"""The sections of a profile's YAML file: one for each block, named after its type, with the block's fields as keys."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, ClassVar, Literal

from prefect.blocks.core import Block
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SendgridEmail, SlackWebhook
from prefect.blocks.system import Secret
from prefect.filesystems import LocalFileSystem
from prefect.types import SecretDict
from prefect_gcp import GcpCredentials, GcsBucket
from prefect_gcp.bigquery import BigQueryWarehouse
from prefect_sqlalchemy import SqlAlchemyConnector
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

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


BucketName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*[a-z0-9]$")]
RootedPath = Annotated[str, AfterValidator(_absolute_path)]
Url = Annotated[str, Field(pattern=r"^https?://")]
ServiceAccountKey = Annotated[SecretDict, BeforeValidator(_parse_key)]


class Section(StrictModel):
    """The keys for one block.

    Attributes:
        credentials: The section whose block this one refers to; empty if it needs no credentials.
    """

    block: ClassVar[type[Block]]
    credentials: ClassVar[str] = ""

    def build(self, credentials: Any) -> Any:
        """Build the block, without saving it."""
        return self.block(**self.model_dump(exclude_none=True))


class GcpCredentialsSection(Section):
    """The profile's credentials at Google; without a key, each machine's application default credentials."""

    block = GcpCredentials
    project: str
    service_account_file: RootedPath | None = None
    service_account_info: ServiceAccountKey | None = None


class GcsBucketSection(Section):
    credentials = "gcp-credentials"
    bucket: BucketName
    bucket_folder: str = ""

    def build(self, credentials: Any) -> Any:
        return GcsBucket(gcp_credentials=credentials, **self.model_dump())


class AwsClientParameters(StrictModel):
    """The address of a store that is not Amazon's."""

    endpoint_url: Url | None = None


class AwsCredentialsSection(Section):
    """The profile's credentials at Amazon; without keys, those that boto3 finds on the machine."""

    aws_access_key_id: str | None = None
    aws_secret_access_key: SecretStr | None = None
    region_name: str | None = None
    assume_role_arn: str | None = None
    aws_client_parameters: AwsClientParameters | None = None

    def build(self, credentials: Any) -> Any:
        from prefect_aws import AwsCredentials

        return AwsCredentials(**self.model_dump(exclude_none=True))


class S3BucketSection(Section):
    credentials = "aws-credentials"
    bucket_name: BucketName
    bucket_folder: str = ""

    def build(self, credentials: Any) -> Any:
        from prefect_aws import S3Bucket

        return S3Bucket(credentials=credentials, **self.model_dump())


class AzureCredentialsSection(Section):
    """The profile's credentials at Azure; with only the account's address, those found on the machine."""

    account_url: Url | None = None
    connection_string: SecretStr | None = None
    tenant_id: str | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None

    def build(self, credentials: Any) -> Any:
        from prefect_azure import AzureBlobStorageCredentials

        return AzureBlobStorageCredentials(**self.model_dump(exclude_none=True))


class AzureContainerSection(Section):
    credentials = "azure-blob-storage-credentials"
    container_name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*[a-z0-9]$")]
    base_folder: str | None = None

    def build(self, credentials: Any) -> Any:
        from prefect_azure import AzureBlobStorageContainer

        return AzureBlobStorageContainer(credentials=credentials, **self.model_dump())


class LocalFileSystemSection(Section):
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
    block = SqlAlchemyConnector
    connection_info: ConnectionInfo


class BigQueryWarehouseSection(Section):
    credentials = "gcp-credentials"

    def build(self, credentials: Any) -> Any:
        return BigQueryWarehouse(gcp_credentials=credentials)


class SecretSection(Section):
    """Settings of librdkafka, with the broker's address and password, for replays."""

    block = Secret
    value: Annotated[dict[str, str], Field(min_length=1)]


class SlackWebhookSection(Section):
    block = SlackWebhook
    url: Annotated[SecretStr, AfterValidator(_slack_url)]


class SendgridEmailSection(Section):
    block = SendgridEmail
    api_key: SecretStr
    sender_email: str
    to_emails: Annotated[list[str], Field(min_length=1)]


class CustomWebhookSection(Section):
    """Notifications to a web address, as JSON with ``subject`` and ``body``; Prefect keeps the address secret."""

    url: Annotated[SecretStr, AfterValidator(_web_address)]
    token: SecretStr | None = None

    def build(self, credentials: Any) -> Any:
        """Build the block; the address and the token are among its secrets."""
        return CustomWebhookNotificationBlock(
            name="nyc-tlc",
            url="{{ url }}",
            json_data={"subject": "{{ subject }}", "body": "{{ body }}"},
            headers={"Authorization": "Bearer {{ token }}"} if self.token else None,
            secrets={key: value.get_secret_value() for key, value in self if value},
        )


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
    "secret": SecretSection,
    "slack-webhook": SlackWebhookSection,
    "sendgrid-email": SendgridEmailSection,
    "custom-webhook": CustomWebhookSection,
}
#: The blocks that send notifications; a profile has at most one of them.
NOTIFICATIONS = ("slack-webhook", "sendgrid-email", "custom-webhook")
