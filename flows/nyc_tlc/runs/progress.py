"""Show the progress of a download or a backfill: a bar on a terminal, and a progress artifact in the Prefect UI."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import ClassVar, Literal, Self, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from nyc_tlc.planning.record import MonthRecord
from nyc_tlc.settings import read_settings

log = logging.getLogger(__name__)


class Bar:
    """A progress bar on a terminal; without a terminal, or beside the bars of a backfill, it shows nothing."""

    #: Whether a backfill shows its bars.
    hidden: ClassVar = False

    def __init__(self, label: str, unit: Literal["bytes", "months", "events"]) -> None:
        """Create a bar; it is visible inside a ``with`` block."""
        columns = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(),)
        self._bar = Progress(
            TextColumn(label),
            BarColumn(),
            *columns,
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=Bar.hidden or not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(label, total=None)

    def __call__(self, done: int, total: int | None) -> None:
        """Update the bar; ``total`` is None if it is unknown."""
        self._bar.update(self._task, completed=done, total=total)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar."""
        self._bar.stop()


class DownloadProgress(Bar):
    """A bar for a download, which the Prefect UI shows too if it takes longer than ``INTERVAL``."""

    #: Seconds between two updates in the UI.
    INTERVAL = 2.0

    def __init__(self, name: str) -> None:
        """Start the clock; ``name`` is the month's name."""
        super().__init__(f"fetch {name}", "bytes")
        self._name, self._next_update = name, time.monotonic() + self.INTERVAL
        self._artifact: UUID | None = None

    def __call__(self, done: int, total: int | None) -> None:
        """Show the number of bytes received; ``total`` is None if it is unknown."""
        super().__call__(done, total)
        finished = done == total and self._artifact is not None
        if not total or (time.monotonic() < self._next_update and not finished):
            return
        self._next_update = time.monotonic() + self.INTERVAL
        percent = 100 * done / total
        if self._artifact is None:
            description = f"Fetching {self._name}: {total:,} bytes"
            self._artifact = cast(UUID, create_progress_artifact(progress=percent, description=description))
        else:
            update_progress_artifact(self._artifact, progress=percent)


class BackfillProgress:
    """Shows the progress of a backfill: an artifact in the Prefect UI, and one log line for each month.

    A terminal shows a bar for all months and a line for each running month instead of the log, unless ``TLC_VERBOSE``
    is set.

    Attributes:
        ended: The records of the finished months.
    """

    def __init__(self, total: int) -> None:
        """Create the artifact and the bars; ``total`` is the number of due months."""
        self.ended: list[MonthRecord] = []
        self._total = total
        description = f"{total} months to do"
        self._artifact = cast(UUID, create_progress_artifact(progress=0.0, description=description)) if total else None
        self._live = sys.stderr.isatty() and not read_settings().verbose
        self._lines = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self._live,
        )
        self._all = self._lines.add_task("all months", total=total)

    def __enter__(self) -> Self:
        """Show the bars and hide the log lines that repeat them."""
        if self._live:
            for handler in logging.getLogger().handlers:
                handler.addFilter(_is_not_in_bars)
        Bar.hidden = True
        self._lines.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bars and show all log lines again."""
        self._lines.stop()
        Bar.hidden = False
        for handler in logging.getLogger().handlers:
            handler.removeFilter(_is_not_in_bars)

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Show a month's line inside a ``with`` block."""
        line = self._lines.add_task(name, total=None)
        try:
            yield
        finally:
            self._lines.remove_task(line)

    def __call__(self, ended: MonthRecord) -> None:
        """Add the record of a finished month, and show it."""
        self.ended.append(ended)
        done = len(self.ended)
        self._lines.update(self._all, completed=done)
        if self._artifact:
            update_progress_artifact(self._artifact, progress=100 * done / self._total)
        level = logging.WARNING if ended.result == "failed" else logging.INFO
        outcome = ended.error if ended.result == "failed" else f"{ended.rows or 0:,} rows"
        log.log(level, "%s %s: %s, %s (%s of %s)", ended.color, ended.month, ended.result, outcome, done, self._total)


def _is_not_in_bars(record: logging.LogRecord) -> bool:
    """Return whether a log line says more than the bars show."""
    return record.levelno > logging.INFO or not record.name.startswith("nyc_tlc")
