# /// script
# dependencies = ["shapely==2.2.0", "pyproj==3.7.2", "pyshp==3.1.6"]
# ///
"""Writes TLC's taxi zones as small shapes: ``flows/nyc_tlc/contract/datasets/zone_shapes.csv``.

TLC publishes the zones as a shapefile (taxi_zones.zip on its page "TLC Trip Record Data", from the City of New York's
Open Data), in feet of New York's state plane. Here the borders are simplified together, so that neighbours still share
them, and rounded to 0.00001 degrees, about 1 m. A shape is an SVG path of relative lines in these units, x to the east
and y to the north, one closed part a ring: outer rings counter-clockwise, each followed by its holes.

Run as ``uv run docs/zone_shapes.py taxi_zones.shp``.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pyproj
import shapefile
import shapely
from shapely.geometry.polygon import orient

TARGET = Path(__file__).parents[1] / "flows" / "nyc_tlc" / "contract" / "datasets" / "zone_shapes.csv"
#: Feet that a border may move.
TOLERANCE = 200.0
#: Units of a degree.
SCALE = 100_000


def main(source: Path) -> None:
    """See the module."""
    with shapefile.Reader(source) as reader:
        ids = [record["LocationID"] for record in reader.iterRecords()]
        polygons = [shapely.make_valid(shapely.geometry.shape(each.__geo_interface__)) for each in reader.iterShapes()]
    to_degrees = pyproj.Transformer.from_crs("EPSG:2263", "EPSG:4326", always_xy=True)
    shapes: dict[int, list[shapely.Polygon]] = {}
    for zone, shape in zip(ids, shapely.coverage_simplify(polygons, TOLERANCE), strict=True):
        degrees = shapely.transform(shape, to_degrees.transform, interleaved=False)
        shapes.setdefault(zone, []).extend(shapely.get_parts(shapely.set_precision(degrees, 1 / SCALE)))
    with TARGET.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["location_id", "shape"])
        for zone, parts in sorted(shapes.items()):
            rings = (ring for part in map(orient, parts) for ring in (part.exterior, *part.interiors))
            writer.writerow([zone, "".join(draw_ring(ring.coords[:-1]) for ring in rings)])


def draw_ring(ring: list[tuple[float, float]]) -> str:
    """Return the points of a ring, the first not repeated, as a path."""
    points = [(round(x * SCALE), round(y * SCALE)) for x, y in ring]
    steps = [(x - a, y - b) for (x, y), (a, b) in zip(points[1:], points, strict=False)]
    return f"M{points[0][0]} {points[0][1]}l{' '.join(f'{x} {y}' for x, y in steps)}z".replace(" -", "-")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
