"""What a Prefect server has for the deployments: work pools, concurrency limits and automations, as YAML says.

Each is found by its name, compared, and made or changed only where it differs. Two things are removed: automations of
ours that have left their file, and schedules of our deployments that have left ``prefect.yaml``, which
``prefect deploy`` keeps. Whatever else the server has is someone else's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.workers.base import BaseWorker
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from nyc_tlc.blocks import Part
from nyc_tlc.errors import ConfigurationError

Status = Literal["created", "updated", "removed", "unchanged", "missing", "differs", "stale", "left out"]
#: What making it right turns the status of an object into.
DONE: dict[Status, Status] = {"missing": "created", "differs": "updated", "stale": "removed"}

#: How the names of our automations begin.
OURS = "nyc-tlc: "
#: What an automation says besides its name.
CONTENT = ("description", "enabled", "tags", "trigger", "actions", "actions_on_trigger", "actions_on_resolve")

Content = TypeVar("Content")
Found = TypeVar("Found")


class WorkPool(Part):
    """A work pool; ``type`` is for making it, because a pool can't change it."""

    name: str
    type: str
    description: str


class ConcurrencyLimit(Part):
    """How many may hold a name at the same time."""

    name: str
    limit: Annotated[int, Field(ge=1)]


class Capacity(Part):
    """Where runs happen, and how much of them at once."""

    work_pools: list[WorkPool]
    concurrency_limits: list[ConcurrencyLimit]


class Automations(Part):
    """What happens by itself."""

    automations: list[AutomationCore]


class Schedule(BaseModel):
    """What identifies a schedule of a deployment."""

    slug: str


class Deployment(BaseModel):
    """What identifies a deployment, and its schedules."""

    name: str
    entrypoint: str
    schedules: list[Schedule] = []

    @property
    def full_name(self) -> str:
        """Flow and deployment: ``etl-month/green``."""
        return f"{self.entrypoint.rpartition(':')[2].replace('_', '-')}/{self.name}"


class Deployments(BaseModel):
    """What is deployed; the rest of ``prefect.yaml`` is Prefect's."""

    deployments: list[Deployment]


@dataclass(frozen=True)
class Wanted:
    """What a server should have."""

    capacity: Capacity
    automations: list[AutomationCore]
    deployments: list[Deployment]


@dataclass(frozen=True)
class Standing:
    """How an object of the server stands, or what was done about it.

    Attributes:
        what: Its kind and name, ``concurrency-limit taxi-warehouse-duckdb``.
        status: ``left out`` is an automation that only notifies, where there is nobody to notify.
        fields: What differed.
    """

    what: str
    status: Status
    fields: tuple[str, ...] = ()


#: How an object stands, and what makes it right.
Step = tuple[Standing, Callable[[], object]]


def read_wanted(root: Path) -> Wanted:
    """What the files of a checkout say that its server should have.

    Args:
        root: The checkout.

    Raises:
        ConfigurationError: naming the file and the mistake.
    """
    return Wanted(
        _validate(root / "deployments/server.yaml", Capacity),
        read_automations(root / "deployments/automations.yaml"),
        _validate(root / "prefect.yaml", Deployments).deployments,
    )


def read_automations(path: Path) -> list[AutomationCore]:
    """The automations of a file. Its notifications have no block; what they get here is no block either.

    Raises:
        ConfigurationError: naming the mistake; a key that Prefect would ignore is one.
    """
    given = _load(path)
    for automation in given.get("automations") or ():
        for action in automation.get("actions") or ():
            if action.get("type") == "send-notification":
                action["block_document_id"] = UUID(int=0)
    understood = _validate(path, Automations, given)
    for key in unknown_keys(given, understood.model_dump()):
        raise ConfigurationError(f"{path}: unknown key {key}")
    for automation in understood.automations:
        if not automation.name.startswith(OURS):
            raise ConfigurationError(
                f"{path}: an automation that could not be told from others'",
                expected=f"a name that begins with {OURS!r}",
                got=repr(automation.name),
            )
    return understood.automations


def unknown_keys(given: object, understood: object) -> Iterator[str]:
    """The keys that a lenient model has left out of what it was given."""
    pairs: Iterator[tuple[object, object, object]] = iter(())
    if isinstance(given, dict) and isinstance(understood, dict):
        yield from (str(key) for key in given if key not in understood)
        pairs = ((key, value, understood[key]) for key, value in given.items() if key in understood)
    elif isinstance(given, list) and isinstance(understood, list):
        pairs = ((index, *both) for index, both in enumerate(zip(given, understood, strict=True)))
    for key, value, part in pairs:
        yield from (f"{key}.{inner}" for inner in unknown_keys(value, part))


