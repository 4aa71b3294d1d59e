"""Show the progress of a download or of many months: a bar on a terminal, and a progress artifact in the Prefect UI."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal, cast
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


#: Seconds between two updates in the UI.
INTERVAL = 2.0
#: The bar that is shown, if there is one: a terminal has room for one, and months are fetched side by side.
_shown: list[Progress] = []


@contextmanager
def bar(
    label: str, unit: Literal["bytes", "months", "events"], *, instead_of_log: bool = False
) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar on a terminal, and one in the Prefect UI if it takes longer than ``INTERVAL``.

    Args:
        instead_of_log: Whether to hide the log lines that repeat the bar, unless ``TLC_VERBOSE`` is set.

    Yields:
        A function that takes what is done so far, and the total; None if that is unknown.
    """
    columns = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(),)
    lines = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=bool(_shown) or not sys.stderr.isatty() or (instead_of_log and read_settings().verbose),
    )
    task, artifact, next_update = lines.add_task(label, total=None), None, time.monotonic() + INTERVAL

    def update(done: int, total: int | None) -> None:
        nonlocal artifact, next_update
        lines.update(task, completed=done, total=total)
        finished = done == total and artifact is not None
        if not total or (time.monotonic() < next_update and not finished):
            return
        next_update = time.monotonic() + INTERVAL
        percent = 100 * done / total
        if artifact is None:
            description = f"{label}: {total:,} {unit}"
            artifact = cast(UUID, create_progress_artifact(progress=percent, description=description))
        else:
            update_progress_artifact(artifact, progress=percent)

    with ExitStack() as stack:
        if not lines.disable:
            _shown.append(lines)
            stack.callback(_shown.remove, lines)
            for handler in logging.getLogger().handlers if instead_of_log else ():
                handler.addFilter(_is_not_in_bars)
                stack.callback(handler.removeFilter, _is_not_in_bars)
        stack.enter_context(lines)
        yield update


@contextmanager
def line(name: str) -> Iterator[None]:
    """Show a line below the bar that is shown, if there is one."""
    with ExitStack() as stack:
        if _shown:
            stack.callback(_shown[0].remove_task, _shown[0].add_task(name, total=None))
        yield


def follow(months: Iterable[MonthRecord], total: int) -> list[MonthRecord]:
    """Return the records of a backfill's months; show and log each when its month has finished."""
    ended = []
    with bar("all months", "months", instead_of_log=True) as show:
        show(0, total)
        for done, month in enumerate(months, 1):
            ended.append(month)
            level = logging.WARNING if month.result == "failed" else logging.INFO
            outcome = month.error if month.result == "failed" else f"{month.rows or 0:,} rows"
            log.log(level, "%s: %s, %s (%s of %s)", month.name, month.result, outcome, done, total)
            show(done, total)
    return ended


def _is_not_in_bars(record: logging.LogRecord) -> bool:
    """Return whether a log line says more than the bars show."""
    return record.levelno > logging.INFO or not record.name.startswith("nyc_tlc")
