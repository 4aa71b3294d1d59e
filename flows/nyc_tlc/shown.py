"""Make texts from outside safe to show: in a terminal, a log line, a Markdown report and a notebook."""

from __future__ import annotations

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
