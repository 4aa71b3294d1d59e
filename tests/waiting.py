"""Waiting for what other threads and processes do: with a deadline."""

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
    """A port of this machine that nothing listens on, and that nothing gets which asks for any port.

    A server that is told its port binds it seconds later. Until then another test's server or connection could get a
    port of the range that the system hands out (from 32768 on Linux, from 49152 on macOS).
    """
    while True:
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", secrets.choice(range(20_000, 32_768))))
            return int(free.getsockname()[1])
