"""Automations: what the server does by itself, from ``deployments/automations.yaml``.

Their names all begin with NAME_PREFIX. So automations that are no longer in the file can be found and removed, and no
others are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore

from nyc_tlc.comparison import Comparison, compare
from nyc_tlc.yaml_files import Location, StrictModel, YamlFile

#: The names of this project's automations begin with it.
NAME_PREFIX = "nyc-tlc: "
#: The fields of an automation that are compared.
FIELDS = ("description", "enabled", "tags", "trigger", "actions", "actions_on_trigger", "actions_on_resolve")


class AutomationsFile(StrictModel):
    """The content of ``deployments/automations.yaml``."""

    automations: list[AutomationCore]


def read_automations(path: Path) -> list[AutomationCore]:
    """Read the automations of a file.

    Raises:
        ConfigurationError: when it has a mistake, such as a key that Prefect would ignore.
    """
    file = YamlFile(path)
    automations = file.validate(AutomationsFile, file.content)
    for location in unknown_keys(file.content, automations.model_dump()):
        raise file.mistake(location, f"unknown key {'.'.join(map(str, location))}")
    for index, automation in enumerate(automations.automations):
        if not automation.name.startswith(NAME_PREFIX):
            raise file.mistake(
                ("automations", index, "name"),
                "the automation's name does not show that it belongs to this project",
                expected=f"a name that begins with {NAME_PREFIX!r}",
                got=repr(automation.name),
            )
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


def compare_automations(
    wanted: list[AutomationCore], notification: UUID | None, client: SyncPrefectClient
) -> Iterator[Comparison]:
    """Compare automations with the server's. Those no longer in the file, and second ones of a name, are stale.

    Args:
        wanted: The automations of the file.
        notification: The block that sends notifications; without one, notifications are left out.
        client: The server's client.
    """
    saved: dict[str, list[Automation]] = defaultdict(list)
    for automation in _all_automations(client):
        saved[automation.name].append(automation)
    for core in wanted:
        # A name is there twice if someone also created the automation by hand from the file.
        same = saved[core.name]
        yield _compare(core, same.pop(0) if same else None, notification, client)
    for name, stale in saved.items():
        if name.startswith(NAME_PREFIX):
            for automation in stale:
                delete = partial(client.delete_automation, automation.id)
                yield Comparison(f"automation {name}", "stale", change=delete)


def _compare(
    automation: AutomationCore, saved: Automation | None, notification: UUID | None, client: SyncPrefectClient
) -> Comparison:
    notifies = [isinstance(action, SendNotification) for action in automation.actions]
    if not notification and all(notifies):
        return Comparison(f"automation {automation.name}", "left out")
    actions = [
        action.model_copy(update={"block_document_id": notification}) if is_notification else action
        for action, is_notification in zip(automation.actions, notifies, strict=True)
        if notification or not is_notification
    ]
    # An update sends only fields that are set, so all are set; except the owner, which an update may not send.
    complete = AutomationCore.model_validate(automation.model_dump(exclude={"owner_resource"}) | {"actions": actions})
    return compare(
        f"automation {automation.name}",
        {field: getattr(complete, field) for field in FIELDS},
        saved,
        partial(client.create_automation, complete),
        lambda saved: client.update_automation(saved.id, complete),
    )


def _all_automations(client: SyncPrefectClient) -> list[Automation]:
    found: list[Automation] = []
    while page := client.read_automations(offset=len(found)):
        found += page
    return found
