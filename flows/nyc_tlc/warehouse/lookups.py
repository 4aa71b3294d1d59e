"""The lookup tables: TLC's taxi zones and their shapes, and what the codes of the trip records mean."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import httpx

from nyc_tlc.contract.dataset import CodeTable, code_tables, read_contract
from nyc_tlc.contract.types import Type
from nyc_tlc.contract.zone_shapefile import read_zone_shapefile
from nyc_tlc.contract.zone_shapes import read_polygons, read_zone_paths, write_text
from nyc_tlc.errors import SourceError, TlcError
from nyc_tlc.month import COLORS
from nyc_tlc.source.http import describe_error, own_connections
from nyc_tlc.warehouse.protocol import Lookup
from nyc_tlc.warehouse.tables import Field, Table, to_arrow

log = logging.getLogger(__name__)

#: TLC's files of zones and of their shapes, linked from its page "TLC Trip Record Data".
ZONES_URL = "https://d37ci6vzurychx.cloudfront.net/misc/taxi_zone_lookup.csv"
SHAPES_URL = "https://d37ci6vzurychx.cloudfront.net/misc/taxi_zones.zip"
#: A copy of the zones, used when TLC's can't be fetched.
EMBEDDED_ZONES = Path(__file__).parents[1] / "contract" / "datasets" / "zones.csv"

ZONES = Table(
    "zones",
    "TLC's taxi zones. Corona and Governor's Island have several ids; 264 is unknown, 265 outside of New York",
    (
        Field("location_id", "int16", "The zone's id, 1 to 265", required=True),
        Field("borough", "string", "Its borough, EWR, Unknown or N/A"),
        Field("zone", "string", "Its name; the N/A of zone 264 is a text, not null"),
        Field("service_zone", "string", "Who may pick up there by hail: Yellow Zone, Boro Zone, Airports, EWR, N/A"),
    ),
    ("location_id",),
)
ZONE_SHAPES = Table(
    "zone_shapes",
    "The shapes of TLC's taxi zones, simplified to about 60 m until load_lookups has fetched TLC's own; "
    "zones that TLC has no shape of are missing",
    (
        Field("location_id", "int16", "The zone's id, 1 to 263", required=True),
        Field("shape", "geography", "Its shape as a multipolygon: longitudes and latitudes in degrees"),
    ),
    ("location_id",),
)
ZONE_HEADER = ["LocationID", "Borough", "Zone", "service_zone"]
#: The bytes and rows that the files can have at most; TLC's have 12,331 bytes and 265 rows, and about 1 MB.
MOST_BYTES = 8 << 20
MOST_ZONES = 1_000
#: Seconds without a byte until the embedded copy is used.
PATIENCE = 20.0


def read_lookups(zones_csv: bytes | None = None, shapes_zip: bytes | None = None) -> tuple[Lookup, ...]:
    """Return all lookup tables with their rows: of zones and shapes from TLC's files, else from the embedded copies.

    Raises:
        SourceError: when one of the two does not have the layout of TLC's file.
    """
    codes = (_codes(name, table) for name, table in code_tables().items())
    zones = _zones(EMBEDDED_ZONES.read_bytes() if zones_csv is None else zones_csv)
    return (zones, *codes, _shapes(shapes_zip))


def fetch_zones(url: str = ZONES_URL) -> bytes | None:
    """Fetch TLC's file of zones. Return None, and log why, when that fails or the file is another one."""
    return _fetch("zones", url, _zones)


def fetch_zone_shapes(url: str = SHAPES_URL) -> bytes | None:
    """Fetch TLC's archive of the zones' shapes. Return None, and log why, when that fails or it is another file."""
    return _fetch("zone shapes", url, _shapes)


def _fetch(name: str, url: str, check: Callable[[bytes], object]) -> bytes | None:
    content = b""
    try:
        with own_connections().client.stream("GET", url, timeout=PATIENCE) as response:
            response.raise_for_status()
            for chunk in response.iter_raw():
                content += chunk
                if len(content) > MOST_BYTES:
                    raise SourceError(f"{name}: {url} sends more than {MOST_BYTES:,} bytes")
        check(content)
    except httpx.HTTPError as error:
        log.warning("%s: no answer from %s: %s; using the embedded copy", name, url, describe_error(error))
    except TlcError as error:
        log.warning("%s; using the embedded copy", error)
    else:
        return content
    return None


@lru_cache(1)
def _shapes(archive: bytes | None) -> Lookup:
    embedded = ((zone, read_polygons(path)) for zone, path in read_zone_paths().items())
    shapes = embedded if archive is None else read_zone_shapefile(archive).items()
    return Lookup(ZONE_SHAPES, to_arrow([(zone, write_text(polygons)) for zone, polygons in shapes], ZONE_SHAPES))


def _zones(text: bytes) -> Lookup:
    try:
        header, *rows = list(csv.reader(io.StringIO(text.decode("utf-8-sig")))) or [[]]
    except (UnicodeDecodeError, csv.Error):
        header, rows = [], []
    ids = [row[0] for row in rows if len(row) == len(ZONE_HEADER) and all(map(str.isprintable, row))]
    if header != ZONE_HEADER or ids != [str(n + 1) for n in range(len(rows))] or not 0 < len(rows) <= MOST_ZONES:
        raise SourceError(
            "zones: the file does not have the layout of TLC's taxi zones",
            expected=f"UTF-8 with the columns {','.join(ZONE_HEADER)}, and ids from 1 on",
            got=f"{len(text):,} bytes, {len(rows):,} rows",
        )
    return Lookup(ZONES, to_arrow([[int(row[0]), *row[1:]] for row in rows], ZONES))


def _codes(name: str, table: CodeTable) -> Lookup:
    columns = (column for color in COLORS for column in read_contract(color).columns)
    column = next(column.name for column in columns if column.codes == name)
    numbers = all(isinstance(code, int) for code in table.codes)
    kind: Type = "int16" if numbers else "string"
    fields = (
        Field(column, kind, "The code", required=True),
        Field("name", "string", "What it means"),
        Field("note", "string", "A note"),
        Field("source", "string", "TLC's document that says so"),
    )
    lookup_table = Table(name, table.title, fields, (column,))
    source = table.source.strip()
    rows = [[code, entry.name, entry.note.strip() or None, source] for code, entry in table.codes.items()]
    return Lookup(lookup_table, to_arrow(rows, lookup_table))
