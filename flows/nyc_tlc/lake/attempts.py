"""Calls of a store that are tried again while time can heal what they fail of."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from nyc_tlc.settings import read_settings

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that a store may ask to wait by Retry-After; who asks for more is not waited for.
LONGEST_WAIT = 300.0
#: Seconds between two attempts at most.
LONGEST_BACKOFF = 20.0


def try_again(call: Callable[[], T], wait_for: Callable[[Exception], str | None], url: str) -> T:
    """Make a call, up to ``TLC_HTTP_RETRIES`` times more, with back-off and jitter.

    Args:
        call: The call.
        wait_for: The Retry-After header of a failure that time can heal, empty when it has none; None for any other
            failure.
        url: Where, for the log.

    Raises:
        Exception: what the last attempt raised.
    """
    settings = read_settings()
    for attempt in range(settings.http_retries):
        try:
            return call()
        except Exception as error:
            asked = wait_for(error)
            if asked is None:
                raise
            seconds = _parse_retry_after(asked)
            if seconds > LONGEST_WAIT:
                log.warning("%s asks to wait %.0f s: given up", url, seconds)
                raise
            backoff = min(LONGEST_BACKOFF, settings.http_backoff * 2**attempt) * random.uniform(0.5, 1)  # noqa: S311
            log.warning("%s: %s; trying again", url, type(error).__name__)
            time.sleep(max(seconds, backoff))
    return call()


def _parse_retry_after(text: str) -> float:
    """Seconds of a Retry-After header, 0 for what can't be read."""
    try:
        return max(0.0, Retry().parse_retry_after(text[:40])) if text else 0.0
    except (InvalidHeader, ValueError, OverflowError):
        return 0.0
