"""A profile's Prefect blocks: what its YAML file wants them to be, and what the Prefect API has.

The file has one section a block, named as the block's type, with the block's fields as keys. ``${VAR}`` and
``${VAR:-default}`` are filled in after the YAML was parsed, so a value can't break it. Errors name the file, the
line and the key but never a value, because a value may be a secret.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

import yaml
from dotenv import dotenv_values
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, MalformedError
from prefect.blocks.core import Block
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SendgridEmail, SlackWebhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.filesystems import LocalFileSystem
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE
from prefect.types import SecretDict
from prefect_gcp import GcpCredentials, GcsBucket
from prefect_gcp.bigquery import BigQueryWarehouse
from prefect_sqlalchemy import SqlAlchemyConnector
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, ValidationError

from nyc_tlc.errors import ConfigurationError
from nyc_tlc.server.server import NOTIFICATIONS, Part, answered, block_name, saved_block

#: Where something is in a profile: the keys that lead there.
Location = tuple[str | int, ...]
Status = Literal["created", "updated", "unchanged", "missing", "differs", "unused"]
#: What saving makes of a block that is not as it should be.
DONE: dict[Status, Status] = {"missing": "created", "differs": "updated"}

VARIABLE = re.compile(r"\$\{(?:(?P<name>[A-Za-z_]\w*)(?::-(?P<default>[^{}]*))?\})?")


def _same_everywhere(path: str) -> str:
    if not path.startswith(("/", "~")):
        raise ValueError("a path has to start with / or ~, or every working directory would give another one")
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
    # To another address Prefect's block would send nothing and say nothing.
    if not re.match(r"https://hooks\.slack(-gov)?\.com/services/", url.get_secret_value()):
        raise ValueError("not an incoming webhook of Slack, which starts with https://hooks.slack.com/services/")
    return url


def _web_address(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(("https://", "http://")):
        raise ValueError("not an address, which starts with https://")
    return url


RootedPath = Annotated[str, AfterValidator(_same_everywhere)]
ServiceAccountKey = Annotated[SecretDict, BeforeValidator(_parse_key)]


class Section(Part):
    """What a profile can say about one block; ``gcp_credentials`` are always the profile's own."""

    block: ClassVar[type[Block]]

    def fields(self) -> dict[str, Any]:
        """The block's fields."""
        return {key: dict(part) if isinstance(part, BaseModel) else part for key, part in self}


class GcpCredentialsSection(Section):
    """Who the profile is at Google; without a key, the application default credentials of each machine."""

    block = GcpCredentials
    project: str
    service_account_file: RootedPath | None = None
    service_account_info: ServiceAccountKey | None = None


class GcsBucketSection(Section):
    """A lake in a bucket."""

    block = GcsBucket
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*[a-z0-9]$")]
    bucket_folder: str = ""


class LocalFileSystemSection(Section):
    """A lake in a folder."""

    block = LocalFileSystem
    basepath: RootedPath


class ConnectionInfo(Part):
    """A Postgres database. In parts and not as a URL: so Prefect keeps the password, and nothing else, as a secret."""

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
    """Notifications in a channel of Slack."""

    block = SlackWebhook
    url: Annotated[SecretStr, AfterValidator(_slack_url)]


class SendgridEmailSection(Section):
    """Notifications by e-mail, sent by SendGrid."""

    block = SendgridEmail
    api_key: SecretStr
    sender_email: str
    to_emails: Annotated[list[str], Field(min_length=1)]


class CustomWebhookSection(Section):
    """Notifications to anything that takes JSON with ``subject`` and ``body``; Prefect keeps the address secret."""

    block = CustomWebhookNotificationBlock
    url: Annotated[SecretStr, AfterValidator(_web_address)]
    token: SecretStr | None = None

    def fields(self) -> dict[str, Any]:
        """The block's fields, with the address and the token among its secrets."""
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
    section.block.get_block_type_slug(): section
    for section in (
        GcpCredentialsSection,
        GcsBucketSection,
        LocalFileSystemSection,
        SqlAlchemyConnectorSection,
        BigQueryWarehouseSection,
        SlackWebhookSection,
        SendgridEmailSection,
        CustomWebhookSection,
    )
}
CREDENTIALS = GcpCredentials.get_block_type_slug()
LAKES = (GcsBucket.get_block_type_slug(), LocalFileSystem.get_block_type_slug())


@dataclass(frozen=True)
class Standing:
    """How a block of a profile stands, or what was done about it.

    Attributes:
        block: Its type and name, ``gcs-bucket/taxi-dev``.
        status: ``unused`` is a block that Prefect still has and the profile no longer mentions.
        fields: What differed.
    """

    block: str
    status: Status
    fields: tuple[str, ...] = ()


