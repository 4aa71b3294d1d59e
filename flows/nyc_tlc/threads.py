"""A thread pool whose log lines are sent to the flow run that started it, and a thread that works ahead."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class ContextPool(ThreadPoolExecutor):
    """A thread pool that runs each call in the context of its ``submit``, where Prefect finds the current run."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        return super().submit(copy_context().run, fn, *args, **kwargs)  # type: ignore[arg-type]


def prefetch(items: Iterator[T]) -> Generator[T, None, None]:
    """Yield the items; another thread makes the next one while the caller uses the one before."""
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as worker:
        coming: Future[T | None] = worker.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = worker.submit(next, items, None)
            yield item
