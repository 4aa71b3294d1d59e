"""Prepare a Prefect server for the deployments of ``prefect.yaml``: work pools, concurrency limits, automations.

``deployments/server.yaml``, ``automations.yaml`` and ``pools/*.yaml`` describe them. Each is found by its name. Of the
others on the server, only automations whose names have our prefix are removed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.utilities.collections import deep_merge
from prefect.utilities.schema_tools import validate as find_problems
from prefect.utilities.templating import apply_values
from pydantic import PositiveInt

from nyc_tlc.errors import ConfigurationError
from nyc_tlc.yaml_files import StrictModel, fill_in, name_key, read_yaml, validate

#: What to do about a server's weaknesses.
SERVER_FIX = "start it with make server, or as docker/compose.yaml does"
#: The names of this project's automations begin with it.
NAME_PREFIX = "nyc-tlc: "
#: The deployment that automations start.
MODELS = "transform/models"
#: Environment of every run in a work pool. Without heartbeats nobody notices that a machine is lost (automations.yaml).
RUN_ENVIRONMENT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}


class WorkPool(StrictModel):
    """A work pool: values for the variables of Prefect's template, and additions to its job configuration."""

    name: str
    type: str
    description: str
    variables: dict[str, Any] = {}
    job_configuration: dict[str, Any] = {}


class ServerFile(StrictModel):
    """The content of ``server.yaml``; a limit is the number of slots on all machines together.

    Attributes:
        at_once: The limit of each work pool.
    """

    at_once: PositiveInt
    work_pools: list[WorkPool]
    concurrency_limits: dict[str, PositiveInt]


class AutomationsFile(StrictModel):
    """The content of ``automations.yaml``."""

    automations: list[AutomationCore]


def read_server(path: Path, variables: Mapping[str, str | None]) -> tuple[list[WorkPoolCreate], dict[str, int], int]:
    """Read the work pools and limits that every server has, and the limit of each work pool.

    Raises:
        ConfigurationError: when the file has a mistake; so do the other functions that read a file.
    """
    server = validate(ServerFile, fill_in(read_yaml(path), variables, path), path)
    return [_build_pool(pool, path) for pool in server.work_pools], server.concurrency_limits, server.at_once


def read_pool(path: Path, variables: Mapping[str, str | None]) -> WorkPoolCreate:
    """Read a work pool from a file of its own; a key whose ``${VAR}`` is empty is left to Prefect's default."""
    return _build_pool(validate(WorkPool, fill_in(read_yaml(path), variables, path), path), path)


def read_automations(path: Path) -> list[AutomationCore]:
    """Read the automations; a key that Prefect would ignore is a mistake."""
    automations = validate(AutomationsFile, read_yaml(path), path, extra="forbid").automations
    for automation in automations:
        if not automation.name.startswith(NAME_PREFIX):
            expected = f"a name that begins with {NAME_PREFIX!r}"
            raise ConfigurationError(f"{path}: not a name of this project", expected=expected, got=automation.name)
    return automations


def save_pool(pool: WorkPoolCreate, at_once: int, client: SyncPrefectClient) -> None:
    """Create or update a work pool, in which so many runs may be at work at the same time.

    Raises:
        ConfigurationError: when the server's pool has another type, which can't be changed.
    """
    with contextlib.suppress(ObjectNotFound):
        if (saved := client.read_work_pool(pool.name)).type != pool.type:
            fix = f"delete it: .venv/bin/prefect work-pool delete {pool.name}"
            what = f"the work pool {pool.name} is of another type"
            raise ConfigurationError(what, expected=pool.type, got=saved.type, fix=fix)
    client.create_work_pool(pool.model_copy(update={"concurrency_limit": at_once}), overwrite=True)