def apply(
    wanted: Wanted, client: SyncPrefectClient, notification: UUID | None, *, check: bool = False
) -> list[Standing]:
    """Make a server what it should be; what is so already isn't touched.

    Args:
        wanted: What that is.
        client: The server's.
        notification: The block that takes notifications; without one they are left out.
        check: Change nothing, only tell.
    """
    steps = [
        *(_work_pool(pool, client) for pool in wanted.capacity.work_pools),
        *(_concurrency_limit(limit, client) for limit in wanted.capacity.concurrency_limits),
        *_automations(wanted.automations, notification, client),
        *(step for deployment in wanted.deployments for step in _stale_schedules(deployment, client)),
    ]
    if check:
        return [standing for standing, _ in steps]
    for _, make in steps:
        make()
    return [Standing(each.what, DONE.get(each.status, each.status), each.fields) for each, _ in steps]


def _step(
    what: str,
    wanted: Mapping[str, Any],
    saved: Found | None,
    create: Callable[[], object],
    update: Callable[[Found], object],
) -> Step:
    if saved is None:
        return Standing(what, "missing"), create
    fields = tuple(field for field, value in wanted.items() if getattr(saved, field) != value)
    if not fields:
        return Standing(what, "unchanged"), _nothing
    return Standing(what, "differs", fields), partial(update, saved)


def _nothing() -> None:
    """What there is to do about an object that is as it should be."""


def _work_pool(pool: WorkPool, client: SyncPrefectClient) -> Step:
    def create() -> None:
        worker = BaseWorker.get_worker_class_from_type(pool.type)
        if worker is None:
            raise ConfigurationError(
                f"no worker for the work pool {pool.name} of type {pool.type}",
                expected=" or ".join(sorted(BaseWorker.get_all_available_worker_types())),
                fix="install the Prefect integration that brings it",
            )
        template = worker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(**pool.model_dump(), base_job_template=template))

    def update(_: object) -> None:
        client.update_work_pool(pool.name, WorkPoolUpdate(description=pool.description))

    saved = _found(client.read_work_pool, pool.name)
    return _step(f"work-pool {pool.name}", {"description": pool.description}, saved, create, update)


def _concurrency_limit(limit: ConcurrencyLimit, client: SyncPrefectClient) -> Step:
    def create() -> None:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=limit.name, limit=limit.limit))

    def update(_: object) -> None:
        client.update_global_concurrency_limit(limit.name, GlobalConcurrencyLimitUpdate(limit=limit.limit, active=True))

    saved = _found(client.read_global_concurrency_limit_by_name, limit.name)
    wanted = {"limit": limit.limit, "active": True}
    return _step(f"concurrency-limit {limit.name}", wanted, saved, create, update)


def _automations(wanted: list[AutomationCore], notification: UUID | None, client: SyncPrefectClient) -> Iterator[Step]:
    saved: dict[str, list[Automation]] = defaultdict(list)
    for automation in _all_automations(client):
        saved[automation.name].append(automation)
    for core in wanted:
        # There are several of a name when some were made by hand from the file.
        same = saved[core.name]
        yield _automation(core, same.pop(0) if same else None, notification, client)
    for name, stale in saved.items():
        if name.startswith(OURS):
            for automation in stale:
                yield Standing(f"automation {name}", "stale"), partial(client.delete_automation, automation.id)


def _automation(
    automation: AutomationCore, saved: Automation | None, notification: UUID | None, client: SyncPrefectClient
) -> Step:
    what = f"automation {automation.name}"
    actions = [
        action.model_copy(update={"block_document_id": notification})
        if isinstance(action, SendNotification)
        else action
        for action in automation.actions
        if notification or not isinstance(action, SendNotification)
    ]
    if not actions:
        return Standing(what, "left out"), _nothing
    # All fields are set, because an update sends no other; but an update may not say who the owner is.
    complete = AutomationCore.model_validate(automation.model_dump(exclude={"owner_resource"}) | {"actions": actions})

    def update(saved: Automation) -> None:
        client.update_automation(saved.id, complete)

    wanted = {field: getattr(complete, field) for field in CONTENT}
    return _step(what, wanted, saved, partial(client.create_automation, complete), update)


def _all_automations(client: SyncPrefectClient) -> list[Automation]:
    found: list[Automation] = []
    while page := client.read_automations(offset=len(found)):
        found += page
    return found


def _stale_schedules(deployment: Deployment, client: SyncPrefectClient) -> Iterator[Step]:
    """The server's schedules of a deployment that its file no longer has; one without a slug was made by hand."""
    saved = _found(client.read_deployment_by_name, deployment.full_name)
    if saved is None:
        return
    slugs = {None, *(schedule.slug for schedule in deployment.schedules)}
    for schedule in saved.schedules:
        if schedule.slug not in slugs:
            delete = partial(client.delete_deployment_schedule, saved.id, schedule.id)
            yield Standing(f"schedule {deployment.full_name} {schedule.slug}", "stale"), delete


def _found(read: Callable[[str], Found], name: str) -> Found | None:
    try:
        return read(name)
    except ObjectNotFound:
        return None


def _load(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read", got=error.strerror or "") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: not valid YAML", got=str(error)) from None


def _validate(path: Path, kind: type[Content], given: object = None) -> Content:
    try:
        return TypeAdapter(kind).validate_python(_load(path) if given is None else given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ConfigurationError(f"{path}: {'.'.join(map(str, first['loc']))}", got=first["msg"]) from None
