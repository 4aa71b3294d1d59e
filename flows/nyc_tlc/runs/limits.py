"""How many may be at work at the same time: the limits of the server's work pools and deployments, and its slots."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from urllib.parse import urlsplit

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from nyc_tlc.planning.month_plan import MonthPlan
from nyc_tlc.source.location import RemoteFile
from nyc_tlc.warehouse.protocol import Kind

log = logging.getLogger(__name__)


def source_limit(remote: RemoteFile) -> str:
    """Return the name of the limit of a month's source."""
    return f"taxi-source-{urlsplit(remote.url).hostname or 'file'}"


def warehouse_limit(kind: Kind) -> str:
    """Return the name of a warehouse's limit."""
    return f"taxi-warehouse-{kind}"


def slot(limit: str) -> AbstractContextManager[None]:
    """Wait for a slot and hold it inside the ``with`` block; do nothing if the server has no such limit.

    Prefect notices a missing limit only when it asks for a slot. That is a write; a busy SQLite refuses it, and Prefect
    repeats it two seconds later. So the limit is looked up first, which is only a read.
    """
    return nullcontext() if _read_slots(limit) is None else concurrency(limit)


def warn_of_slots(due: Sequence[MonthPlan], at_once: int) -> None:
    """Log which sources and warehouses take fewer of the months at the same time than are at work."""
    names = {source_limit(plan.remote) for plan in due if plan.is_due_in_lake and plan.remote}
    names |= {warehouse_limit(kind) for plan in due for kind in plan.warehouses}
    for name in sorted(names):
        if (slots := _read_slots(name)) is not None and slots < min(at_once, len(due)):
            log.warning("at most %s of the months at work will use %s at the same time", slots, name)


def warn_of_pools(
    client: SyncPrefectClient, deployments: Iterable[DeploymentResponse], at_once: int, count: int
) -> None:
    """Log how many of the runs will be at work at the same time, if deployments and pools allow fewer than asked."""
    wanted, rooms = min(at_once, count), defaultdict[str | None, int](int)
    for deployment in deployments:
        own = deployment.global_concurrency_limit
        rooms[deployment.work_pool_name] += min(own.limit, wanted) if own else wanted
    allowed = 0
    for name, room in rooms.items():
        limit = client.read_work_pool(name).concurrency_limit if name else None
        allowed += room if limit is None else min(room, limit)
    if allowed < wanted:
        pools = " and ".join(sorted(filter(None, rooms)))
        log.warning(
            "--at-once %s: only %s runs will be at work at the same time; more need a higher TLC_AT_ONCE, then "
            "python deployments/apply.py (work pool %s)",
            at_once,
            allowed,
            pools,
        )


def _read_slots(limit: str) -> int | None:
    """Return how many slots a limit has; None if the server has no such limit."""
    with get_client(sync_client=True) as client:
        try:
            return client.read_global_concurrency_limit_by_name(limit).limit
        except ObjectNotFound:
            return None
