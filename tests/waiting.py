"""Waiting for what other threads and processes do: with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def eventually(happens: Callable[[], Found], seconds: float = 60) -> Found:
    """What the call returns, as soon as that is true.

    Raises:
        AssertionError: when it is not within some seconds.
    """
    deadline = time.monotonic() + seconds
    while not (found := happens()):
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        time.sleep(0.01)
    return found