def variables() -> dict[str, str]:
    """What ``${VAR}`` can name: the environment, then ``.env`` in the working directory."""
    from_file = {name: value for name, value in dotenv_values(".env").items() if value is not None}
    return from_file | dict(os.environ)


def read_blocks(path: Path, variables: Mapping[str, str]) -> list[Block]:
    """The blocks a profile's file describes, not saved yet.

    Args:
        path: The YAML file.
        variables: What ``${VAR}`` stands for. A value that comes out empty is as good as left out.

    Raises:
        ConfigurationError: naming file, line and key, the keys that are allowed and the variables that aren't set.
    """
    file = _ProfileFile(path, variables)
    for key in file.sections:
        if key not in SECTIONS:
            raise file.mistake((key,), f"unknown key {key!r}", expected=_one_of(SECTIONS))
    for what, choice in (("lake", LAKES), ("notification", NOTIFICATIONS)):
        chosen = [slug for slug in choice if slug in file.sections]
        if len(chosen) > 1:
            raise file.mistake((chosen[1],), f"a second {what}", expected=f"either {' or '.join(choice)}")
    blocks: dict[str, Block] = {}
    for slug, section in SECTIONS.items():
        if slug in file.sections:
            blocks[slug] = _build(file, slug, section, blocks)
    return list(blocks.values())


def register(profile: str, blocks: list[Block], *, check: bool = False) -> list[Standing]:
    """Make the Prefect API's blocks of a profile what they should be; what is so already isn't touched.

    Args:
        profile: The profile's name.
        blocks: Its blocks, those that others refer to first.
        check: Change nothing, only tell.

    Raises:
        ConfigurationError: when there is no Prefect API.
        TransientError: when it can't be reached.
        TlcError: when it refuses.
    """
    if not PREFECT_API_URL.value() and not PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        raise ConfigurationError("no Prefect API to keep the blocks", fix="set PREFECT_API_URL")
    name = block_name(profile)
    wanted = {block.get_block_type_slug(): block for block in blocks}
    standings = []
    with answered(), get_client(sync_client=True) as client:
        for slug, block in wanted.items():
            status, fields = _compare(block, name, client)
            if not check and status in DONE:
                _save(block, name)
                status = DONE[status]
            standings.append(Standing(f"{slug}/{name}", status, fields))
        unused = [slug for slug in SECTIONS if slug not in wanted and saved_block(slug, name, client)]
    return standings + [Standing(f"{slug}/{name}", "unused") for slug in unused]


def _compare(block: Block, name: str, client: SyncPrefectClient) -> tuple[Status, tuple[str, ...]]:
    """How the saved block stands to the wanted one, and the fields in which it differs."""
    saved = saved_block(block.get_block_type_slug(), name, client)
    if saved is None:
        return "missing", ()
    fields = type(block).model_fields
    wanted = block.model_dump(mode="json", include=set(fields), context={"include_secrets": True})

    def same(field: str) -> bool:
        if isinstance(getattr(block, field), Block):
            reference: dict[str, Any] = saved.block_document_references.get(field, {})
            return bool(reference.get("block_document", {}).get("name") == name)
        return bool(_filled(saved.data.get(field)) == _filled(wanted[field]))

    differing = tuple(field for field in fields if not same(field))
    return ("differs", differing) if differing else ("unchanged", ())


def _filled(value: Any) -> Any:
    """A value without its empty parts, of which the Prefect API keeps some and drops others."""
    if not isinstance(value, dict):
        return value
    return {key: part for key, each in value.items() if (part := _filled(each)) not in (None, {})} or None


def _save(block: Block, name: str) -> None:
    for field in type(block).model_fields:
        nested = getattr(block, field)
        if isinstance(nested, Block):
            # What was loaded is saved as a reference, so new credentials reach the blocks that use them.
            setattr(block, field, type(nested).load(name))
    block.save(name, overwrite=True)


def _build(file: _ProfileFile, slug: str, section: type[Section], blocks: Mapping[str, Block]) -> Block:
    """One section's block.

    Raises:
        ConfigurationError: when the section isn't right, or the block can't be used on this machine.
    """
    try:
        settings = section.model_validate(file.sections[slug])
        values = settings.fields()
        if "gcp_credentials" in section.block.model_fields:
            if CREDENTIALS not in blocks:
                raise file.mistake((slug,), f"{slug} without {CREDENTIALS}", fix=f"add the section {CREDENTIALS}")
            values["gcp_credentials"] = blocks[CREDENTIALS]
        with warnings.catch_warnings():
            # Loads and counts have no use for it.
            warnings.filterwarnings("ignore", message="Cannot create BigQuery Storage client")
            return section.block(**values)
    except ValidationError as error:
        raise _explain(file, slug, section, error) from None
    except (MalformedError, OSError) as error:
        raise file.mistake((slug,), f"{slug}: the service account key is not usable", got=str(error)) from None
    except DefaultCredentialsError as error:
        raise file.mistake(
            (slug,),
            f"{slug}: no application default credentials on this machine",
            got=str(error.args[0]),
            fix="run gcloud auth application-default login; blocks/README.md has the other ways",
        ) from None
    except (GoogleAuthError, ValueError, TypeError, AttributeError) as error:
        # What a parser says about a key may quote it.
        what = "its values are" if slug in NOTIFICATIONS else "the Google credentials are"
        raise file.mistake((slug,), f"{slug}: {what} not usable", got=type(error).__name__) from None


