"""Prepare a Prefect server for the deployments of ``prefect.yaml``: work pools, concurrency limits, automations.

``deployments/server.yaml``, ``automations.yaml`` and ``pools/*.yaml`` describe them. Each is found by its name. Of the
others on the server, only automations whose names have our prefix are removed.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.utilities.schema_tools import validate
from prefect.utilities.templating import apply_values
from prefect.workers.base import BaseWorker
from pydantic import Field

from nyc_tlc.errors import ConfigurationError
from nyc_tlc.yaml_files import Location, StrictModel, YamlFile

#: The names of this project's automations begin with it.
NAME_PREFIX = "nyc-tlc: "
#: Environment of every run in a work pool. Without heartbeats nobody notices that a machine is lost (automations.yaml).
RUN_ENVIRONMENT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
#: Prefect's default storage of leases; they are lost when the server stops.
LEASES_IN_MEMORY = "prefect.server.concurrency.lease_storage.memory"


class WorkPool(StrictModel):
    """A work pool: values for the variables of Prefect's template, and additions to its job configuration."""

    name: str
    type: str
    description: str
    variables: dict[str, Any] = {}
    job_configuration: dict[str, Any] = {}


class ConcurrencyLimit(StrictModel):
    """A name, and how many of its slots there are, on all machines together."""

    name: str
    limit: Annotated[int, Field(ge=1)]


class ServerFile(StrictModel):
    """The content of ``deployments/server.yaml``."""

    work_pools: list[WorkPool]
    concurrency_limits: list[ConcurrencyLimit]


class AutomationsFile(StrictModel):
    """The content of ``deployments/automations.yaml``."""

    automations: list[AutomationCore]


def read_server(path: Path) -> tuple[list[WorkPoolCreate], list[ConcurrencyLimit]]:
    """Read the work pools and limits that every server has.

    Raises:
        ConfigurationError: when the file has a mistake; so do the other functions that read a file.
    """
    file = YamlFile(path)
    server = file.validate(ServerFile, file.content)
    return [_build_pool(pool, file) for pool in server.work_pools], server.concurrency_limits


def read_pool(path: Path, variables: Mapping[str, str]) -> WorkPoolCreate:
    """Read a work pool from a file of its own; a key whose ``${VAR}`` is empty is left to Prefect's default."""
    file = YamlFile(path, variables)
    return _build_pool(file.validate(WorkPool, file.content), file)


def read_automations(path: Path) -> list[AutomationCore]:
    """Read the automations; a key that Prefect would ignore is a mistake."""
    file = YamlFile(path)
    automations = file.validate(AutomationsFile, file.content)
    for location in unknown_keys(file.content, automations.model_dump()):
        raise file.mistake(location, f"unknown key {'.'.join(map(str, location))}")
    for index, automation in enumerate(automations.automations):
        if not automation.name.startswith(NAME_PREFIX):
            location, expected = ("automations", index, "name"), f"a name that begins with {NAME_PREFIX!r}"
            raise file.mistake(location, "not a name of this project", expected=expected, got=repr(automation.name))
    return automations.automations


def unknown_keys(given: object, understood: object) -> Iterator[Location]:
    """Return the locations of the keys that a model without strict checks has ignored."""
    pairs: list[tuple[str | int, object, object]] = []
    if isinstance(given, dict) and isinstance(understood, dict):
        yield from ((key,) for key in given if key not in understood)
        pairs = [(key, value, understood[key]) for key, value in given.items() if key in understood]
    elif isinstance(given, list) and isinstance(understood, list):
        pairs = [(index, *both) for index, both in enumerate(zip(given, understood, strict=True))]
    for key, value, part in pairs:
        yield from ((key, *inner) for inner in unknown_keys(value, part))


def save_pool(pool: WorkPoolCreate, client: SyncPrefectClient) -> None:
    """Create or update a work pool.

    Raises:
        ConfigurationError: when the server's pool has another type, which can't be changed.
    """
    with contextlib.suppress(ObjectNotFound):
        if (saved := client.read_work_pool(pool.name)).type != pool.type:
            fix = f"delete it: .venv/bin/prefect work-pool delete {pool.name}"
            what = f"the work pool {pool.name} is of another type"
            raise ConfigurationError(what, expected=pool.type, got=saved.type, fix=fix)
    client.create_work_pool(pool, overwrite=True)


