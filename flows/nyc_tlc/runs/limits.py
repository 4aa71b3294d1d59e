"""Slots of the Prefect server's concurrency limits, which are shared by all runs and machines."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from urllib.parse import urlsplit

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from nyc_tlc.source.location import RemoteFile
from nyc_tlc.warehouse.protocol import Kind


def source_slot(remote: RemoteFile) -> AbstractContextManager[None]:
    """Wait for a slot for downloads from the month's host, and hold it inside the ``with`` block."""
    host = urlsplit(remote.url).hostname
    return _slot(f"taxi-source-{host}") if host else nullcontext()


def warehouse_slot(kind: Kind) -> AbstractContextManager[None]:
    """Wait for a slot for loads into a kind of warehouse, and hold it inside the ``with`` block."""
    return _slot(f"taxi-warehouse-{kind}")


def models_slot() -> AbstractContextManager[None]:
    """Wait for the only slot for building models, and hold it inside the ``with`` block."""
    return _slot("taxi-models")


def _slot(limit: str) -> AbstractContextManager[None]:
    """Wait for a slot of a limit; do nothing if the server has no such limit.

    Prefect notices a missing limit only when it asks for a slot. That is a write; a busy SQLite refuses it, and Prefect
    repeats it two seconds later. So the limit is looked up first, which is only a read.
    """
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(limit)
        except ObjectNotFound:
            return nullcontext()
    return concurrency(limit)
