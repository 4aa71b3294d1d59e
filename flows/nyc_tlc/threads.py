"""Threads whose log lines reach the run that started them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class ContextPool(ThreadPoolExecutor):
    """A thread pool that runs each call in the context it was submitted in: Prefect finds the run there."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Have a call made by a thread."""
        return super().submit(copy_context().run, fn, *args, **kwargs)  # type: ignore[arg-type]
