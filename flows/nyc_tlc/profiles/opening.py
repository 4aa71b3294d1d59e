"""Open a profile's lake and warehouses. ``local`` is a folder and a DuckDB file under ``TLC_HOME``.

Any other profile is the Prefect blocks ``taxi-{profile}``. Prefect and the libraries of its blocks take seconds to
import, and some are optional, so each function imports what it needs.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from google.auth.exceptions import GoogleAuthError, InvalidValue
from pydantic import ValidationError

from nyc_tlc.errors import ArgumentError, ConfigurationError, first_line
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.store import Lake
from nyc_tlc.settings import read_settings
from nyc_tlc.warehouse.protocol import Kind, Warehouse

if TYPE_CHECKING:
    from prefect.blocks.core import Block

LOCAL = "local"
#: Optional package -> the extra that installs it.
EXTRAS = {
    "prefect_aws": "aws",
    "prefect_azure": "azure",
    "confluent_kafka": "kafka",
    "prefect_dask": "dask",
    "prefect_ray": "ray",
}
REGISTER = "register it: .venv/bin/python blocks/register.py {}"
WAREHOUSE_BLOCKS: dict[Kind, str] = {"postgres": "sqlalchemy-connector", "bigquery": "bigquery-warehouse"}


def name_lake(profile: str) -> str:
    """Return a lake's name, for artifacts: its profile, and a TLC_HOME other than ``data``, like ``local-sample``."""
    home = read_settings().home.name
    return profile if profile != LOCAL or home == "data" else f"{profile}-{home}"


def open_lake(profile: str) -> Lake:
    """Open the profile's lake: a bucket of Google, Amazon or Azure, else the folder of ``local-file-system/taxi-…``.

    Raises:
        ArgumentError: when the profile's name is not valid.
        ConfigurationError: when the profile has none of them, or its block can't be used.
    """
    if profile == LOCAL:
        return FolderLake(read_settings().home.absolute() / "lake")
    for slug, open_it in LAKES.items():
        if find_block(profile, slug):
            return open_it(profile)
    raise _missing(profile, *LAKES)


def open_warehouse(profile: str, kind: Kind) -> Warehouse:
    """Open one of the profile's warehouses. DuckDB needs no block: it is a file under ``TLC_HOME``.

    Raises:
        ConfigurationError: when the profile has none of that kind, or it can't be opened.
    """
    if kind == "duckdb":
        from nyc_tlc.warehouse.duckdb import DuckDbWarehouse

        return DuckDbWarehouse(duckdb_path(), find_schema(profile))
    if kind == "postgres":
        from nyc_tlc.warehouse.postgres import PostgresWarehouse

        return PostgresWarehouse(libpq_parameters(profile), find_schema(profile))
    from nyc_tlc.warehouse.bigquery import BigQueryWarehouse

    _, client = open_bigquery(profile)
    bucket = _gcs_bucket(profile)[0] if find_block(profile, "gcs-bucket") else None
    return BigQueryWarehouse(client, bucket and partial(_read_location, bucket), find_schema(profile))


def find_schema(profile: str) -> str:
    """Return the schema or dataset of a profile's tables: ``TLC_SCHEMA``, else the name in the profile's file."""
    settings = read_settings()
    if profile == LOCAL or "schema_name" in settings.model_fields_set:
        return settings.schema_name
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = client.read_variable_by_name(f"{name_blocks(profile)}-schema")
    return str(found.value) if found else settings.schema_name


def open_broker_settings(profile: str) -> dict[str, Any]:
    """Return the profile's settings of librdkafka, the value of ``secret/taxi-…``; none if it has no secret."""
    if not find_block(profile, "secret"):
        return {}
    settings = _load(profile, "prefect.blocks.system.Secret").get()
    if not isinstance(settings, dict) or "bootstrap.servers" not in settings:
        # Without it, whoever starts a run could send the password to any address.
        raise ConfigurationError(f"secret/taxi-{profile} has no bootstrap.servers", fix=REGISTER.format(profile))
    return settings


def duckdb_path() -> Path:
    """Return the path of the DuckDB file, which every profile can load."""
    return read_settings().home.absolute() / "warehouse.duckdb"


def list_warehouses(profile: str) -> list[Kind]:
    """Return the warehouses of a profile: those with a block, DuckDB if there is none.

    Raises:
        ConfigurationError: when it has no lake either, or its block can't be used.
    """
    kinds: list[Kind] = [kind for kind, slug in WAREHOUSE_BLOCKS.items() if find_block(profile, slug)]
    if not kinds:
        # Without any block, the name is a mistake and not a profile with DuckDB: this raises.
        open_lake(profile)
    return kinds or ["duckdb"]


def choose_warehouses(profile: str | None, kinds: Sequence[Kind] | None) -> tuple[str, Sequence[Kind]]:
    """Return the profile and warehouses to use; None stands for ``TLC_PROFILE`` and for all of the profile."""
    name = profile or read_settings().profile
    return name, list_warehouses(name) if kinds is None else kinds


