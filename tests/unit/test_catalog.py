"""The catalog is a valid Data Package for other tools, and describes the files."""

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from frictionless import Package, Schema

from factories import JANUARY, green_parquet, make_month, trip
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.descriptions.catalog import describe_schema, write_catalog
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.month import COLORS
from nyc_tlc.source.sample import write_sample


@pytest.fixture
def lake(tmp_path: Path) -> FolderLake:
    """Return a lake with two months of green, one of every other colour, and the catalog."""
    lake = FolderLake(tmp_path / "lake")
    make_month(lake, green_parquet(trip(), trip(passenger_count=0)), tmp_path, JANUARY.plus(1))
    for color in COLORS:
        write_sample(color, JANUARY, 200, tmp_path / "sample.parquet")
        make_month(lake, (tmp_path / "sample.parquet").read_bytes(), tmp_path, color=color)
    write_catalog(lake)
    return lake


def test_frictionless_accepts_the_catalog(lake: FolderLake) -> None:
    path = lake.local_path("datapackage.json")
    assert Package.validate_descriptor(str(path)).flatten() == []
    package = Package(str(path))
    assert package.resource_names == [
        "yellow-2024-01",
        "green-2024-01",
        "green-2024-02",
        "fhv-2024-01",
        "fhvhv-2024-01",
    ]
    assert package.get_resource("green-2024-01").schema.primary_key == ["file_month", "source_row"]


def test_frictionless_sees_what_is_wrong(lake: FolderLake) -> None:
    descriptor = json.loads(lake.local_path("datapackage.json").read_bytes())
    descriptor["resources"][0]["bytes"] = "many"
    assert Package.validate_descriptor(descriptor, basepath=str(lake.root)).flatten(["type"]) != []


def test_the_catalog_says_what_the_files_are(lake: FolderLake) -> None:
    for resource in json.loads(lake.local_path("datapackage.json").read_bytes())["resources"]:
        content = lake.local_path(resource["path"]).read_bytes()
        assert resource["bytes"] == len(content)
        assert resource["hash"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert resource["rows"] == pq.read_metadata(lake.local_path(resource["path"])).num_rows
        fields = json.loads(lake.local_path(resource["schema"]).read_bytes())["fields"]
        assert [field["name"] for field in fields] == pq.read_schema(lake.local_path(resource["path"])).names


@pytest.mark.parametrize("color", COLORS)
def test_every_column_has_a_type_and_a_description(color: str) -> None:
    schema = Schema.from_descriptor(describe_schema(read_contract(color)))
    assert all(field.type and field.description for field in schema.fields)
    assert {field.name: field.type for field in schema.fields}["pickup_datetime"] == "datetime"
