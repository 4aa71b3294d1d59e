"""Wait for other threads and processes, with a deadline."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def eventually(
    happens: Callable[[], Found], seconds: float = 60, *, every: float = 0.02, describe: Callable[[], str] = str
) -> Found:
    """Call a function until it returns something true, and return that.

    Args:
        happens: The function; it may raise AssertionError when waiting has become useless.
        seconds: How long to wait.
        every: Seconds between two calls.
        describe: Returns a text for the failure.

    Raises:
        AssertionError: when it takes longer.
    """
    deadline = time.monotonic() + seconds
    while not (found := happens()):
        assert time.monotonic() < deadline, f"not within {seconds} seconds {describe()}"
        time.sleep(every)
    return found


def free_port() -> int:
    """Return a free port outside of the range that the system gives to those who ask for any port.

    A server binds its port only seconds after it got the number. Until then, a port of that range (from 32768 on Linux,
    from 49152 on macOS) could go to another test's server or connection.
    """
    while True:
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", secrets.choice(range(20_000, 32_768))))
            return int(free.getsockname()[1])
