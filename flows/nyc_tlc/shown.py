"""Make texts from outside safe to show: in a terminal, a log line, a Markdown report and a notebook."""

from __future__ import annotations

from pathlib import Path

#: Characters that begin markup -> what looks like them and begins none.
_PLAIN = str.maketrans({"<": "‹", ">": "›", "`": "'", "|": "¦"})  # noqa: RUF001


def shown(text: str, length: int = 100) -> str:
    """Return a text in one line of at most ``length`` characters, without control characters and without markup.

    A shown text is returned unchanged, so a text may pass more than once.
    """
    line = " ".join(text.split()).translate(_PLAIN)
    # "](" is in each link and image of Markdown.
    line = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line).replace("](", "] (")
    return line if len(line) <= length else line[: length - 1] + "…"


def short_path(path: Path) -> Path:
    """Return a path to show: relative if it is below the working directory, else absolute."""
    path, here = path.absolute(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
