"""External tables of BigQuery over a lake in Google Cloud Storage: ``docs/external-tables-bigquery.sql``.

They query the files where they are. The columns and their types come from the contracts.
"""

from __future__ import annotations

from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.contract.types import TYPES
from nyc_tlc.month import COLORS, Color
from nyc_tlc.settings import read_settings
from nyc_tlc.warehouse.tables import Table, quarantine_table, trip_table

BUCKET = "gs://YOUR_BUCKET"
#: Beside the dataset of the loaded tables, which have the same names.
DATASET = f"{read_settings().schema_name}_lake"
HEADER = f"""\
-- External tables of BigQuery over the lake's files. Written by `make docs` from flows/nyc_tlc/contract/.
-- Put your bucket, with its folder if it has one, in place of {BUCKET}. The dataset has to be where the bucket is.
-- year and month are the folders' names: a query that asks for them reads those folders only.
-- While a month is replaced, its folder can have two files for a moment. The tables that are loaded never show that.

CREATE SCHEMA IF NOT EXISTS `{DATASET}`;
"""


def describe_external_tables() -> str:
    """Return the file's text: a statement for each colour's clean rows, and one for its rejected ones."""
    statements = (
        _create(folder, color, table(read_contract(color)))
        for folder, table in (("clean", trip_table), ("quarantine", quarantine_table))
        for color in COLORS
    )
    return "\n".join([HEADER, *statements])


def _create(folder: str, color: Color, table: Table) -> str:
    columns = ",\n".join(f"  {field.name} {TYPES[field.type].bigquery}" for field in table.fields)
    prefix = f"{BUCKET}/{folder}/{color}"
    return (
        f"CREATE OR REPLACE EXTERNAL TABLE `{DATASET}.{table.name}` (\n{columns}\n)\n"
        "WITH PARTITION COLUMNS (year INT64, month INT64)\n"
        "OPTIONS (\n"
        "  format = 'PARQUET',\n"
        "  enable_list_inference = TRUE,\n"
        f"  hive_partition_uri_prefix = '{prefix}',\n"
        f"  uris = ['{prefix}/*.parquet']\n"
        ");\n"
    )