def save_automations(
    wanted: Sequence[AutomationCore], notification: UUID | None, client: SyncPrefectClient
) -> list[str]:
    """Create, update and remove automations.

    Args:
        wanted: All automations of this project; those that the server has besides are removed.
        notification: The block that sends notifications; without one, automations that only notify stay as they are.
        client: The server's client.

    Returns:
        The names of those automations.
    """
    saved: dict[str, list[Automation]] = defaultdict(list)
    for automation in _all_automations(client):
        saved[automation.name].append(automation)
    left_out = []
    for core in wanted:
        # An automation that was also created by hand is there twice.
        found = saved[core.name].pop(0) if saved[core.name] else None
        actions = [
            action.model_copy(update={"block_document_id": notification})
            if isinstance(action, SendNotification)
            else action
            for action in core.actions
            if notification or not isinstance(action, SendNotification)
        ]
        # An update sends only fields that are set, so all are set; except the owner, which an update may not send.
        fields = core.model_dump(exclude={"owner_resource"}) | {"actions": actions}
        complete = AutomationCore.model_validate(fields)
        if not actions:
            left_out.append(core.name)
        elif found is None:
            client.create_automation(complete)
        # An update would start what the automation waits for anew.
        elif any(getattr(found, field) != getattr(complete, field) for field in fields):
            client.update_automation(found.id, complete)
    for name, stale in saved.items():
        for automation in stale if name.startswith(NAME_PREFIX) else []:
            client.delete_automation(automation.id)
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
        if settings["server"]["concurrency"]["lease_storage"] == LEASES_IN_MEMORY:
            yield (
                "a run that is Pending when this server restarts keeps its concurrency slot for ever, and every later "
                "catch-up is cancelled"
            )


def default_template(type_: str) -> dict[str, Any]:
    """Return Prefect's own base job template for a type of work pool.

    An installed integration has its own; for others, Prefect has a copy. The copy is read here, because the server
    would look on the internet first.

    Raises:
        ConfigurationError: when Prefect does not know the type.
    """
    if worker := BaseWorker.get_worker_class_from_type(type_):
        return worker.get_default_base_job_template()
    view = resources.files("prefect") / "server/api/collections_data/views/aggregate-worker-metadata.json"
    found = {
        name: worker for integration in json.loads(view.read_bytes()).values() for name, worker in integration.items()
    }
    if type_ not in found:
        raise ConfigurationError(f"there is no work pool of type {type_}", expected=" or ".join(sorted(found)))
    template: dict[str, Any] = found[type_]["default_base_job_configuration"]
    return template


def _build_pool(pool: WorkPool, file: YamlFile) -> WorkPoolCreate:
    """Fill in Prefect's template. No variable stays free, because a run's ``command`` or ``env`` is code of its own."""
    template = default_template(pool.type)
    properties = template["variables"]["properties"]
    if unknown := sorted(pool.variables.keys() - properties.keys()):
        location, expected = ("variables", unknown[0]), ", ".join(sorted(properties))
        raise file.mistake(location, f"unknown variable {unknown[0]}", expected=expected)
    for problem in validate(pool.variables, template["variables"]):
        location = ("variables", *problem.path)
        raise file.mistake(location, f"{'.'.join(map(str, location))} is not usable", got=problem.message)
    defaults = {name: each["default"] for name, each in properties.items() if each.get("default") is not None}
    values = defaults | pool.variables
    environment = RUN_ENVIRONMENT | values.pop("env", {})
    job = apply_values(_merge(template["job_configuration"], pool.job_configuration), values) | {"env": environment}
    # A worker adds a run's env to the pool's even if the template does not ask for it; so the server has to refuse it.
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    return WorkPoolCreate(
        name=pool.name,
        type=pool.type,
        description=pool.description,
        base_job_template={"job_configuration": job, "variables": nothing},
    )


def _merge(ours: Any, over: Any) -> Any:
    """Merge mappings key by key; replace any other value."""
    if isinstance(ours, dict) and isinstance(over, dict):
        return ours | {key: _merge(ours.get(key), value) for key, value in over.items()}
    return over


def _all_automations(client: SyncPrefectClient) -> list[Automation]:
    found: list[Automation] = []
    while page := client.read_automations(offset=len(found)):
        found += page
    return found