def save_automations(
    wanted: Sequence[AutomationCore], notification: UUID | None, client: SyncPrefectClient
) -> dict[str, str]:
    """Create, update and remove automations, so that the server has those of this project that are wanted.

    Args:
        notification: The block that sends notifications; without one, automations that only notify stay as they are.

    Returns:
        The automations that stay as they are, each with its action that lacks a block or a deployment.
    """
    models = None
    with contextlib.suppress(ObjectNotFound):
        models = client.read_deployment_by_name(MODELS).id
    ids = {"send-notification": ("block_document_id", notification), "run-deployment": ("deployment_id", models)}
    saved: list[Automation] = []
    while page := client.read_automations(offset=len(saved)):
        saved += page
    ours = [each for each in saved if each.name.startswith(NAME_PREFIX)]
    left_out: dict[str, str] = {}
    for core in wanted:
        if known := next((each for each in ours if each.name == core.name), None):
            ours.remove(known)
        places = [(each, *ids.get(each.type, ("type", each.type))) for each in core.actions]
        actions = [each.model_copy(update={field: id}) for each, field, id in places if id]
        # An update sends only fields that are set, so all are set; except the owner, which an update may not send.
        fields = core.model_dump(exclude={"owner_resource"}) | {"actions": actions}
        complete = AutomationCore.model_validate(fields)
        if not actions:
            left_out[core.name] = core.actions[0].type
        elif known is None:
            client.create_automation(complete)
        # An update would start what the automation waits for anew.
        elif any(getattr(known, field) != getattr(complete, field) for field in fields):
            client.update_automation(known.id, complete)
    # Those that left the file, or that were also created by hand.
    for each in ours:
        client.delete_automation(each.id)
    return left_out


def find_weaknesses(url: str, client: SyncPrefectClient) -> Iterator[str]:
    """Return what is wrong with a server's own settings, as far as it shows them."""
    with contextlib.suppress(httpx.HTTPError):
        stranger = httpx.post(f"{url}/flows/filter", json={}, headers={"Origin": "http://example.org"})
        if stranger.is_success:
            pages = ", and pages of every origin in a browser" * ("Access-Control-Allow-Origin" in stranger.headers)
            yield f"everyone who reaches this server{pages} may read its blocks and run code as its workers"
    with contextlib.suppress(httpx.HTTPStatusError, KeyError, ValueError):
        settings = client.request("GET", "/admin/settings").json()
        # Prefect's default.
        if settings["server"]["concurrency"]["lease_storage"].endswith(".memory"):
            yield (
                "a run that is Pending when this server restarts keeps its concurrency slot for ever, and every later "
                "catch-up is cancelled"
            )


def default_template(type_: str) -> dict[str, Any]:
    """Return the base job template that Prefect comes with for a type of work pool, the same on every machine.

    Raises:
        ConfigurationError: when Prefect does not know the type.
    """
    view = resources.files("prefect") / "server/api/collections_data/views/aggregate-worker-metadata.json"
    found = {name: worker for workers in json.loads(view.read_bytes()).values() for name, worker in workers.items()}
    if type_ not in found:
        raise ConfigurationError(f"there is no work pool of type {type_}", expected=" or ".join(sorted(found)))
    template: dict[str, Any] = found[type_]["default_base_job_configuration"]
    return template


def _build_pool(pool: WorkPool, path: Path) -> WorkPoolCreate:
    """Fill in Prefect's template. No variable stays free, because a run's ``command`` or ``env`` is code of its own."""
    template = default_template(pool.type)
    for problem in find_problems(pool.variables, template["variables"] | {"additionalProperties": False}):
        key = name_key(("variables", *problem.path))
        raise ConfigurationError(f"{path}: {key} is not usable", got=problem.message)
    properties = template["variables"]["properties"].items()
    values = {name: each["default"] for name, each in properties if each.get("default") is not None} | pool.variables
    environment = RUN_ENVIRONMENT | values.pop("env", {})
    job = apply_values(deep_merge(template["job_configuration"], pool.job_configuration), values) | {"env": environment}
    # A worker adds a run's env to the pool's even if the template does not ask for it; so the server has to refuse it.
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    return WorkPoolCreate(
        name=pool.name,
        type=pool.type,
        description=pool.description,
        base_job_template={"job_configuration": job, "variables": nothing},
    )
