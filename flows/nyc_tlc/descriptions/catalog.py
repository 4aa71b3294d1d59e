"""The lake's catalog: ``datapackage.json``, a Data Package (version 2), written from the contracts and manifests.

A month is a resource: its file, digest, size and rows. The columns of a colour are described once, in
``schema/{color}.json`` (a Table Schema), which the resources refer to.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from nyc_tlc.contract.dataset import Column, Contract, code_tables, read_contract
from nyc_tlc.contract.types import TYPES
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import COLORS, Color
from nyc_tlc.pages.coverage import describe_generated

CATALOG = "datapackage.json"
PACKAGE_PROFILE = "https://datapackage.org/profiles/2.0/datapackage.json"
SCHEMA_PROFILE = "https://datapackage.org/profiles/2.0/tableschema.json"

#: Columns that are never null.
REQUIRED = ("pickup_datetime", "file_month", "source_row")


def write_catalog(lake: Lake) -> str:
    """Write the catalog and its schemas into the lake. Return its address, for people."""
    manifests = lake.read_all_manifests(COLORS)
    for color in {each.color for each in manifests}:
        _write(lake, _schema_key(color), describe_schema(read_contract(color)))
    _write(lake, CATALOG, describe_lake(manifests))
    return lake.url(CATALOG)


def describe_lake(manifests: list[Manifest]) -> dict[str, Any]:
    """Return the Data Package: all months as resources."""
    about = "Clean trip records of New York's taxis and for-hire vehicles, one file per colour and month."
    return {
        "$schema": PACKAGE_PROFILE,
        "name": "nyc-tlc-trip-records",
        "title": "New York taxi trip records",
        "description": f"{describe_generated(manifests)} {about}".lstrip(),
        "created": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "sources": [
            {"title": "TLC Trip Record Data", "path": "https://www.nyc.gov/site/tlc/about/tlc-trip-record-data.page"}
        ],
        "resources": [_describe_month(each) for each in manifests],
    }


def describe_schema(contract: Contract) -> dict[str, Any]:
    """Return a colour's columns as a Table Schema."""
    return {
        "$schema": SCHEMA_PROFILE,
        "fields": [_describe_column(column) for column in contract.columns],
        "primaryKey": ["file_month", "source_row"],
    }


def _describe_month(manifest: Manifest) -> dict[str, Any]:
    contract, clean = read_contract(manifest.color), manifest.clean
    origin = "Generated data" if describe_generated([manifest]) else "TLC's file"
    return {
        "name": manifest.id,
        "title": f"{contract.title}, {manifest.month}",
        "type": "table",
        "path": clean.key,
        "format": "parquet",
        "mediatype": "application/vnd.apache.parquet",
        "bytes": clean.bytes,
        "hash": f"sha256:{clean.sha256}",
        "rows": clean.rows,
        "schema": _schema_key(manifest.color),
        "sources": [{"title": f"{origin} of {manifest.month}", "path": manifest.source.url}],
    }


def _describe_column(column: Column) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": column.name,
        "type": TYPES[column.type].table_schema,
        "description": f"{column.description} ({column.unit})" if column.unit else column.description,
    }
    if column.name in REQUIRED:
        described["constraints"] = {"required": True}
    if column.codes:
        codes = code_tables()[column.codes].codes
        described["categories"] = [{"value": code, "label": entry.name} for code, entry in codes.items()]
    return described


def _schema_key(color: Color) -> str:
    return f"schema/{color}.json"


def _write(lake: Lake, key: str, content: dict[str, Any]) -> None:
    lake.write(key, json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")
