"""Bring a month from a file into a lake and a warehouse, in a process that a test kills."""

from __future__ import annotations

from pathlib import Path

from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery, storage

from factories import JANUARY, publish_fetched
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.gcs import GcsLake
from nyc_tlc.lake.publication import remove_leftovers
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Month
from nyc_tlc.planning.month_plan import plan_month
from nyc_tlc.planning.options import MonthOptions
from nyc_tlc.source.fetch import fetch_month, scratch_folder
from nyc_tlc.warehouse.bigquery import BigQueryWarehouse
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.postgres import PostgresWarehouse
from nyc_tlc.warehouse.protocol import Warehouse


def open_lake(where: str) -> Lake:
    """Open a lake in a folder, or in a bucket of the stand-in with this URL."""
    if where.startswith("http"):
        client = storage.Client("test", AnonymousCredentials(), client_options={"api_endpoint": where})
        return GcsLake(client.bucket("taxi-lake"), "taxi")
    return FolderLake(Path(where))


def open_warehouse(where: dict[str, str]) -> Warehouse:
    """Open DuckDB by a path, BigQuery by the URL of the stand-in, or Postgres by libpq's parameters."""
    if "path" in where:
        return DuckDbWarehouse(Path(where["path"]))
    if "url" in where:
        client = bigquery.Client("test", AnonymousCredentials(), client_options={"api_endpoint": where["url"]})
        return BigQueryWarehouse(client)
    return PostgresWarehouse(where)


def bring_month(
    source: str, lake_at: str, warehouse_at: dict[str, str] | None, *, day: bool = False, month: Month = JANUARY
) -> None:
    """Bring a month of green taxis from a source into a lake and a warehouse, as far as it is due."""
    lake = open_lake(lake_at)
    plan = plan_month("green", month, MonthOptions(source, "local", layout="day" if day else "month"), lake)
    manifest = plan.manifest
    if plan.need == "current" and manifest and plan.manifest_version:
        remove_leftovers(lake, manifest, plan.manifest_version)
    if plan.remote and (manifest is None or plan.need != "current"):
        with scratch_folder() as folder:
            fetched = fetch_month(plan.remote, folder)
            manifest = publish_fetched(lake, fetched, folder, layout="day" if day else "month")
    if manifest and warehouse_at:
        load_month(LakeFile(manifest, lake), open_warehouse(warehouse_at))
