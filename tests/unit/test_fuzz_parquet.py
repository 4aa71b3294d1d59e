"""A short run of the Parquet fuzzer; `make torture` runs the long one."""

import random
from pathlib import Path

from torture.fuzz_parquet import check_damaged, fuzz


def test_odd_and_damaged_parquet_months_give_the_right_rows_or_one_line(tmp_path: Path) -> None:
    assert fuzz(seed=13, cases=40, folder=tmp_path) > 80


def test_an_index_that_the_dictionary_lacks_is_damage(tmp_path: Path) -> None:
    check_damaged(random.Random("0-1005"), tmp_path)
