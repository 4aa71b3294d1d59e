"""Read CSV months with faults by the project and by the oracle: rows, values and reasons must be the same."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from factories import mangle_csv
from nyc_tlc.cleaning.read import MonthReader
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.month import Color, Month
from nyc_tlc.source.fetch import FetchedFile
from nyc_tlc.source.location import RemoteFile
from sample_csv import write_sample_csv
from torture.csv_oracle import Row, read_csv

#: Months whose layouts differ: surplus fields, text codes, quotes everywhere, two columns that feed one.
MONTHS: list[tuple[Color, Month]] = [
    ("fhv", Month(2020, 1)),
    ("fhv", Month(2018, 1)),
    ("green", Month(2020, 8)),
    ("green", Month(2014, 1)),
    ("yellow", Month(2019, 6)),
    ("yellow", Month(2010, 1)),
    ("yellow", Month(2009, 1)),
    ("fhvhv", Month(2020, 1)),
]
#: Every so many cases the faults are among many sound lines, as in a real month.
BIG_EVERY = 100


def sample_lines(folder: Path) -> list[tuple[Color, Month, list[bytes]]]:
    """Return valid lines of each layout, the header first."""
    found = []
    for color, month in MONTHS:
        path = folder / "sample.csv.gz"
        write_sample_csv(color, month, 3_500, path)
        lines = [line.removesuffix(b"\r") for line in gzip.decompress(path.read_bytes()).split(b"\n")]
        found.append((color, month, [line for line in lines if line]))
    return found


def read(body: bytes, color: Color, month: Month, folder: Path, *, whole: bool) -> tuple[list[Row], Counter[str]]:
    """Read a file with the project's reader. Return its rows, and how many texts of each column mean null."""
    path = folder / "month.csv"
    path.write_bytes(body)
    remote = RemoteFile(color, month, path.as_uri(), bytes=len(body) if whole else None)
    rows: list[Row] = []
    nulls: Counter[str] = Counter()
    contract = read_contract(color)
    for batch in MonthReader(FetchedFile(remote, path, "csv", len(body), "", 0), contract):
        nulls.update(batch.null_texts)
        frame = batch.frame.with_columns(pl.col(pl.Categorical).cast(pl.String))
        assert frame["source_row"].to_list() == list(range(len(rows), len(rows) + len(frame)))
        raws = batch.raw.to_list() if batch.raw is not None else [None] * len(frame)
        texts = batch.bad_texts.to_list() if batch.bad_texts is not None else [None] * len(frame)
        values = frame.drop("file_month", "source_row").to_dicts()
        bad: list[set[str]] = [set() for _ in values]
        for name, mask in batch.bad_values.items():
            for row in mask.arg_true():
                bad[row].add(name)
        for value, raw, text, names in zip(values, raws, texts, bad, strict=True):
            by_column = json.loads(text) if text else {}
            assert set(by_column) == names
            rows.append(Row(value, by_column, raw))
    return rows, nulls


def check(body: bytes, color: Color, month: Month, folder: Path, *, whole: bool) -> int:
    """Compare the project's rows with the oracle's. Return the number of rows.

    Raises:
        AssertionError: when a row differs; it names the first one.
    """
    ours, nulls = read(body, color, month, folder, whole=whole)
    expected = read_csv(body, read_contract(color), month, whole=whole)
    for number, (mine, right) in enumerate(zip(ours, expected, strict=False)):
        assert _comparable(mine) == _comparable(right), f"row {number}"
    assert len(ours) == len(expected)
    assert nulls == Counter(name for row in expected for name in row.nulls)
    return len(ours)


def _comparable(row: Row) -> tuple[dict[str, Any], dict[str, str], str | None]:
    # Minus zero is zero for ==, so that what is shown tells more.
    return {name: repr(value) for name, value in row.values.items()}, row.bad, row.raw


def fuzz(seed: int, cases: int, folder: Path, real: list[tuple[Color, Month, list[bytes]]] | None = None) -> int:
    """Run cases with a seed. Return the number of compared rows.

    Raises:
        AssertionError: when a case fails; it has the seed and the file.
    """
    sources, rows = sample_lines(folder) + (real or []), 0
    for case in range(cases):
        rng = random.Random(f"{seed}-{case}")
        color, month, lines = rng.choice(sources)
        count = len(lines) - 1 if case % BIG_EVERY == 0 else rng.randrange(1, 9)
        begin = rng.randrange(1, len(lines) - count + 1)
        body = mangle_csv([lines[0], *lines[begin : begin + count]], rng, rng.randrange(6))
        whole = rng.random() < 0.7
        try:
            rows += check(body, color, month, folder, whole=whole)
        except Exception as error:
            (folder / "failed.csv").write_bytes(body)
            raise AssertionError(
                f"seed {seed}, case {case}, {color} {month}, whole={whole}: {body[:3000]!r}: {error}"
            ) from error
    return rows
