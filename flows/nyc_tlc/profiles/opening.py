"""Open a profile's lake and warehouses. ``local`` is a folder and a DuckDB file under ``TLC_HOME``.

Any other profile is the Prefect blocks ``taxi-{profile}``; only this module opens them. Their libraries take seconds
to import, so a library is imported only for a profile that has such a block.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from google.api_core.exceptions import Forbidden
from google.auth.exceptions import GoogleAuthError, InvalidValue
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from nyc_tlc.errors import ConfigurationError, first_line
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.store import Lake
from nyc_tlc.profiles.block_classes import import_class
from nyc_tlc.settings import read_settings
from nyc_tlc.warehouse.protocol import Kind, Warehouse

LOCAL = "local"

WAREHOUSE_BLOCKS: dict[Kind, str] = {"postgres": "sqlalchemy-connector", "bigquery": "bigquery-warehouse"}


def open_lake(profile: str) -> Lake:
    """Open the profile's lake: a bucket of Google, Amazon or Azure, else the folder of ``local-file-system/taxi-…``.

    Raises:
        ConfigurationError: when the profile has none of them, or its block can't be used.
    """
    if profile == LOCAL:
        return FolderLake(read_settings().home.absolute() / "lake")
    if bucket := _bucket(profile):
        lake: Lake = importlib.import_module("nyc_tlc.lake.gcs").GcsLake(*bucket)
        return lake
    if s3 := _load(profile, "s3-bucket"):
        return _s3_lake(profile, s3)
    if azure := _load(profile, "azure-blob-storage-container"):
        return _azure_lake(profile, azure)
    folder = _load(profile, "local-file-system")
    if folder is None:
        raise _missing(profile, "gcs-bucket", "s3-bucket", "azure-blob-storage-container", "local-file-system")
    return FolderLake(Path(folder.basepath or ".").expanduser().absolute())


def open_warehouse(profile: str, kind: Kind) -> Warehouse:
    """Open one of the profile's warehouses. DuckDB needs no block: it is a file under ``TLC_HOME``.

    Raises:
        ConfigurationError: when the profile has none of that kind, or it can't be opened.
    """
    opened: Warehouse
    module = importlib.import_module(f"nyc_tlc.warehouse.{kind}")
    if kind == "duckdb":
        opened = module.DuckDbWarehouse(read_settings().home.absolute() / "warehouse.duckdb")
    elif kind == "postgres":
        connector = _load(profile, WAREHOUSE_BLOCKS[kind])
        if connector is None:
            raise _missing(profile, "sqlalchemy-connector")
        opened = module.PostgresWarehouse(_libpq(profile, connector))
    else:
        block = _load(profile, WAREHOUSE_BLOCKS[kind])
        if block is None:
            raise _missing(profile, "bigquery-warehouse")
        client = _opened(f"bigquery-warehouse/taxi-{profile}", block.gcp_credentials.get_bigquery_client)
        bucket = _bucket(profile)
        opened = module.BigQueryWarehouse(client, bucket and partial(_read_location, bucket[0]))
    return opened


def open_dbt_target(profile: str, kind: Kind) -> tuple[dict[str, Any], dict[str, str]]:
    """One of the profile's warehouses in dbt's words.

    Returns:
        What ``profiles.yml`` says of it, and the variables that this refers to, which can be secret.

    Raises:
        ConfigurationError: when the profile has none of that kind, or it can't be used.
    """
    values: dict[str, str]
    if kind == "duckdb":
        settings = {"threads": "2", "memory_limit": "2GB"}
        values = {"path": str(read_settings().home.absolute() / "warehouse.duckdb")}
        return {"type": kind, "settings": settings, **_as_variables(values)}, _variables(values)
    block = _load(profile, WAREHOUSE_BLOCKS[kind])
    if block is None:
        raise _missing(profile, WAREHOUSE_BLOCKS[kind])
    if kind == "postgres":
        parameters = _libpq(profile, block)
        names = {"host": "host", "user": "user", "password": "password", "dbname": "dbname", "sslmode": "sslmode"}
        values = {name: str(parameters[key]) for name, key in names.items() if parameters.get(key)}
        values.setdefault("password", "")
        return {"type": kind, "port": int(parameters.get("port") or 5432), **_as_variables(values)}, _variables(values)
    client = _opened(f"bigquery-warehouse/taxi-{profile}", block.gcp_credentials.get_bigquery_client)
    credentials = block.gcp_credentials
    output: dict[str, Any] = {"type": kind, "method": "oauth", "project": client.project}
    # BigQuery joins nothing across locations: the models' dataset has to be where the tables are.
    output["location"] = importlib.import_module("nyc_tlc.warehouse.bigquery").find_location(client)
    values = {}
    if credentials.service_account_info:
        key = dict(credentials.service_account_info.get_secret_value())
        values = {name: str(value) for name, value in key.items()}
        return output | {"method": "service-account-json", "keyfile_json": _as_variables(values)}, _variables(values)
    if credentials.service_account_file:
        output |= {"method": "service-account", "keyfile": str(credentials.service_account_file)}
    return output, {}


def _as_variables(values: Mapping[str, str]) -> dict[str, str]:
    # dbt keeps a variable with this prefix out of its logs.
    return {name: f"{{{{ env_var('DBT_ENV_SECRET_{name.upper()}') }}}}" for name in values}


def _variables(values: Mapping[str, str]) -> dict[str, str]:
    return {f"DBT_ENV_SECRET_{name.upper()}": value for name, value in values.items()}


def list_warehouses(profile: str) -> list[Kind]:
    """Return the warehouses of a profile: those with a block, DuckDB if there is none.

    Raises:
        ConfigurationError: when it has no lake either, or its block can't be used.
    """
    kinds: list[Kind] = [kind for kind, slug in WAREHOUSE_BLOCKS.items() if _has(profile, slug)]
    if not kinds:
        # Without any block, the name is a mistake and not a profile with DuckDB: this raises.
        open_lake(profile)
    return kinds or ["duckdb"]


def _bucket(profile: str) -> tuple[Any, str] | None:
    """Return the profile's bucket at Google, with its client, and the folder in it; None without a block."""
    block = _load(profile, "gcs-bucket")
    if block is None:
        return None
    client = _opened(f"gcs-bucket/taxi-{profile}", block.gcp_credentials.get_cloud_storage_client)
    return client.bucket(block.bucket), block.bucket_folder


