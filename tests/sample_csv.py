"""Samples as the gzipped CSV files that TLC published: with their line ends, quotes and extra fields."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import BinaryIO, cast

import polars as pl

from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.month import Color, Month
from nyc_tlc.source.sample import generate_rows


def write_sample_csv(color: Color, month: Month, rows: int, path: Path) -> None:
    layout = read_contract(color).layout(month, "csv")
    quote = '"' if layout.quoted else ""
    header = ",".join(f"{quote}{name}{quote}" for name in layout.columns)
    extra_columns = [pl.lit(None, pl.String).alias(f"_{index}") for index in range(layout.extra_fields)]
    with gzip.open(path, "wb", compresslevel=1) as packed:
        file = cast(BinaryIO, packed)
        file.write((header + ("\n\r\n" if layout.blank_line else "\r\n")).encode())
        for chunk in generate_rows(color, month, rows, "csv"):
            pl.DataFrame(chunk).with_columns(extra_columns).write_csv(
                file,
                include_header=False,
                line_terminator="\r\n",
                datetime_format="%Y-%m-%d %H:%M:%S",
                quote_style="always" if layout.quoted else "necessary",
            )
