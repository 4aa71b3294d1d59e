"""Send the library's log lines to their Prefect run, and log an expected failure as one line."""

from __future__ import annotations

import logging

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler

from nyc_tlc.errors import TlcError

#: The loggers of Prefect's engine for runs.
RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


def is_expected_failure(record: logging.LogRecord) -> bool:
    """Return whether a log record reports an expected failure."""
    error = record.exc_info[1] if record.exc_info else getattr(record, "expected_failure", None)
    return isinstance(error, TlcError)


def drop_traceback(record: logging.LogRecord) -> bool:
    """Remove the traceback from the record of an expected failure: it only shows Prefect's engine. Return True."""
    if record.exc_info and is_expected_failure(record):
        record.expected_failure, record.exc_info = record.exc_info[1], None
    return True


def join_prefect() -> None:
    """Send the library's log lines to the run that wrote them, and log expected failures without tracebacks."""
    library = logging.getLogger("nyc_tlc")
    library.setLevel(logging.INFO)
    if not any(isinstance(handler, APILogHandler) for handler in library.handlers):
        to_run = APILogHandler()
        to_run.addFilter(lambda _: bool(FlowRunContext.get() or TaskRunContext.get()))
        library.addHandler(to_run)
    for name in RUN_LOGGERS:
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(drop_traceback)
