"""A table is valid Markdown whatever its cells hold, and is aligned on a terminal."""

from nyc_tlc.text_tables import format_table


def test_cells_cannot_break_the_table() -> None:
    assert format_table(("Month", "Why"), [("green", "a | b\nc")]) == [
        "| Month | Why |",
        "|---|---|",
        "| green | a \\| b c |",
    ]


def test_a_padded_table_is_aligned_except_for_long_sentences() -> None:
    sentence = "The source changed. " * 5
    assert format_table(("Month", "Rows", "Why"), [("green", "1,000", sentence)], right=("Rows",), pad=True) == [
        f"| Month |  Rows | Why{' ' * 37} |",
        f"|-------|------:|{'-' * 42}|",
        f"| green | 1,000 | {sentence} |",
    ]


def test_a_table_without_rows_has_its_header() -> None:
    assert format_table(("Month", "Rows"), [], right=("Rows",), pad=True) == ["| Month | Rows |", "|-------|-----:|"]
