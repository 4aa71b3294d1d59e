"""A file that is not Parquet or CSV in UTF-8 is named for what it is."""

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import pytest

from factories import green_parquet, trip
from nyc_tlc.errors import SourceError
from nyc_tlc.source.file_format import identify

HEADER = "VendorID,lpep_pickup_datetime,lpep_dropoff_datetime,trip_distance (mi),café.fare"
CSV = f"{HEADER}\n2,2024-01-15 12:00:00,2024-01-15 12:10:00,1.5,10\n"


def zipped(*names: str) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name in names:
            archive.writestr(name, CSV)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (CSV.encode("utf-16"), "text in UTF-16"),
        (CSV.encode("utf-16-le"), "text in UTF-16"),
        (CSV.encode("utf-16-be"), "text in UTF-16"),
        (CSV.encode("latin-1"), "text that is not UTF-8"),
        (CSV.replace("\n", "\r").encode(), "text with carriage returns as line ends"),
        (CSV.replace(",", ";").encode(), "text with semicolons between the values"),
        (CSV.replace(",", "\t").encode(), "text with tabs between the values"),
        (CSV.replace(",", "|").encode(), "text with vertical bars between the values"),
        (gzip.compress(CSV.replace(",", ";").encode()), "text with semicolons between the values"),
        (gzip.compress(gzip.compress(CSV.encode())), "a file that was gzipped twice"),
        (gzip.compress(green_parquet(trip())), "a gzipped Parquet file"),
        (zipped("green_tripdata_2024-01.csv"), "a zip archive"),
        # The first parts of workbooks by Excel and by openpyxl.
        (zipped("[Content_Types].xml", "xl/workbook.xml"), "an Excel file"),
        (zipped("docProps/app.xml", "xl/workbook.xml"), "an Excel file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "an Excel file"),
        (bz2.compress(CSV.encode()), "a bzip2 file"),
        (lzma.compress(CSV.encode()), "an xz file"),
        (b'{"VendorID":2,"lpep_pickup_datetime":"2024-01-15 12:00:00"}\n', "JSON"),
        (b'[{"VendorID":2,"lpep_pickup_datetime":"2024-01-15 12:00:00"}]', "JSON"),
    ],
)
@pytest.mark.parametrize("quote", [True, False])
def test_another_format_is_named(tmp_path: Path, body: bytes, what: str, quote: bool) -> None:
    path = tmp_path / "month"
    path.write_bytes(body)
    with pytest.raises(SourceError, match=rf"got {what} \([\d,]+ bytes\)"):
        identify(path, "green 2024-01", quote=quote)


@pytest.mark.parametrize(
    "header",
    [
        HEADER,
        f"\ufeff{HEADER}",
        f"Unnamed: 0,{HEADER}",
        f",{HEADER}",
        HEADER.replace("_", "."),
        HEADER.replace(",", '","').join('""'),
        # A reader of the first bytes cuts the é.
        HEADER.replace("(mi)", "x" * (2047 - len(HEADER.partition("(mi)")[0]) - len(",caf"))),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_header_may_have_any_character(tmp_path: Path, header: str, end: str) -> None:
    path = tmp_path / "month"
    path.write_bytes(f"{header}{end}".encode())
    assert identify(path, "green 2024-01") == "csv"


@pytest.mark.parametrize("text", ["root:x:0:0:root, the:/root", "<p>no pickup, sorry</p>", "Access denied: go, away"])
def test_other_text_with_a_comma_is_not_csv(tmp_path: Path, text: str) -> None:
    path = tmp_path / "month"
    path.write_text(text)
    with pytest.raises(SourceError, match="another format"):
        identify(path, "green 2024-01", quote=False)
