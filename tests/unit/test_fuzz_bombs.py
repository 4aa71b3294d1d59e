"""Two of the bombs; `make torture` runs all of them."""

from pathlib import Path

import pytest

from torture.bombs import run


@pytest.mark.parametrize("name", ["a million commas in the first row", "long flags by dictionary"])
def test_a_tiny_file_that_would_fill_the_memory_is_refused(tmp_path: Path, name: str) -> None:
    outcome, peak = run(name, tmp_path)
    assert outcome.startswith("SourceError: green 2024-01: ")
    assert peak < 1024
