"""What a Prefect server has for the deployments: work pools, concurrency limits and automations, as YAML says.

Each is found by its name, compared, and made or changed only where it differs. Two things are removed: automations of
ours that have left their file, and schedules of our deployments that have left ``prefect.yaml``, which
``prefect deploy`` keeps. Whatever else the server has is someone else's.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

import httpx
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.objects import BlockDocument
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.workers.base import BaseWorker
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nyc_tlc.errors import ConfigurationError, TlcError, TransientError

Status = Literal["created", "updated", "removed", "unchanged", "missing", "differs", "stale", "left out"]
#: What making it right turns the status of an object into.
DONE: dict[Status, Status] = {"missing": "created", "differs": "updated", "stale": "removed"}

#: The blocks that take notifications; a profile has one of them at most.
NOTIFICATIONS = ("slack-webhook", "sendgrid-email", "custom-webhook")

#: How the names of our automations begin.
OURS = "nyc-tlc: "
#: What an automation says besides its name.
CONTENT = ("description", "enabled", "tags", "trigger", "actions", "actions_on_trigger", "actions_on_resolve")

Content = TypeVar("Content", bound=BaseModel)
Found = TypeVar("Found")


class Part(BaseModel):
    """A part of a file of ours: unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class WorkPool(Part):
    """A work pool; ``type`` is for making it, because a pool can't change it.

    Without a ``base_job_template``, Prefect's own is for making it, and what became of that is left alone.
    """

    name: str
    type: str
    description: str
    base_job_template: dict[str, Any] | None = None


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


@contextlib.contextmanager
def answered() -> Iterator[None]:
    """Turn a refusal of the Prefect API into one line: its answer repeats what was sent, secrets too.

    Raises:
        TransientError: when it can't be reached.
        TlcError: when it refuses.
    """
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise TlcError(
            f"the Prefect API answered {error.response.status_code}",
            fix="PREFECT_API_URL, PREFECT_API_KEY and PREFECT_API_AUTH_STRING say which API and who you are there",
        ) from None
    except httpx.TransportError as error:
        raise TransientError(
            "the Prefect API can't be reached",
            got=type(error).__name__,
            fix="start it, or look where PREFECT_API_URL points",
        ) from None


def block_name(profile: str) -> str:
    """The name that all blocks of a profile have."""
    return f"taxi-{profile}"


def saved_block(slug: str, name: str, client: SyncPrefectClient) -> BlockDocument | None:
    """A block with its secrets, None when there is none of that type and name."""
    try:
        return client.read_block_document_by_name(name, slug, include_secrets=True)
    except ObjectNotFound:
        return None


def notification(profile: str, client: SyncPrefectClient) -> UUID | None:
    """The block that takes a profile's notifications, None when it has none."""
    saved = (saved_block(slug, block_name(profile), client) for slug in NOTIFICATIONS)
    return next((block.id for block in saved if block), None)


def read_wanted(root: Path) -> Wanted:
    """What the files of a checkout say that its server should have.

    Args:
        root: The checkout.

    Raises:
        ConfigurationError: naming the file and the mistake.
    """
    capacity, deployments = root / "deployments/server.yaml", root / "prefect.yaml"
    return Wanted(
        validated(capacity, Capacity, load_yaml(capacity)),
        read_automations(root / "deployments/automations.yaml"),
        validated(deployments, Deployments, load_yaml(deployments)).deployments,
    )


def read_automations(path: Path) -> list[AutomationCore]:
    """The automations of a file. Its notifications have no block; what they get here is no block either.

    Raises:
        ConfigurationError: naming the mistake; a key that Prefect would ignore is one.
    """
    given = _with_no_block(load_yaml(path))
    understood = validated(path, Automations, given)
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


def _with_no_block(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_no_block(part) for part in node]
    if not isinstance(node, dict):
        return node
    no_block = {"block_document_id": UUID(int=0)} if node.get("type") == "send-notification" else {}
    return {key: _with_no_block(part) for key, part in node.items()} | no_block


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
    wanted: Wanted,
    client: SyncPrefectClient,
    notification: UUID | None,
    *,
    pools: Sequence[WorkPool] = (),
    check: bool = False,
) -> list[Standing]:
    """Make a server what it should be; what is so already isn't touched.

    Args:
        wanted: What that is.
        client: The server's.
        notification: The block that takes notifications; without one they are left out.
        pools: Work pools that it should have besides.
        check: Change nothing, only tell.
    """
    steps = [
        *(_work_pool(pool, client) for pool in [*wanted.capacity.work_pools, *pools]),
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


def default_template(type_: str) -> dict[str, Any]:
    """Prefect's own base job template for a type of work pool.

    An integration that is installed brings its own; for others, Prefect has a copy. It is read here and not asked of
    the server, which would look on the internet first.

    Raises:
        ConfigurationError: when there is no such type.
    """
    if worker := BaseWorker.get_worker_class_from_type(type_):
        return worker.get_default_base_job_template()
    view = resources.files("prefect") / "server/api/collections_data/views/aggregate-worker-metadata.json"
    found: dict[str, dict[str, Any]] = {}
    for integration in json.loads(view.read_bytes()).values():
        found |= integration
    if type_ not in found:
        raise ConfigurationError(f"there is no work pool of type {type_}", expected=" or ".join(sorted(found)))
    template: dict[str, Any] = found[type_]["default_base_job_configuration"]
    return template


def _work_pool(pool: WorkPool, client: SyncPrefectClient) -> Step:
    wanted = pool.model_dump(include={"description", "base_job_template"}, exclude_none=True)

    def create() -> None:
        template = pool.base_job_template or default_template(pool.type)
        client.create_work_pool(WorkPoolCreate(**pool.model_dump() | {"base_job_template": template}))

    def update(_: object) -> None:
        client.update_work_pool(pool.name, WorkPoolUpdate(**wanted))

    saved = _found(client.read_work_pool, pool.name)
    if saved and pool.base_job_template and saved.type != pool.type:
        raise ConfigurationError(
            f"the work pool {pool.name} is of another type",
            expected=pool.type,
            got=saved.type,
            fix=f"delete it: prefect work-pool delete {pool.name}",
        )
    return _step(f"work-pool {pool.name}", wanted, saved, create, update)


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


def load_yaml(path: Path) -> Any:
    """A YAML file's content.

    Raises:
        ConfigurationError: when it can't be read, or isn't YAML.
    """
    try:
        return yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read", got=error.strerror or "") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: not valid YAML", got=str(error)) from None


def validated(path: Path, kind: type[Content], given: object) -> Content:
    """A YAML file's content as a model, errors in one line.

    Raises:
        ConfigurationError: naming the file, the first thing that is not right, and why.
    """
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigurationError(f"{path}: {where} is not right", got=first["msg"]) from None
