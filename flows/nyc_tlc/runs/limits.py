"""Slots of the Prefect server's concurrency limits, which are shared by all runs and machines."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound


def slot(of: str) -> AbstractContextManager[None]:
    """Wait for a slot and hold it inside the ``with`` block; do nothing if the server has no such limit.

    Prefect notices a missing limit only when it asks for a slot. That is a write; a busy SQLite refuses it, and Prefect
    repeats it two seconds later. So the limit is looked up first, which is only a read.

    Args:
        of: What has the limit, without the prefix that the limits of this project have: ``warehouse-duckdb``.
    """
    limit = f"taxi-{of}"
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(limit)
        except ObjectNotFound:
            return nullcontext()
    return concurrency(limit)
