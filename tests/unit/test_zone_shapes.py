"""The shapes of the zones, from TLC's own shapefile and in the form that the project has."""

from __future__ import annotations

import io
import random
import zipfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from nyc_tlc.contract.zone_shapefile import read_zone_shapefile
from nyc_tlc.contract.zone_shapes import SCALE, read_polygons, read_zone_paths
from nyc_tlc.errors import SourceError
from nyc_tlc.warehouse.lookups import fetch_zone_shapes, read_lookups
from stand_ins.http_source import HttpSource, PublishedFile


@pytest.fixture(scope="module")
def archive(real_data: Path) -> bytes:
    """Return TLC's shapefile in an archive."""
    return zip_files({f"taxi_zones/{file.name}": file.read_bytes() for file in (real_data / "zones").iterdir()})


def zip_files(files: dict[str, bytes]) -> bytes:
    """Return a zip archive of files."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def test_tlc_s_own_borders_run_through_the_points_of_the_simplified_ones(archive: bytes) -> None:
    """docs/zone_shapes.py has read and projected those with pyshp and PROJ, and takes points only away."""
    exact = read_zone_shapefile(archive)
    assert exact.keys() == read_zone_paths().keys()
    assert sum(len(ring) for polygons in exact.values() for rings in polygons for ring in rings) == 98_192
    for zone, path in read_zone_paths().items():
        points = {
            (x + dx, y + dy)
            for rings in exact[zone]
            for ring in rings
            for x, y in map(to_units, ring)
            for dx, dy in product((-1, 0, 1), repeat=2)
        }
        rough = [to_units(point) for rings in read_polygons(path) for ring in rings for point in ring]
        assert sum(point in points for point in rough) > 0.97 * len(rough), zone


def to_units(point: tuple[float, float]) -> tuple[int, int]:
    """Return a point in the units of the simplified shapes."""
    return round(point[0] * SCALE), round(point[1] * SCALE)


def test_the_archive_at_tlc_replaces_the_simplified_shapes(archive: bytes, http_source: HttpSource) -> None:
    http_source.files["/taxi_zones.zip"] = PublishedFile(archive)
    fetched = fetch_zone_shapes(f"{http_source.url}/taxi_zones.zip")
    sizes = [sum(map(len, read_lookups(shapes_zip=each)[-1].rows["shape"].to_pylist())) for each in (None, fetched)]
    assert sizes[1] > 5 * sizes[0]


def test_an_archive_that_is_another_one_is_not_used(
    archive: bytes, http_source: HttpSource, caplog: pytest.LogCaptureFixture
) -> None:
    http_source.files["/taxi_zones.zip"] = PublishedFile(zip_files({"taxi_zones.txt": b"moved"}))
    assert fetch_zone_shapes(f"{http_source.url}/taxi_zones.zip") is None
    (line,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith("zone shapes: the file is not TLC's archive of taxi zones; ")
    assert line.endswith("; using the embedded copy")


def test_a_damaged_archive_is_refused_and_nothing_else_happens(archive: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(archive)) as whole:
        files = {name: whole.read(name) for name in whole.namelist() if name.endswith((".shp", ".dbf"))}
    chance = random.Random(1)
    refused = 0
    for _ in range(12):
        name = chance.choice(list(files))
        damaged = bytearray(files[name])
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(min(len(damaged), 4_000))] = chance.randrange(256)
        whole_file = chance.random() < 0.5
        content = zip_files(files | {name: bytes(damaged[: None if whole_file else chance.randrange(len(damaged))])})
        try:
            read_zone_shapefile(content)
        except SourceError:
            refused += 1
    assert refused > 3


@pytest.mark.parametrize("east", [0.0, 2_000_000.0, float("nan")])
def test_shapes_outside_of_new_york_are_refused(archive: bytes, east: float) -> None:
    with zipfile.ZipFile(io.BytesIO(archive)) as whole:
        files = {name: whole.read(name) for name in whole.namelist()}
    shp = bytearray(files["taxi_zones/taxi_zones.shp"])
    shp[-16:-8] = np.float64(east).tobytes()
    with pytest.raises(SourceError, match="is not in New York"):
        read_zone_shapefile(zip_files(files | {"taxi_zones/taxi_zones.shp": bytes(shp)}))