def _s3_lake(profile: str, block: Any) -> Lake:
    """Open a lake in an S3 bucket. Without keys in the block, boto3 looks for the machine's own credentials."""
    module = importlib.import_module("nyc_tlc.lake.s3")
    parameters = block.credentials.aws_client_parameters.get_params_override()
    parameters["config"] = module.client_config(parameters.get("config"), parameters.get("endpoint_url"))

    def make_client() -> Any:
        try:
            return block.credentials.get_boto3_session().client("s3", **parameters)
        except module.S3Lake.failures as error:
            raise ConfigurationError(
                f"the block s3-bucket/taxi-{profile} can't be used", got=_describe(error), fix=_register(profile)
            ) from None

    lake: Lake = module.S3Lake(
        _opened(f"s3-bucket/taxi-{profile}", make_client), block.bucket_name, block.bucket_folder
    )
    return lake


def _azure_lake(profile: str, block: Any) -> Lake:
    """Open a lake in an Azure container. The block's own clients are for asyncio, so a client is made here."""
    module = importlib.import_module("nyc_tlc.lake.azure")
    who, options = block.credentials, module.client_options()

    def make_client() -> Any:
        client = importlib.import_module("azure.storage.blob").ContainerClient
        if who.connection_string is not None:
            text = who.connection_string.get_secret_value()
            return client.from_connection_string(text, block.container_name, **options)
        identity = importlib.import_module("azure.identity")
        if who.client_id is None:
            credential = identity.DefaultAzureCredential()
        else:
            secret = who.client_secret.get_secret_value()
            credential = identity.ClientSecretCredential(who.tenant_id, who.client_id, secret)
        return client(who.account_url, block.container_name, credential, **options)

    name = f"azure-blob-storage-container/taxi-{profile}"
    lake: Lake = module.AzureLake(_opened(name, make_client), block.base_folder or "")
    return lake


