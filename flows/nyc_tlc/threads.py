"""A thread pool whose log lines are sent to the flow run that started it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class ContextPool(ThreadPoolExecutor):
    """A thread pool that runs each call in the context of its ``submit``, where Prefect finds the current run."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run a call in a thread."""
        return super().submit(copy_context().run, fn, *args, **kwargs)  # type: ignore[arg-type]
