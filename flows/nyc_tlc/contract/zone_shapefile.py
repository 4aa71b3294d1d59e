"""TLC's own shapes of the taxi zones: the polygons of ``taxi_zones.zip``, in degrees.

The archive holds a shapefile in feet of New York's state plane (EPSG:2263, NAD83). Its format is in ESRI's "Shapefile
Technical Description" (1998), the inverse of its projection in the IOGP's Guidance Note 7-2, method 9802. NAD83's
degrees are used as those of WGS 84, from which they differ by about 1 m.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from nyc_tlc.contract.zone_shapes import Polygon, group_rings
from nyc_tlc.errors import SourceError

Array = npt.NDArray[np.float64]

#: The bytes that a file of the archive can have at most; TLC's largest has 1.6 MB.
MOST_BYTES = 16 << 20
POLYGON = 5
#: Metres in a US survey foot, and the ellipsoid GRS 1980: its larger half axis in metres and its eccentricity.
FOOT = 1200 / 3937
AXIS = 6_378_137.0
ECCENTRICITY = float(np.sqrt((2 - 1 / 298.257222101) / 298.257222101))
#: The projection's parallels and origin in degrees, and the origin's place in metres.
PARALLELS = (40 + 40 / 60, 41 + 2 / 60)
ORIGIN = (-74.0, 40 + 10 / 60)
FALSE_EASTING = 300_000.0
#: Longitudes and latitudes in degrees that New York lies between.
CITY = ((-74.3, 40.4), (-73.6, 41.0))


def read_zone_shapefile(archive: bytes) -> dict[int, list[Polygon]]:
    """Return location id -> polygons in degrees, to 7 decimals. Outer rings run counter-clockwise.

    Raises:
        SourceError: when ``archive`` is not TLC's, or its zones are not in New York.
    """
    shapes: dict[int, list[Polygon]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as files:
            ids, feet = _read_ids(_read(files, ".dbf")), _read_rings(_read(files, ".shp"))
        for zone, rings in zip(ids, feet, strict=True):
            # A shapefile's outer rings run clockwise.
            degrees = [_to_degrees(ring)[::-1].round(7) for ring in rings]
            if not all(np.all((CITY[0] < ring) & (ring < CITY[1])) for ring in degrees):
                raise ValueError(f"zone {zone} is not in New York")
            shapes.setdefault(zone, []).extend(group_rings([list(map(tuple, ring.tolist())) for ring in degrees]))
    except (zipfile.BadZipFile, zlib.error, struct.error, ValueError, IndexError, RuntimeError, EOFError) as error:
        raise SourceError(
            "zone shapes: the file is not TLC's archive of taxi zones",
            expected="a zip file with a shapefile of polygons and their LocationID",
            got=f"{len(archive):,} bytes: {error}",
        ) from error
    return shapes


def _read(files: zipfile.ZipFile, ending: str) -> bytes:
    names = [name for name in files.namelist() if name.endswith(ending)]
    if len(names) != 1:
        raise ValueError(f"{len(names)} files *{ending}")
    with files.open(names[0]) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{names[0]} has more than {MOST_BYTES:,} bytes")
    return content


def _read_ids(dbf: bytes) -> list[int]:
    count, start, size = struct.unpack_from("<IHH", dbf, 4)
    at = 1
    for field in range(32, start - 1, 32):
        width = dbf[field + 16]
        if dbf[field : field + 11].rstrip(b"\0") == b"LocationID":
            return [int(dbf[row + at : row + at + width]) for row in range(start, start + count * size, size)]
        at += width
    raise ValueError("no column LocationID")


def _read_rings(shp: bytes) -> list[list[Array]]:
    """Return the rings of each polygon, as (points, 2) feet to the east and north."""
    polygons, at = [], 100
    while at < len(shp):
        words, kind = struct.unpack_from(">4xI", shp, at)[0], struct.unpack_from("<I", shp, at + 8)[0]
        if kind != POLYGON:
            raise ValueError(f"a shape of type {kind}")
        parts, points = struct.unpack_from("<II", shp, at + 44)
        starts = np.frombuffer(shp, "<u4", parts, at + 52)
        feet = np.frombuffer(shp, "<f8", 2 * points, at + 52 + 4 * parts).reshape(-1, 2)
        polygons.append([feet[first:last] for first, last in pairwise([*starts, points])])
        at += 8 + 2 * words
    return polygons


def _to_degrees(feet: Array) -> Array:
    first, second = (_scale(latitude) for latitude in PARALLELS)
    cone = np.log(first[0] / second[0]) / np.log(first[1] / second[1])
    radius = AXIS * first[0] / (cone * first[1] ** cone)
    east = feet[:, 0] * FOOT - FALSE_EASTING
    north = radius * _scale(ORIGIN[1])[1] ** cone - feet[:, 1] * FOOT
    flat = (np.hypot(east, north) / radius) ** (1 / cone)
    latitude = np.pi / 2 - 2 * np.arctan(flat)
    for _ in range(5):
        latitude = np.pi / 2 - 2 * np.arctan(flat * _flattening(np.sin(latitude)))
    longitude = np.arctan2(east, north) / cone + np.radians(ORIGIN[0])
    return np.column_stack([np.degrees(longitude), np.degrees(latitude)])


def _scale(latitude: float) -> tuple[Array, Array]:
    """Return the guidance note's m and t of a latitude."""
    angle = np.radians(latitude)
    sine = np.sin(angle)
    return np.cos(angle) / np.sqrt(1 - (ECCENTRICITY * sine) ** 2), np.tan(np.pi / 4 - angle / 2) / _flattening(sine)


def _flattening(sine: Array) -> Array:
    return np.exp(-ECCENTRICITY * np.arctanh(ECCENTRICITY * sine))