def _read_location(bucket: Any) -> str:
    """Return the location of a bucket; of one in two regions of its owner's choice, these with a ``+`` between.

    Raises:
        ConfigurationError: when the credentials may not read it.
        TransientError: when a later attempt can succeed.
    """
    lake = importlib.import_module("nyc_tlc.lake.gcs").GcsLake
    try:
        bucket.reload()
    except lake.failures as error:
        if not isinstance(error, Forbidden):
            raise lake.explain(error, "the bucket's location", f"gs://{bucket.name}") from error
        raise ConfigurationError(
            f"no permission to read the location of gs://{bucket.name}",
            got=_describe(error),
            fix="grant roles/storage.legacyBucketReader on the bucket",
        ) from error
    return "+".join(bucket.data_locations or [bucket.location])


def _libpq(profile: str, connector: Any) -> dict[str, Any]:
    """Return the connection parameters of a connector block, as libpq names them."""
    info = connector.connection_info
    make_url = importlib.import_module("sqlalchemy.engine").make_url
    url = info.create_url() if hasattr(info, "create_url") else make_url(str(info))
    if url.get_backend_name() != "postgresql":
        raise ConfigurationError(f"sqlalchemy-connector/taxi-{profile} is not for Postgres", got=url.get_backend_name())
    named = url.translate_connect_args(username="user", database="dbname")
    return {**url.query, **named, **(connector.connect_args or {})}


def _has(profile: str, slug: str) -> bool:
    if profile == LOCAL:
        return False
    if not re.fullmatch(r"[a-z0-9-]+", profile):
        # The name becomes a part of an address of the API.
        raise ConfigurationError(f"not a valid profile name: {profile!r}", expected="lowercase letters, digits, dashes")
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectNotFound):
        client.read_block_document_by_name(f"taxi-{profile}", slug, include_secrets=False)
        return True
    return False


def _load(profile: str, slug: str) -> Any:
    """Load a block of the profile; None if it has none of this type.

    Raises:
        ConfigurationError: when it can't be loaded; its values are not shown.
    """
    if not _has(profile, slug):
        return None
    name = f"{slug}/taxi-{profile}"
    block: Any = import_class(slug)
    try:
        with warnings.catch_warnings():
            # Loads and counts do not use that client.
            warnings.filterwarnings("ignore", message="Cannot create BigQuery Storage client")
            return block.load(f"taxi-{profile}")
    except RuntimeError as error:
        if not isinstance(error.__cause__, ValidationError):
            raise
        mistakes = dict.fromkeys(
            map(_describe_invalid_value, error.__cause__.errors(include_url=False, include_input=False))
        )
        # Without the cause, which would show the values.
        raise ConfigurationError(
            f"the block {name} can't be used", got=", ".join(mistakes), fix=_register(profile)
        ) from None
    except (GoogleAuthError, ValueError) as error:
        raise ConfigurationError(
            f"the block {name} can't be used", got=_describe(error), fix=_register(profile)
        ) from None


def _opened(name: str, client: Callable[[], Any]) -> Any:
    try:
        return client()
    except (GoogleAuthError, ValueError, OSError) as error:
        raise ConfigurationError(f"the credentials of {name} can't be used", got=_describe(error)) from None


def _missing(profile: str, *kinds: str) -> ConfigurationError:
    names = " or ".join(f"{kind}/taxi-{profile}" for kind in kinds)
    fix = "name another with --profile" if profile == LOCAL else _register(profile)
    return ConfigurationError(f"the profile {profile} has no block {names}", fix=fix)


def _register(profile: str) -> str:
    return f"register it: .venv/bin/python blocks/register.py {profile}"


def _describe_invalid_value(mistake: Mapping[str, Any]) -> str:
    """Return which value of a block is invalid, and why, without showing the value."""
    cause = mistake.get("ctx", {}).get("error")
    why = _describe(cause) if isinstance(cause, Exception) else mistake["msg"]
    return ": ".join(filter(None, (".".join(map(str, mistake["loc"])), why)))


def _describe(error: Exception) -> str:
    # The text of an InvalidValue is the value itself.
    return type(error).__name__ if isinstance(error, InvalidValue) else first_line(error)