def open_dbt_target(profile: str, kind: Kind) -> tuple[dict[str, Any], dict[str, str]]:
    """Return one of the profile's warehouses as a target of dbt.

    Returns:
        The output for ``profiles.yml``, and the environment variables that it refers to, which can be secret.

    Raises:
        ConfigurationError: when the profile has none of that kind, or it can't be used.
    """
    output: dict[str, Any] = {"type": kind}
    values: dict[str, str] = {}
    if kind == "duckdb":
        output["settings"] = {"threads": "2", "memory_limit": "2GB"}
        values["path"] = str(duckdb_path())
    elif kind == "postgres":
        parameters = libpq_parameters(profile)
        output["port"] = int(parameters.get("port") or 5432)
        given = (name for name in ("host", "user", "dbname", "sslmode") if parameters.get(name))
        values = {"password": parameters.get("password") or "", **{name: str(parameters[name]) for name in given}}
    else:
        from nyc_tlc.warehouse.bigquery import BigQueryWarehouse

        credentials, client = open_bigquery(profile)
        # BigQuery joins nothing across locations: the models' dataset has to be where the tables are.
        output |= {
            "method": "oauth",
            "project": client.project,
            "location": BigQueryWarehouse(client, None, find_schema(profile)).find_location(),
        }
        if credentials.service_account_info:
            output["method"] = "service-account-json"
            key = credentials.service_account_info.get_secret_value()
            values = {name: str(value) for name, value in key.items()}
        elif credentials.service_account_file:
            output |= {"method": "service-account", "keyfile": str(credentials.service_account_file)}
    # dbt keeps a variable with this prefix out of its logs.
    variables = {name: f"DBT_ENV_SECRET_{name.upper()}" for name in values}
    references = {name: f"{{{{ env_var('{variable}') }}}}" for name, variable in variables.items()}
    output |= {"keyfile_json": references} if output.get("method") == "service-account-json" else references
    return output, {variables[name]: value for name, value in values.items()}


def name_blocks(profile: str) -> str:
    """Return the name that all blocks of a profile have.

    Raises:
        ArgumentError: when the profile's name is not valid; ``x/../y`` would be other blocks in the API's URL.
    """
    if not re.fullmatch(r"[a-z0-9-]+", profile):
        raise ArgumentError(f"not a valid profile name: {profile!r}", expected="lowercase letters, digits and dashes")
    return f"taxi-{profile}"


def find_block(profile: str, slug: str) -> UUID | None:
    """Return the id of the profile's block of a type; None if it has none."""
    if profile == LOCAL:
        return None
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    name = name_blocks(profile)
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectNotFound):
        return client.read_block_document_by_name(name, slug, include_secrets=False).id
    return None


def import_block(path: str) -> type[Block]:
    """Import a block's class: ``prefect_aws.S3Bucket``.

    Raises:
        ConfigurationError: naming the extra that installs its package, when that is optional and missing.
    """
    module, _, name = path.rpartition(".")
    with optional_packages():
        block: type[Block] = getattr(import_module(module), name)
    return block


@contextlib.contextmanager
def optional_packages() -> Iterator[None]:
    """Name the extra that installs an optional package which an import in the ``with`` block lacks."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        fix = f"install it: make extra NAME={EXTRAS[error.name]}"
        raise ConfigurationError("a package is not installed", got=f"no {error.name}", fix=fix) from None


@contextlib.contextmanager
def without_storage_warning() -> Iterator[None]:
    """Hide the warning that BigQuery's storage client is not installed: loads and counts do not use it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Cannot create BigQuery Storage client")
        yield


def _gcs_lake(profile: str) -> Lake:
    from nyc_tlc.lake.gcs import GcsLake

    return GcsLake(*_gcs_bucket(profile))


def _s3_lake(profile: str) -> Lake:
    """Open a lake in an S3 bucket. Without keys in the block, boto3 looks for the machine's own credentials."""
    from nyc_tlc.lake.s3 import S3Lake, client_config

    block = _load(profile, "prefect_aws.S3Bucket")
    parameters = block.credentials.aws_client_parameters.get_params_override()
    parameters["config"] = client_config(parameters.get("config"), parameters.get("endpoint_url"))
    with _usable(f"s3-bucket/taxi-{profile}", *S3Lake.failures):
        client = block.credentials.get_boto3_session().client("s3", **parameters)
    return S3Lake(client, block.bucket_name, block.bucket_folder)


def _azure_lake(profile: str) -> Lake:
    """Open a lake in an Azure container. The block's own clients are for asyncio, so a client is made here."""
    block = _load(profile, "prefect_azure.AzureBlobStorageContainer")
    from azure.identity import ClientSecretCredential, DefaultAzureCredential
    from azure.storage.blob import ContainerClient

    from nyc_tlc.lake.azure import AzureLake, client_options

    who, container = block.credentials, block.container_name
    with _usable(f"azure-blob-storage-container/taxi-{profile}"):
        if who.connection_string is not None:
            text = who.connection_string.get_secret_value()
            client = ContainerClient.from_connection_string(text, container, **client_options())
        else:
            credential = (
                DefaultAzureCredential()
                if who.client_id is None
                else ClientSecretCredential(who.tenant_id, who.client_id, who.client_secret.get_secret_value())
            )
            client = ContainerClient(who.account_url, container, credential, **client_options())
    return AzureLake(client, block.base_folder or "")


