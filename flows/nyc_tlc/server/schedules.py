"""Find what a deploy does not remove: schedules no longer in ``prefect.yaml``, and deployments of earlier versions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from pydantic import BaseModel

from nyc_tlc.comparison import Comparison


class Deployment(BaseModel):
    """A deployment's name, entrypoint and schedules, as in ``prefect.yaml``."""

    name: str
    entrypoint: str
    schedules: list[dict[str, Any]] = []

    @property
    def full_name(self) -> str:
        """The names of flow and deployment: ``etl-month/green``."""
        return f"{self.entrypoint.rpartition(':')[2].replace('_', '-')}/{self.name}"


class DeploymentsFile(BaseModel):
    """The deployments of ``prefect.yaml``; Prefect reads the rest of the file."""

    deployments: list[Deployment]


def find_stale_schedules(deployment: Deployment, client: SyncPrefectClient) -> Iterator[Comparison]:
    """Find a deployment's schedules that its file no longer has. One without a slug was made by hand and stays."""
    slugs = {None, *(schedule["slug"] for schedule in deployment.schedules)}
    if saved := _saved_deployment(deployment.full_name, client):
        for schedule in saved.schedules:
            if schedule.slug not in slugs:
                delete = partial(client.delete_deployment_schedule, saved.id, schedule.id)
                yield Comparison(f"schedule {deployment.full_name} {schedule.slug}", "stale", change=delete)


def find_former_deployments(names: list[str], client: SyncPrefectClient) -> Iterator[Comparison]:
    """Find deployments of earlier versions on the server; their schedules would continue to run."""
    for name in names:
        if saved := _saved_deployment(name, client):
            yield Comparison(f"deployment {name}", "stale", change=partial(client.delete_deployment, saved.id))


def _saved_deployment(full_name: str, client: SyncPrefectClient) -> DeploymentResponse | None:
    with contextlib.suppress(ObjectNotFound):
        return client.read_deployment_by_name(full_name)
    return None
