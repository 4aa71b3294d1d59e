"""Fuzz the readers: 100,000 files with faults, and every bomb. Takes most of an hour: ``make torture``.

Each batch of cases has its seed in its name. The error of a failed case has its seed, its number and its file.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from nyc_tlc.month import Color, Month
from torture import bombs, fuzz_csv, fuzz_parquet

Record = Callable[[str, object], None]
pytestmark = [pytest.mark.torture, pytest.mark.timeout(1800)]


@pytest.fixture
def real_lines(real_data: Path) -> list[tuple[Color, Month, list[bytes]]]:
    """Return lines of months that TLC published."""
    found: list[tuple[Color, Month, list[bytes]]] = []
    for month in ("2020-04", "2020-08", "2020-12"):
        text = gzip.decompress((real_data / "csv" / f"green_tripdata_{month}.csv.gz").read_bytes())
        lines = [line for line in text.replace(b"\r\n", b"\n").split(b"\n") if line]
        # Where the sparse block at the end begins, both kinds of rows are together.
        found.append(("green", Month.parse(month), [lines[0], *lines[-24_000:-20_500]]))
    return found


@pytest.mark.parametrize("seed", range(16))
def test_mangled_csv_months_are_read_as_the_oracle_reads_them(
    tmp_path: Path, real_lines: list[tuple[Color, Month, list[bytes]]], seed: int, record_property: Record
) -> None:
    record_property("attacked", 5_000)
    assert fuzz_csv.fuzz(seed, 5_000, tmp_path, real_lines) > 50_000


@pytest.mark.parametrize("seed", range(4))
def test_odd_and_damaged_parquet_months_give_the_right_rows_or_one_line(
    tmp_path: Path, seed: int, record_property: Record
) -> None:
    record_property("attacked", 5_000)
    assert fuzz_parquet.fuzz(seed, 5_000, tmp_path) > 10_000


@pytest.mark.parametrize("name", bombs.BOMBS)
def test_no_tiny_file_fills_the_memory(tmp_path: Path, name: str) -> None:
    outcome, peak = bombs.run(name, tmp_path)
    assert peak < 1024
    assert outcome.endswith(" rows") or outcome.startswith(("SourceError: green 2024-01: ", "ContractError: "))