def _folder_lake(profile: str) -> Lake:
    folder = _load(profile, "prefect.filesystems.LocalFileSystem")
    return FolderLake(Path(folder.basepath or ".").expanduser().absolute())


#: The blocks that are a lake; the first that a profile has is its lake.
LAKES: dict[str, Callable[[str], Lake]] = {
    "gcs-bucket": _gcs_lake,
    "s3-bucket": _s3_lake,
    "azure-blob-storage-container": _azure_lake,
    "local-file-system": _folder_lake,
}


def _gcs_bucket(profile: str) -> tuple[Any, str]:
    """Return the profile's bucket at Google, with its client, and the folder in it."""
    block = _load(profile, "prefect_gcp.GcsBucket")
    with _usable(f"gcs-bucket/taxi-{profile}"):
        client = block.gcp_credentials.get_cloud_storage_client()
    return client.bucket(block.bucket), block.bucket_folder


def open_bigquery(profile: str) -> tuple[Any, Any]:
    """Return the credentials of the profile's BigQuery, and a client."""
    credentials = _load(profile, "prefect_gcp.bigquery.BigQueryWarehouse").gcp_credentials
    with _usable(f"bigquery-warehouse/taxi-{profile}"):
        return credentials, credentials.get_bigquery_client()


def libpq_parameters(profile: str) -> dict[str, Any]:
    """Return the connection parameters of the profile's Postgres, as libpq names them."""
    from sqlalchemy.engine import make_url

    connector = _load(profile, "prefect_sqlalchemy.SqlAlchemyConnector")
    info = connector.connection_info
    url = info.create_url() if hasattr(info, "create_url") else make_url(str(info))
    if url.get_backend_name() != "postgresql":
        raise ConfigurationError(f"sqlalchemy-connector/taxi-{profile} is not for Postgres", got=url.get_backend_name())
    named = url.translate_connect_args(username="user", database="dbname")
    return {**url.query, **named, **(connector.connect_args or {})}


def _read_location(bucket: Any) -> str:
    """Return the location of a bucket; of one in two regions of its owner's choice, these with a ``+`` between."""
    from google.api_core.exceptions import Forbidden

    from nyc_tlc.lake.gcs import GcsLake

    try:
        bucket.reload()
    except Forbidden as error:
        raise ConfigurationError(
            f"no permission to read the location of gs://{bucket.name}",
            got=_describe(error),
            fix="grant roles/storage.legacyBucketReader on the bucket",
        ) from error
    except GcsLake.failures as error:
        raise GcsLake.explain(error, "the bucket's location", f"gs://{bucket.name}") from error
    return "+".join(bucket.data_locations or [bucket.location])


def _load(profile: str, path: str) -> Any:
    """Load a block of the profile by its class.

    Raises:
        ConfigurationError: when the profile has none of this type, or it can't be loaded; its values are not shown.
    """
    block_type = import_block(path)
    slug = block_type.get_block_type_slug()
    if not find_block(profile, slug):
        raise _missing(profile, slug)
    try:
        with without_storage_warning():
            return block_type.load(name_blocks(profile))
    except (GoogleAuthError, ValueError, RuntimeError) as error:
        got = _describe(error)
    # Without the cause, which would show the values.
    raise ConfigurationError(f"the block {slug}/taxi-{profile} can't be used", got=got, fix=REGISTER.format(profile))


@contextlib.contextmanager
def _usable(name: str, *failures: type[Exception]) -> Iterator[None]:
    expected: tuple[type[Exception], ...] = (GoogleAuthError, ValueError, OSError, *failures)
    try:
        yield
    except expected as error:
        raise ConfigurationError(f"the credentials of {name} can't be used", got=_describe(error)) from None


def _missing(profile: str, *slugs: str) -> ConfigurationError:
    names = " or ".join(f"{slug}/taxi-{profile}" for slug in slugs)
    fix = REGISTER.format(profile)
    if profile == LOCAL:
        other = "dev" if slugs == (WAREHOUSE_BLOCKS["postgres"],) else "gcp"
        register = REGISTER.format(other)
        fix = f"flows/etl_gcs_to_duckdb.py loads its DuckDB file; or {register}, and add --profile {other}"
    return ConfigurationError(f"the profile {profile} has no block {names}", fix=fix)


def _describe(error: BaseException) -> str:
    """Return an error's message; for values of a block that are not valid, which ones and why, without the values."""
    if isinstance(error.__cause__, ValidationError):
        mistakes = error.__cause__.errors(include_url=False, include_input=False)
        return ", ".join(dict.fromkeys(map(_describe_mistake, mistakes)))
    # The text of an InvalidValue is the value itself.
    return type(error).__name__ if isinstance(error, InvalidValue) else first_line(error)


def _describe_mistake(mistake: Mapping[str, Any]) -> str:
    place, why = ".".join(map(str, mistake["loc"])), mistake.get("ctx", {}).get("error")
    return ": ".join(filter(None, (place, _describe(why) if why else mistake["msg"])))
