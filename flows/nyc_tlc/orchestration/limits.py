"""Places under the limits that a Prefect server has: how much may happen at once, over all runs and machines."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from urllib.parse import urlsplit

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from nyc_tlc.source.location import RemoteFile
from nyc_tlc.warehouse.warehouse import Kind


def place_at_source(remote: RemoteFile) -> AbstractContextManager[None]:
    """Wait for a place among those who fetch from the month's host."""
    host = urlsplit(remote.url).hostname
    return _place(f"taxi-source-{host}") if host else nullcontext()


def place_in_warehouse(kind: Kind) -> AbstractContextManager[None]:
    """Wait for a place among those who load into a kind of warehouse."""
    return _place(f"taxi-warehouse-{kind}")


def place_for_models() -> AbstractContextManager[None]:
    """Wait for the one place to build models."""
    return _place("taxi-models")


def _place(limit: str) -> AbstractContextManager[None]:
    """Wait for a place, where the server has such a limit.

    Prefect itself finds out that there is no limit only by trying to take a place. That is a write, which a busy SQLite
    refuses and Prefect repeats two seconds later; so the limit is looked up first.
    """
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(limit)
        except ObjectNotFound:
            return nullcontext()
    return concurrency(limit)
