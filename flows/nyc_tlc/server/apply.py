"""Prepare a Prefect server for the deployments, as the files of ``deployments/`` describe it.

Each object is found by its name, and created or updated only if it is missing or differs. Only objects of this project
are removed: automations and schedules that are no longer in their file, and deployments of earlier versions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.schemas.automations import AutomationCore

from nyc_tlc.comparison import Comparison, make_changes
from nyc_tlc.server.automations import compare_automations, read_automations
from nyc_tlc.server.limits import ConcurrencyLimit, compare_limit
from nyc_tlc.server.schedules import Deployment, DeploymentsFile, find_former_deployments, find_stale_schedules
from nyc_tlc.server.work_pools import WorkPool, compare_work_pool
from nyc_tlc.yaml_files import StrictModel, YamlFile

#: Prefect's default storage of leases; they are lost when the server stops.
LEASES_IN_MEMORY = "prefect.server.concurrency.lease_storage.memory"
#: The server's setting that keeps leases over a restart.
LEASES_IN_FILES = "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency.lease_storage.filesystem"


class ServerFile(StrictModel):
    """The content of ``deployments/server.yaml``."""

    work_pools: list[WorkPool]
    concurrency_limits: list[ConcurrencyLimit]
    former_deployments: list[str] = []


@dataclass(frozen=True)
class Wanted:
    """What a server should have."""

    server: ServerFile
    automations: list[AutomationCore]
    deployments: list[Deployment]


def read_wanted(root: Path) -> Wanted:
    """Read what a checkout's files say a server should have.

    Args:
        root: The checkout.

    Raises:
        ConfigurationError: when a file has a mistake; it names both.
    """
    server, deployments = YamlFile(root / "deployments/server.yaml"), YamlFile(root / "prefect.yaml")
    return Wanted(
        server.validate(ServerFile, server.content),
        read_automations(root / "deployments/automations.yaml"),
        deployments.validate(DeploymentsFile, deployments.content).deployments,
    )


def prepare_server(
    wanted: Wanted,
    client: SyncPrefectClient,
    notification: UUID | None,
    *,
    pools: Sequence[WorkPool] = (),
    check: bool = False,
) -> list[Comparison]:
    """Create, update and remove a server's objects; objects that already match are not changed.

    Args:
        wanted: What the server should have.
        client: The server's client.
        notification: The block that sends notifications; without one, notifications are left out.
        pools: Additional work pools.
        check: Only compare, change nothing.
    """
    # Everything is compared before the first change, so that a mistake changes nothing.
    comparisons = [
        *(compare_work_pool(pool, client) for pool in [*wanted.server.work_pools, *pools]),
        *(compare_limit(limit, client) for limit in wanted.server.concurrency_limits),
        *compare_automations(wanted.automations, notification, client),
        *(stale for deployment in wanted.deployments for stale in find_stale_schedules(deployment, client)),
        *find_former_deployments(wanted.server.former_deployments, client),
    ]
    return comparisons if check else make_changes(comparisons)


def loses_leases(client: SyncPrefectClient) -> bool:
    """Return whether a restart of the server loses the leases of concurrency limits; False if it does not say."""
    with contextlib.suppress(httpx.HTTPStatusError, KeyError, ValueError):
        settings = client.request("GET", "/admin/settings").json()
        return bool(settings["server"]["concurrency"]["lease_storage"] == LEASES_IN_MEMORY)
    return False
