"""Concurrency limits: how many runs, on all machines, may hold a name's slots at the same time."""

from __future__ import annotations

import contextlib
from typing import Annotated

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.exceptions import ObjectNotFound
from pydantic import Field

from nyc_tlc.comparison import Comparison, compare
from nyc_tlc.yaml_files import StrictModel


class ConcurrencyLimit(StrictModel):
    """A name, and how many of its slots there are."""

    name: str
    limit: Annotated[int, Field(ge=1)]


def compare_limit(limit: ConcurrencyLimit, client: SyncPrefectClient) -> Comparison:
    """Compare a limit with the server's; an inactive one is activated."""

    def create() -> None:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=limit.name, limit=limit.limit))

    def update(_: object) -> None:
        client.update_global_concurrency_limit(limit.name, GlobalConcurrencyLimitUpdate(limit=limit.limit, active=True))

    saved = None
    with contextlib.suppress(ObjectNotFound):
        saved = client.read_global_concurrency_limit_by_name(limit.name)
    return compare(f"concurrency-limit {limit.name}", {"limit": limit.limit, "active": True}, saved, create, update)
