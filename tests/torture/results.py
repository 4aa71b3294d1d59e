"""Say what ``make torture`` will take, and keep what came of it in ``tests/RELIABILITY.md``.

A test tells how often it attacks by ``record_property("attacked", n)``; else it is one attack. What it
measured, it tells by ``record_property("measured", text)``.
"""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pytest

KEPT = Path(__file__).parents[1] / "RELIABILITY.md"
BEGIN, END = "<!-- figures of make torture, written by it -->\n", "<!-- end of the figures -->"
HEAD = "| File | Attacked | Held | Skipped | Seconds | On | Measured |\n|---|---:|---:|---:|---:|---|---|\n"
PACKAGES = ("prefect", "polars", "pyarrow", "duckdb")


@dataclass
class Figures:
    """What came of a file's tests."""

    attacked: int = 0
    held: int = 0
    skipped: int = 0
    seconds: float = 0
    measured: list[str] = field(default_factory=list)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that keeps the figures of a part."""
    parser.addoption("--keep-figures", action="store_true", help="write a part's figures into tests/RELIABILITY.md too")


def pytest_report_collectionfinish(items: list[pytest.Item]) -> str:
    """Say how many tests there are, and how long they took."""
    files = {item.location[0] for item in items}
    known = {file: row[3] for file, row in _read_rows().items() if file in files}
    took = sum(float(seconds.replace(",", "")) for seconds in known.values()) / 60
    return (
        f"{len(items)} tests in {len(files)} files; of {len(known)} of them the last runs are kept, "
        f"which took {took:.0f} minutes. A part: make torture ARGS=tests/torture/test_kills.py"
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the figures; keep those of a whole run."""
    made = defaultdict[str, Figures](Figures)
    for report in (each for reports in terminalreporter.stats.values() for each in reports):
        if not isinstance(report, pytest.TestReport):
            continue
        figures = made[report.location[0]]
        figures.seconds += report.duration
        figures.skipped += report.skipped
        if report.when == "call" and not report.skipped:
            attacks = int(dict(report.user_properties).get("attacked", 1))
            figures.attacked += attacks
            figures.held += attacks * report.passed
            figures.measured += [str(value) for name, value in report.user_properties if name == "measured"]
        elif report.failed:
            figures.attacked += 1
    today = datetime.now(UTC).date().isoformat()
    rows = {
        file: [
            *(f"{count:,}" for count in (each.attacked, each.held, each.skipped, round(each.seconds))),
            today,
            "; ".join(each.measured),
        ]
        for file, each in sorted(made.items())
    }
    terminalreporter.write_sep("=", "attacks")
    terminalreporter.write(_format(rows))
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword
    if is_whole or config.option.keep_figures:
        before, _, kept = KEPT.read_text(encoding="utf-8").partition(BEGIN)
        after = kept.partition(END)[2]
        rows = rows if is_whole else dict(sorted((_read_rows() | rows).items()))
        KEPT.write_text(f"{before}{BEGIN}{_format(rows)}{END}{after}", encoding="utf-8")


def _read_rows() -> dict[str, list[str]]:
    """Return the kept rows: file -> attacked, held, skipped, seconds, on."""
    kept = KEPT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    cells = ([cell.strip(" `") for cell in line.strip("|").split("|")] for line in kept.splitlines() if "`" in line)
    return {file: rest for file, *rest in cells}


def _format(rows: dict[str, list[str]]) -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {packages}"
    lines = "".join(f"| `{file}` | {' | '.join(cells)} |\n" for file, cells in rows.items())
    return f"The last run was on a machine with {machine}.\n\n{HEAD}{lines}"