def _explain(file: _ProfileFile, slug: str, section: type[Section], error: ValidationError) -> ConfigurationError:
    worst = _worst(error)
    inside, location = worst["loc"][:-1], (slug, *worst["loc"])
    key = ".".join(map(str, location))
    if worst["type"] == "extra_forbidden":
        return file.mistake(location, f"unknown key {key}", expected=_one_of(_keys(section, inside)))
    if worst["type"] == "missing":
        return file.mistake(location, f"{key} is missing or empty", expected=_one_of(_keys(section, inside)))
    if worst["type"] in ("model_type", "model_attributes_type"):
        return file.mistake(location, f"{key} has to have keys", expected=_one_of(_keys(section, worst["loc"])))
    return file.mistake(location, f"{key}: {worst['msg']}")


def _worst(error: ValidationError) -> dict[str, Any]:
    """The mistake to tell, without the value: a misspelt key before the one that is missing because of it."""
    mistakes = error.errors(include_url=False, include_input=False, include_context=False)
    worst = min(mistakes, key=lambda mistake: mistake["type"] != "extra_forbidden")
    return {**worst, "msg": worst["msg"].removeprefix("Value error, ")}


def _keys(section: type[Section], location: Location) -> list[str]:
    model: type[BaseModel] = section
    for key in location:
        model = cast(type[BaseModel], model.model_fields[str(key)].annotation)
    return list(model.model_fields)


def _one_of(keys: Any) -> str:
    return ", ".join(keys) or "no keys"


class _ProfileFile:
    """A profile's YAML with its variables filled in: all values are text, and each key's line is known."""

    def __init__(self, path: Path, variables: Mapping[str, str]) -> None:
        """Read it.

        Raises:
            ConfigurationError: when it isn't a mapping in YAML, or a variable is not set.
        """
        self._path, self._variables = path, variables
        self._lines: dict[Location, int] = {(): 1}
        self._unset: list[str] = []
        try:
            root = yaml.compose(path.read_bytes(), Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            raise self._not_yaml(error) from None
        if not isinstance(root, yaml.MappingNode):
            raise self.mistake((), "no blocks", expected=_one_of(SECTIONS))
        self.sections: dict[str, Any] = self._read_mapping(root, ())
        if self._unset:
            raise ConfigurationError("; ".join(self._unset), fix="set it in the environment or in .env")

    def at(self, location: Location) -> str:
        """File and line of a key, or of the nearest one around it."""
        while location not in self._lines:
            location = location[:-1]
        return f"{self._path}:{self._lines[location]}"

    def mistake(self, location: Location, what: str, **evidence: str) -> ConfigurationError:
        """An error with file and line."""
        return ConfigurationError(f"{self.at(location)}: {what}", **evidence)

    def _not_yaml(self, error: yaml.YAMLError) -> ConfigurationError:
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
            self._lines[()] = error.problem_mark.line + 1
        # Of other kinds of errors the text quotes the file.
        problem = error.problem if isinstance(error, yaml.scanner.ScannerError | yaml.parser.ParserError) else None
        return self.mistake((), "not valid YAML", got=problem or type(error).__name__)

    def _read_mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in node.value:
            inner = (*location, str(key.value))
            if inner in self._lines:
                raise self.mistake(inner, f"the key {key.value!r} a second time, in line {key.start_mark.line + 1}")
            self._lines[inner] = key.start_mark.line + 1
            read = self._read(value, inner)
            if read != "" or not location:
                values[str(key.value)] = read or {}
        return values

    def _read(self, node: yaml.Node, location: Location) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._read_mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return [self._read(item, (*location, index)) for index, item in enumerate(node.value)]
        return "" if node.tag == "tag:yaml.org,2002:null" else self._fill_in(node.value, location)

    def _fill_in(self, text: str, location: Location) -> str:
        def value(match: re.Match[str]) -> str:
            name, default = match["name"], match["default"]
            if name is None:
                raise self.mistake(location, "a ${ that begins no variable", expected="${NAME} or ${NAME:-default}")
            if name not in self._variables and default is None:
                self._unset.append(f"{self.at(location)}: the variable {name} is not set")
            return self._variables.get(name) or default or ""

        return VARIABLE.sub(value, text)
