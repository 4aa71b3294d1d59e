"""Prepare a Prefect server for the deployments: make it have what the files of ``deployments/`` say.

Each object is found by its name, compared, and made or changed only where it differs. What is removed is ours:
automations that have left their file, schedules that have left ``prefect.yaml``, deployments of earlier versions.
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

#: Where a server keeps its leases when nothing is set: they end with it.
LEASES_IN_MEMORY = "prefect.server.concurrency.lease_storage.memory"
#: The server's setting that keeps them.
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
    """What the files of a checkout say that its server should have.

    Args:
        root: The checkout.

    Raises:
        ConfigurationError: naming the file and the mistake.
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
    """Make a server what it should be; what is so already isn't touched.

    Args:
        wanted: What that is.
        client: The server's.
        notification: The block that takes notifications; without one they are left out.
        pools: Work pools that it should have besides.
        check: Change nothing, only compare.
    """
    # All of it is compared before the first change: a mistake changes nothing.
    comparisons = [
        *(compare_work_pool(pool, client) for pool in [*wanted.server.work_pools, *pools]),
        *(compare_limit(limit, client) for limit in wanted.server.concurrency_limits),
        *compare_automations(wanted.automations, notification, client),
        *(stale for deployment in wanted.deployments for stale in find_stale_schedules(deployment, client)),
        *find_former_deployments(wanted.server.former_deployments, client),
    ]
    return comparisons if check else make_changes(comparisons)


def loses_leases(client: SyncPrefectClient) -> bool:
    """Whether a restart of the server loses the leases of concurrency limits, as far as it tells."""
    with contextlib.suppress(httpx.HTTPStatusError, KeyError, ValueError):
        settings = client.request("GET", "/admin/settings").json()
        return bool(settings["server"]["concurrency"]["lease_storage"] == LEASES_IN_MEMORY)
    return False
