"""A short run of the CSV fuzzer; `make torture` runs the long one."""

from pathlib import Path

from torture.fuzz_csv import fuzz


def test_mangled_csv_months_are_read_as_the_oracle_reads_them(tmp_path: Path) -> None:
    assert fuzz(seed=13, cases=40, folder=tmp_path) > 100
