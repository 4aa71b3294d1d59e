"""Retry calls after transient failures: which answers are transient, and how long to wait."""

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

#: The HTTP statuses after which a later attempt can succeed.
RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
#: The longest Retry-After that is waited for, in seconds.
LONGEST_WAIT = 300.0
#: The longest back-off between two attempts, in seconds.
LONGEST_BACKOFF = 20.0


def call_with_retries(call: Callable[[], T], read_retry_after: Callable[[Exception], str | None], url: str) -> T:
    """Make a call; after a transient failure repeat it, up to ``TLC_HTTP_RETRIES`` times, with back-off and jitter.

    Args:
        call: The call.
        read_retry_after: Returns the Retry-After header of a transient failure, or an empty text if it has none;
            None for any other failure.
        url: The store's URL, for the log.

    Raises:
        Exception: the error of the last attempt.
    """
    settings = read_settings()
    for attempt in range(settings.http_retries):
        try:
            return call()
        except Exception as error:
            header = read_retry_after(error)
            if header is None:
                raise
            seconds = parse_retry_after(header)
            if seconds > LONGEST_WAIT:
                log.warning("%s asks to wait %.0f s, which is too long", url, seconds)
                raise
            backoff = min(LONGEST_BACKOFF, settings.http_backoff * 2**attempt) * random.uniform(0.5, 1)  # noqa: S311
            log.warning("%s: %s; trying again", url, type(error).__name__)
            time.sleep(max(seconds, backoff))
    return call()


def parse_retry_after(text: str) -> float:
    """Return the seconds of a Retry-After header, which is a number or a date; 0 if it is neither."""
    try:
        return max(0.0, Retry().parse_retry_after(text[:40])) if text else 0.0
    except (InvalidHeader, ValueError, OverflowError):
        return 0.0
