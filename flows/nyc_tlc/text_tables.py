"""Format tables as Markdown, for artifacts, documentation and terminals."""

from __future__ import annotations

from collections.abc import Collection, Sequence

#: A wider column, such as one of sentences, is not filled up further: its rows would be wrapped on a terminal.
WIDEST_PADDING = 40


def format_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = (), pad: bool = False
) -> list[str]:
    """Return the lines of a Markdown table.

    Args:
        rows: The cells, in the columns' order. A line break becomes a blank.
        right: The columns that are aligned to the right.
        pad: Whether cells are padded to the width of their column, for a terminal.
    """
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    columns = zip(header, *cells, strict=True)
    widths = [min(WIDEST_PADDING, max(map(len, column))) if pad else 0 for column in columns]
    aligned = [">" if name in right else "<" for name in header]

    def line(row: Sequence[str]) -> str:
        padded = (f"{cell:{side}{width}}" for cell, side, width in zip(row, aligned, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    rules = (
        "-" * max(2, width + 1) + (":" if side == ">" else "-") for side, width in zip(aligned, widths, strict=True)
    )
    return [line(header), f"|{'|'.join(rules)}|", *map(line, cells)]
