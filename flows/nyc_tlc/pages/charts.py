"""Draw charts as static SVG: bars and lines, with tooltips.

No plotting library is used. The colours of charts by matplotlib or Vega are fixed, so they are unreadable on a dark
page; Plotly and Bokeh add megabytes of script to each page. These charts take their colours from the page's style
sheet, need no script and no network, and are small enough to mail. Each chart's numbers are in a table beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 720, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 12, 30
#: The dash pattern of each line of a chart. Lines differ in colour, in pattern and in the label at their end.
DASHES = ("", "7 3", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Line:
    """A line of a chart: its values from left to right, None for a gap, and a tooltip for each."""

    label: str
    values: Sequence[float | None]
    titles: Sequence[str] = ()


def draw_bars(title: str, labels: Sequence[str], values: Sequence[float]) -> Markup:
    """Draw a bar chart; the title is its name for a screen reader."""
    top = _round_up(max(values, default=0))
    step = (WIDTH - LEFT - RIGHT) / max(1, len(values))
    every = -(-len(labels) // 14)
    parts = _axis(top)
    for index, (label, value) in enumerate(zip(labels, values, strict=True)):
        x, y = LEFT + index * step, _height(value, top)
        parts.append(
            f'<rect class="bar" x="{x + 1:.1f}" y="{y:.1f}" width="{max(1.0, step - 2):.1f}"'
            f' height="{HEIGHT - BOTTOM - y:.1f}"><title>{escape(label)}: {value:,.0f} trips</title></rect>'
        )
        if index % every == 0:
            parts.append(_below(x + step / 2, label, second=index // every % 2 == 1))
    return _svg(title, parts)


def draw_lines(
    title: str, lines: Sequence[Line], ticks: Sequence[tuple[int, str]], *, labelled: bool = False
) -> Markup:
    """Draw a line chart; a gap in the values is a gap in the line.

    Args:
        title: The chart's name for a screen reader.
        lines: The most important is the last: it is drawn on top.
        ticks: Indexes of values, and the text under each.
        labelled: Whether each line's label is written at its end.
    """
    places = max((len(line.values) for line in lines), default=0)
    top = _round_up(max((value for line in lines for value in line.values if value is not None), default=0))
    right = 64 if labelled else RIGHT
    step = (WIDTH - LEFT - right) / max(1, places - 1)
    parts = _axis(top, right)
    parts += [_below(LEFT + place * step, label, second=index % 2 == 1) for index, (place, label) in enumerate(ticks)]
    taken: list[float] = []
    for index, line in enumerate(reversed(lines)):
        dash = DASHES[index % len(DASHES)]
        style = f' stroke-dasharray="{dash}"' if dash else ""
        points = [
            None if value is None else (LEFT + place * step, _height(value, top))
            for place, value in enumerate(line.values)
        ]
        parts.append(f'<path class="line line{index}"{style} d="{_path(points)}"/>')
        parts += [f'<circle class="lone line{index}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in _lone(points)]
        for point, title in zip(points, line.titles, strict=False):
            if point:
                parts.append(
                    f'<circle class="dot line{index}" cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="3">'
                    f"<title>{escape(title)}</title></circle>"
                )
        last = next((point for point in reversed(points) if point), None)
        if labelled and last:
            y = last[1]
            while any(abs(y - other) < 12 for other in taken):
                y += 4
            taken.append(y)
            parts.append(f'<text class="label" x="{last[0] + 8:.1f}" y="{y + 4:.1f}">{escape(line.label)}</text>')
    return _svg(title, parts)


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    """Return an SVG path that is interrupted at gaps."""
    commands, down = [], False
    for point in points:
        if point:
            commands.append(f"{'L' if down else 'M'}{point[0]:.1f} {point[1]:.1f}")
        down = point is not None
    return "".join(commands)


def _lone(points: Sequence[tuple[float, float] | None]) -> list[tuple[float, float]]:
    """Return the points between two gaps: no line is drawn through them."""
    around = [None, *points, None]
    return [point for index, point in enumerate(points) if point and not around[index] and not around[index + 2]]


def _svg(title: str, parts: Sequence[str]) -> Markup:
    body = "".join(parts)
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{body}</svg>')  # noqa: S704  every text in it is escaped


def _axis(top: float, right: int = RIGHT) -> list[str]:
    """Draw the horizontal rules and their values."""
    parts = []
    for part in range(5):
        value = top * part / 4
        y = _height(value, top)
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{shorten(value)}</text>')
    return parts


def _below(x: float, label: str, *, second: bool) -> str:
    """Draw a label under the axis. On narrow screens the style sheet hides every second one."""
    kind = ' class="second"' if second else ""
    return f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle"{kind}>{escape(label)}</text>'


def _height(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * max(0.0, value) / top


def _round_up(value: float) -> float:
    """Round up to a number with simple quarters: 4, 8, 12, 20, 40, 80 and so on."""
    power = 1.0
    while True:
        for factor in (4, 8, 12, 20):
            if factor * power >= value:
                return factor * power
        power *= 10


def shorten(value: float) -> str:
    """Format a number briefly: ``950``, ``56.6k``, ``3.1M``."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            scaled = value / limit
            return f"{scaled:.0f}{unit}" if scaled >= 100 or scaled == int(scaled) else f"{scaled:.1f}{unit}"
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"
