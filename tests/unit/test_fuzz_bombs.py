"""One of the bombs; `make torture` runs all of them."""

from pathlib import Path

from torture.bombs import run


def test_a_tiny_file_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    outcome, peak = run("a million commas in the first row", tmp_path)
    assert outcome.startswith("SourceError: green 2024-01: ")
    assert peak < 1024
