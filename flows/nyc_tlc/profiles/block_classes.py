"""The classes of blocks whose libraries take seconds to import, or are optional: imported when they are used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from nyc_tlc.errors import ConfigurationError

if TYPE_CHECKING:
    from prefect.blocks.core import Block

#: Block type -> the module and name of its class.
CLASSES = {
    "gcs-bucket": "prefect_gcp.cloud_storage:GcsBucket",
    "aws-credentials": "prefect_aws:AwsCredentials",
    "s3-bucket": "prefect_aws:S3Bucket",
    "azure-blob-storage-credentials": "prefect_azure:AzureBlobStorageCredentials",
    "azure-blob-storage-container": "prefect_azure:AzureBlobStorageContainer",
    "local-file-system": "prefect.filesystems:LocalFileSystem",
    "sqlalchemy-connector": "prefect_sqlalchemy:SqlAlchemyConnector",
    "bigquery-warehouse": "prefect_gcp.bigquery:BigQueryWarehouse",
}
#: Optional module -> the lock file that installs it.
LOCK_FILES = {"prefect_aws": "requirements-aws.lock", "prefect_azure": "requirements-azure.lock"}


def import_class(slug: str) -> type[Block]:
    """Import the class of a block type.

    Raises:
        ConfigurationError: when its optional package is not installed.
    """
    module, _, name = CLASSES[slug].partition(":")
    try:
        block: type[Block] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if module not in LOCK_FILES:
            raise
        raise ConfigurationError(
            f"a block {slug} needs a package that is not installed",
            got=f"no {error.name}",
            fix=f".venv/bin/pip install --require-hashes -r {LOCK_FILES[module]}",
        ) from None
    return block
