"""Show the progress of a download or of many months: a bar on a terminal, and a progress artifact in the Prefect UI."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
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
    """A progress bar on a terminal, and in the Prefect UI if it takes longer than ``INTERVAL``.

    Inside a ``with`` block. Without a terminal, or while another bar is shown, the terminal gets none.
    """

    #: Seconds between two updates in the UI.
    INTERVAL = 2.0
    _shown: ClassVar[Bar | None] = None

    def __init__(self, label: str, unit: Literal["bytes", "months"], *, instead_of_log: bool = False) -> None:
        """Create a bar; ``instead_of_log`` hides the log lines that repeat it, unless ``TLC_VERBOSE`` is set."""
        self._label, self._unit, self._hides_log = label, unit, instead_of_log
        columns = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(),)
        self._lines = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            *columns,
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=bool(Bar._shown) or not sys.stderr.isatty() or (instead_of_log and read_settings().verbose),
        )
        self._task = self._lines.add_task(label, total=None)
        self._next_update = time.monotonic() + self.INTERVAL
        self._artifact: UUID | None = None

    def __call__(self, done: int, total: int | None) -> None:
        """Update the bar; ``total`` is None if it is unknown."""
        self._lines.update(self._task, completed=done, total=total)
        finished = done == total and self._artifact is not None
        if not total or (time.monotonic() < self._next_update and not finished):
            return
        self._next_update = time.monotonic() + self.INTERVAL
        percent = 100 * done / total
        if self._artifact is None:
            description = f"{self._label}: {total:,} {self._unit}"
            self._artifact = cast(UUID, create_progress_artifact(progress=percent, description=description))
        else:
            update_progress_artifact(self._artifact, progress=percent)

    def __enter__(self) -> Self:
        """Show the bar."""
        if not self._lines.disable:
            Bar._shown = self
            if self._hides_log:
                for handler in logging.getLogger().handlers:
                    handler.addFilter(_is_not_in_bars)
        self._lines.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar, and show all log lines again."""
        self._lines.stop()
        if Bar._shown is self:
            Bar._shown = None
            for handler in logging.getLogger().handlers:
                handler.removeFilter(_is_not_in_bars)

    @classmethod
    @contextmanager
    def line(cls, name: str) -> Iterator[None]:
        """Show a line below the bar that is shown, if there is one."""
        if cls._shown is None:
            yield
            return
        lines = cls._shown._lines
        task = lines.add_task(name, total=None)
        try:
            yield
        finally:
            lines.remove_task(task)


def follow(months: Iterable[MonthRecord], total: int) -> list[MonthRecord]:
    """Return the records of a backfill's months; show and log each when its month has finished."""
    ended = []
    with Bar("all months", "months", instead_of_log=True) as bar:
        bar(0, total)
        for done, month in enumerate(months, 1):
            ended.append(month)
            level = logging.WARNING if month.result == "failed" else logging.INFO
            outcome = month.error if month.result == "failed" else f"{month.rows or 0:,} rows"
            log.log(level, "%s %s: %s, %s (%s of %s)", month.color, month.month, month.result, outcome, done, total)
            bar(done, total)
    return ended


def _is_not_in_bars(record: logging.LogRecord) -> bool:
    """Return whether a log line says more than the bars show."""
    return record.levelno > logging.INFO or not record.name.startswith("nyc_tlc")
