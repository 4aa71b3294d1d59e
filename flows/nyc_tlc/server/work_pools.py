"""Work pools: ``taxi`` with Prefect's own base job template, and those of ``deployments/pools/*.yaml``.

A file has defaults for the template's variables, and additions to its job configuration. ``${VAR}`` and
``${VAR:-default}`` are replaced; a key whose value becomes empty is left out, so Prefect's default applies.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from prefect.utilities.schema_tools import validate
from prefect.workers.base import BaseWorker

from nyc_tlc.comparison import Comparison, compare
from nyc_tlc.errors import ConfigurationError
from nyc_tlc.yaml_files import StrictModel, YamlFile


class WorkPool(StrictModel):
    """A work pool. ``type`` is used only to create it, because a pool's type can't be changed.

    Without a ``base_job_template``, the pool is created with Prefect's own, and later changes of that stay.
    """

    name: str
    type: str
    description: str
    variables: dict[str, Any] = {}
    job_configuration: dict[str, Any] = {}
    base_job_template: dict[str, Any] | None = None


def read_pool(path: Path, variables: Mapping[str, str]) -> WorkPool:
    """Read a work pool from a file, with its complete base job template.

    Args:
        path: The YAML file.
        variables: The values for ``${VAR}``.

    Raises:
        ConfigurationError: when a variable is not set, is not in Prefect's template, or has a value that the template
            does not accept; it names file and line.
    """
    file = YamlFile(path, variables)
    pool = file.validate(WorkPool, file.content)
    template = copy.deepcopy(default_template(pool.type))
    properties = template["variables"]["properties"]
    if unknown := sorted(pool.variables.keys() - properties.keys()):
        location, expected = ("variables", unknown[0]), ", ".join(sorted(properties))
        raise file.mistake(location, f"unknown variable {unknown[0]}", expected=expected)
    for problem in validate(pool.variables, template["variables"]):
        location = ("variables", *problem.path)
        raise file.mistake(location, f"{'.'.join(map(str, location))} is not usable", got=problem.message)
    for name, value in pool.variables.items():
        properties[name]["default"] = value
    template["job_configuration"] = _merge(template["job_configuration"], pool.job_configuration)
    return pool.model_copy(update={"base_job_template": template})


def compare_work_pool(pool: WorkPool, client: SyncPrefectClient) -> Comparison:
    """Compare a work pool with the server's.

    Raises:
        ConfigurationError: when the server's pool has another type.
    """
    wanted = pool.model_dump(include={"description", "base_job_template"}, exclude_none=True)

    def create() -> None:
        new = {"name": pool.name, "type": pool.type, "base_job_template": default_template(pool.type)} | wanted
        client.create_work_pool(WorkPoolCreate(**new))

    def update(_: object) -> None:
        client.update_work_pool(pool.name, WorkPoolUpdate(**wanted))

    saved = None
    with contextlib.suppress(ObjectNotFound):
        saved = client.read_work_pool(pool.name)
    if saved and pool.base_job_template and saved.type != pool.type:
        raise ConfigurationError(
            f"the work pool {pool.name} is of another type",
            expected=pool.type,
            got=saved.type,
            fix=f"delete it: .venv/bin/prefect work-pool delete {pool.name}",
        )
    return compare(f"work-pool {pool.name}", wanted, saved, create, update)


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
    found: dict[str, dict[str, Any]] = {}
    for integration in json.loads(view.read_bytes()).values():
        found |= integration
    if type_ not in found:
        raise ConfigurationError(f"there is no work pool of type {type_}", expected=" or ".join(sorted(found)))
    template: dict[str, Any] = found[type_]["default_base_job_configuration"]
    return template


def _merge(ours: Any, over: Any) -> Any:
    """Merge mappings key by key; replace any other value."""
    if isinstance(ours, dict) and isinstance(over, dict):
        return ours | {key: _merge(ours.get(key), value) for key, value in over.items()}
    return over
