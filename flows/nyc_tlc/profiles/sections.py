"""The sections of a profile's YAML file: one for each block, named after its type, with the block's fields as keys."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args

from prefect.types import SecretDict
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, create_model

from nyc_tlc.yaml_files import StrictModel

Text = TypeVar("Text", str, SecretStr)


def _starting_with(pattern: str, message: str) -> AfterValidator:
    """Return the check that a text begins as a pattern says; no error of it shows the text."""

    def check(text: Text) -> Text:
        if not re.match(pattern, text.get_secret_value() if isinstance(text, SecretStr) else text):
            raise ValueError(message)
        return text

    return AfterValidator(check)


def _parse_key(text: str) -> SecretDict:
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        content = None
    if not isinstance(content, dict):
        raise ValueError("not the JSON of a service account key (in .env, put it between single quotes)")
    return SecretDict(content)


BucketName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*[a-z0-9]$")]
ContainerName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*[a-z0-9]$")]
RootedPath = Annotated[
    str, _starting_with("[/~]", "a path has to start with / or ~, so that it does not depend on the working directory")
]
ServiceAccountKey = Annotated[SecretDict, BeforeValidator(_parse_key)]
# For any other address Prefect's block sends nothing, without an error.
SlackUrl = Annotated[
    SecretStr,
    _starting_with(
        r"https://hooks\.slack(-gov)?\.com/services/",
        "not an incoming webhook of Slack, which starts with https://hooks.slack.com/services/",
    ),
]
Url = Annotated[str, Field(pattern=r"^https?://")]
WebAddress = Annotated[
    SecretStr, _starting_with("https?://", "not a web address: it has to start with https:// or http://")
]


class ConnectionInfo(StrictModel):
    """A Postgres database, in parts and not as a URL: Prefect then stores only the password as a secret."""

    driver: Literal["postgresql+psycopg2"] = "postgresql+psycopg2"
    host: str
    port: Annotated[int, Field(ge=1, le=65535)] = 5432
    database: str
    username: str
    password: SecretStr
    query: dict[str, str] | None = None


def _keys(**types: Any) -> type[StrictModel]:
    """Return the model of keys with these types; those that can be None may be left out."""
    fields: dict[str, Any] = {
        name: (type_, None if type(None) in get_args(type_) else ...) for name, type_ in types.items()
    }
    return create_model("Keys", __base__=StrictModel, **fields)


def _as_webhook(keys: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a webhook's block, which has the address and the token among its secrets."""
    return {
        "name": "nyc-tlc",
        "url": "{{ url }}",
        "json_data": {"subject": "{{ subject }}", "body": "{{ body }}"},
        "headers": {"Authorization": "Bearer {{ token }}"} if "token" in keys else None,
        "secrets": {key: value.get_secret_value() for key, value in keys.items()},
    }


@dataclass(frozen=True)
class Section:
    """The keys for one block.

    Attributes:
        block: The import path of the block's class, whose package can be optional.
        credentials: The section whose block this one refers to; empty if it needs no credentials.
        fields: Turns the keys into the block's fields, where they are not the same.
    """

    block: str
    keys: type[StrictModel]
    credentials: str = ""
    fields: Callable[[dict[str, Any]], dict[str, Any]] = dict


#: The sections by block type. Credentials come before the blocks that refer to them.
SECTIONS = {
    # Without a key, each machine has its application default credentials.
    "gcp-credentials": Section(
        "prefect_gcp.GcpCredentials",
        _keys(project=str, service_account_file=RootedPath | None, service_account_info=ServiceAccountKey | None),
    ),
    "gcs-bucket": Section(
        "prefect_gcp.GcsBucket", _keys(bucket=BucketName, bucket_folder=str | None), "gcp-credentials"
    ),
    # Without keys, boto3 looks for the machine's own.
    "aws-credentials": Section(
        "prefect_aws.AwsCredentials",
        _keys(
            aws_access_key_id=str | None,
            aws_secret_access_key=SecretStr | None,
            region_name=str | None,
            assume_role_arn=str | None,
            aws_client_parameters=_keys(endpoint_url=Url | None) | None,
        ),
    ),
    "s3-bucket": Section(
        "prefect_aws.S3Bucket", _keys(bucket_name=BucketName, bucket_folder=str | None), "aws-credentials"
    ),
    # With only the account's address, the machine's own.
    "azure-blob-storage-credentials": Section(
        "prefect_azure.AzureBlobStorageCredentials",
        _keys(
            account_url=Url | None,
            connection_string=SecretStr | None,
            tenant_id=str | None,
            client_id=str | None,
            client_secret=SecretStr | None,
        ),
    ),
    "azure-blob-storage-container": Section(
        "prefect_azure.AzureBlobStorageContainer",
        _keys(container_name=ContainerName, base_folder=str | None),
        "azure-blob-storage-credentials",
    ),
    "local-file-system": Section("prefect.filesystems.LocalFileSystem", _keys(basepath=RootedPath)),
    "sqlalchemy-connector": Section("prefect_sqlalchemy.SqlAlchemyConnector", _keys(connection_info=ConnectionInfo)),
    "bigquery-warehouse": Section("prefect_gcp.bigquery.BigQueryWarehouse", _keys(), "gcp-credentials"),
    "slack-webhook": Section("prefect.blocks.notifications.SlackWebhook", _keys(url=SlackUrl)),
    "sendgrid-email": Section(
        "prefect.blocks.notifications.SendgridEmail",
        _keys(api_key=SecretStr, sender_email=str, to_emails=Annotated[list[str], Field(min_length=1)]),
    ),
    "custom-webhook": Section(
        "prefect.blocks.notifications.CustomWebhookNotificationBlock",
        _keys(url=WebAddress, token=SecretStr | None),
        fields=_as_webhook,
    ),
}
#: The blocks that send notifications; a profile has at most one of them.
NOTIFICATIONS = ("slack-webhook", "sendgrid-email", "custom-webhook")
#: The keys of a profile's file are the sections.
Profile = _keys(**{slug: section.keys | None for slug, section in SECTIONS.items()})
