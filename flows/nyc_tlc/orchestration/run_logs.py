"""Log lines: the library's reach the Prefect run they belong to, and an expected failure is one line."""

from __future__ import annotations

import logging

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler

from nyc_tlc.errors import TlcError

#: Where Prefect's engine writes about runs.
RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


def is_expected_failure(record: logging.LogRecord) -> bool:
    """Whether a record reports an expected failure."""
    error = record.exc_info[1] if record.exc_info else getattr(record, "expected_failure", None)
    return isinstance(error, TlcError)


def without_traceback(record: logging.LogRecord) -> bool:
    """Leave a record of an expected failure its message alone: the traceback of Prefect's engine tells nothing."""
    if record.exc_info and is_expected_failure(record):
        record.expected_failure, record.exc_info = record.exc_info[1], None
    return True


def join_prefect() -> None:
    """Send the library's log lines to the run they belong to, and expected failures without tracebacks."""
    library = logging.getLogger("nyc_tlc")
    library.setLevel(logging.INFO)
    if not any(isinstance(handler, APILogHandler) for handler in library.handlers):
        to_run = APILogHandler()
        to_run.addFilter(lambda _: bool(FlowRunContext.get() or TaskRunContext.get()))
        library.addHandler(to_run)
    for name in RUN_LOGGERS:
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(without_traceback)
