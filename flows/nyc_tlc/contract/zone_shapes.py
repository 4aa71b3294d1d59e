"""The shapes of TLC's taxi zones, simplified: ``datasets/zone_shapes.csv``, which ``docs/zone_shapes.py`` writes.

Source: the City of New York's Open Data, "NYC Taxi Zones", which TLC publishes as ``taxi_zones.zip``.
"""

from __future__ import annotations

import csv
import re
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path

PATHS = Path(__file__).parent / "datasets" / "zone_shapes.csv"
#: A path's units in a degree of longitude or latitude.
SCALE = 100_000

#: A closed line: longitudes and latitudes in degrees. A polygon is its outer ring, and then its holes.
Ring = list[tuple[float, float]]
Polygon = list[Ring]


@cache
def read_zone_paths() -> dict[int, str]:
    """Return location id -> its shape as an SVG path, x to the east and y to the north."""
    with PATHS.open(encoding="utf-8", newline="") as file:
        return {int(row["location_id"]): row["shape"] for row in csv.DictReader(file)}


def read_polygons(path: str) -> list[Polygon]:
    """Return the polygons of a path. Outer rings run counter-clockwise, each is followed by its holes."""
    rings: list[Ring] = []
    for part in path.split("z")[:-1]:
        numbers = [int(number) for number in re.findall(r"-?\d+", part)]
        xs, ys = accumulate(numbers[::2]), accumulate(numbers[1::2])
        ring = [(x / SCALE, y / SCALE) for x, y in zip(xs, ys, strict=True)]
        rings.append([*ring, ring[0]])
    return group_rings(rings)


def group_rings(rings: list[Ring]) -> list[Polygon]:
    """Return the polygons of rings: outer ones counter-clockwise, each followed by its holes."""
    polygons: list[Polygon] = []
    for ring in rings:
        twice_area = sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise(ring))
        if twice_area > 0:
            polygons.append([])
        polygons[-1].append(ring)
    return polygons


def write_text(polygons: list[Polygon]) -> str:
    """Return polygons as well-known text (WKT)."""
    rings = [[", ".join(f"{x} {y}" for x, y in ring) for ring in polygon] for polygon in polygons]
    return f"MULTIPOLYGON ({', '.join('(' + ', '.join(f'({ring})' for ring in each) + ')' for each in rings)})"
