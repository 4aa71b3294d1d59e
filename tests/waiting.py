"""Waiting for what other threads and processes do: with a deadline."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def eventually(
    happens: Callable[[], Found], seconds: float = 60, *, every: float = 0.02, describe: Callable[[], str] = str
) -> Found:
    """What the call returns, as soon as that is true.

    Args:
        happens: What is asked again and again; it may raise AssertionError when it can't happen any more.
        seconds: How long.
        every: Seconds between two times.
        describe: What the failure shows.

    Raises:
        AssertionError: when it is not within that time.
    """
    deadline = time.monotonic() + seconds
    while not (found := happens()):
        assert time.monotonic() < deadline, f"not within {seconds} seconds {describe()}"
        time.sleep(every)
    return found


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
