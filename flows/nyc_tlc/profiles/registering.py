"""Register the blocks that a profile's YAML file describes.

The file has one section for each block, named after its type, with the block's fields as keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args
from uuid import UUID

from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, MalformedError
from prefect.blocks.core import Block
from prefect.types import SecretDict
from prefect.variables import Variable
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, TypeAdapter, ValidationError, create_model

from nyc_tlc.errors import ConfigurationError
from nyc_tlc.profiles.opening import LAKES, find_block, import_block, name_blocks, without_storage_warning
from nyc_tlc.settings import SchemaName
from nyc_tlc.yaml_files import StrictModel, explain, fill_in, read_yaml, validate

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
        return TypeAdapter(SecretDict).validate_json(text)
    except ValidationError:
        raise ValueError("not the JSON of a service account key (in .env, put it between single quotes)") from None


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
    """

    block: str
    keys: type[StrictModel]
    credentials: str = ""


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
    # Settings of librdkafka, with the broker's address and password, for replays.
    "secret": Section("prefect.blocks.system.Secret", _keys(value=Annotated[dict[str, str], Field(min_length=1)])),
    "slack-webhook": Section("prefect.blocks.notifications.SlackWebhook", _keys(url=SlackUrl)),
    "sendgrid-email": Section(
        "prefect.blocks.notifications.SendgridEmail",
        _keys(api_key=SecretStr, sender_email=str, to_emails=Annotated[list[str], Field(min_length=1)]),
    ),
    "custom-webhook": Section(
        "prefect.blocks.notifications.CustomWebhookNotificationBlock",
        _keys(url=WebAddress, token=SecretStr | None),
    ),
}
#: The blocks that send notifications; a profile has at most one of them.
NOTIFICATIONS = ("slack-webhook", "sendgrid-email", "custom-webhook")
#: The keys of a profile's file are the sections, and the schema or dataset of the tables.
Profile = create_model(
    "Profile",
    __base__=_keys(**{slug: section.keys | None for slug, section in SECTIONS.items()}),
    schema_name=(SchemaName | None, Field(None, alias="schema")),
)


def read_blocks(path: Path, variables: Mapping[str, str]) -> tuple[list[Block], str | None]:
    """Build the blocks of a profile's file, without saving them; credentials come before blocks that refer to them.

    Args:
        variables: The values for ``${VAR}``. A key whose value becomes empty counts as left out.

    Returns:
        The blocks, and the schema or dataset of the tables if the file names one.

    Raises:
        ConfigurationError: naming file and key, the keys that are allowed and the variables that aren't set.
    """
    content = read_yaml(path)
    if isinstance(content, dict):
        # A section without a value has no keys.
        content = fill_in({slug: keys or {} for slug, keys in content.items()}, variables, path)
    profile: Any = validate(Profile, content, path)
    given = {slug: keys for slug in SECTIONS if (keys := getattr(profile, slug)) is not None}
    for what, choice in (("lake", LAKES), ("notification", NOTIFICATIONS)):
        if len(chosen := [slug for slug in choice if slug in given]) > 1:
            raise ConfigurationError(f"{path}: {chosen[1]}: a second {what}", expected=f"either {' or '.join(choice)}")
    blocks: dict[str, Block] = {}
    for slug, keys in given.items():
        needed = SECTIONS[slug].credentials
        if needed and needed not in blocks:
            raise ConfigurationError(f"{path}: {slug} without {needed}", fix=f"add the section {needed}")
        blocks[slug] = _build(path, slug, keys, blocks.get(needed))
    return list(blocks.values()), profile.schema_name


def register(profile: str, blocks: list[Block], schema: str | None = None) -> dict[str, str]:
    """Create or update a profile's blocks on the Prefect server; one that the profile no longer has stays there.

    A block comes after those it refers to. The schema of the tables is kept in a variable of Prefect.

    Returns:
        Block or variable -> ``created``, ``updated``, ``unused`` for a block that stays, or ``removed``.
    """
    name, done = name_blocks(profile), {}
    for block in blocks:
        slug = block.get_block_type_slug()
        done[f"{slug}/{name}"] = "updated" if find_block(profile, slug) else "created"
        block.save(name, overwrite=True)
    stay = (f"{slug}/{name}" for slug in SECTIONS if f"{slug}/{name}" not in done and find_block(profile, slug))
    done |= dict.fromkeys(stay, "unused")
    variable = f"{name}-schema"
    before = Variable.get(variable)
    if schema:
        Variable.set(variable, schema, overwrite=True)
        done[f"variable/{variable}"] = "updated" if before else "created"
    elif before:
        Variable.unset(variable)
        done[f"variable/{variable}"] = "removed"
    return done


def find_notification_block(profile: str) -> UUID | None:
    """Return the id of the block that sends a profile's notifications; None if it has none."""
    return next(filter(None, (find_block(profile, slug) for slug in NOTIFICATIONS)), None)


def _build(path: Path, slug: str, keys: StrictModel, credentials: Block | None) -> Block:
    section = SECTIONS[slug]
    fields = keys.model_dump(exclude_none=True)
    if slug == "custom-webhook":
        fields = _as_webhook(fields)
    if credentials:
        fields["gcp_credentials" if section.credentials == "gcp-credentials" else "credentials"] = credentials
    evidence: dict[str, Any]
    try:
        with without_storage_warning():
            return import_block(section.block)(**fields)
    except ValidationError as error:
        raise explain(error, path, (slug,)) from None
    except (MalformedError, OSError) as error:
        what, evidence = "the service account key is not usable", {"got": str(error)}
    except DefaultCredentialsError as error:
        what = "no application default credentials on this machine"
        fix = "run gcloud auth application-default login; blocks/README.md has the other ways"
        evidence = {"got": str(error.args[0]), "fix": fix}
    except (GoogleAuthError, ValueError, TypeError, AttributeError) as error:
        # The parser's text may quote the key.
        what = f"{'its values are' if slug in NOTIFICATIONS else 'the Google credentials are'} not usable"
        evidence = {"got": type(error).__name__}
    raise ConfigurationError(f"{path}: {slug}: {what}", **evidence)
