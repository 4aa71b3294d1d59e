"""Work pools for runs elsewhere: what ``deployments/pools/*.yaml`` say over Prefect's own base job templates.

A file has the defaults of a template's variables, and what its job configuration has besides. ``${VAR}`` and
``${VAR:-default}`` are filled in after the YAML was parsed, and what comes out empty is left to Prefect.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.utilities.schema_tools import validate

from nyc_tlc.errors import ConfigurationError
from nyc_tlc.profiles.blocks import VARIABLE
from nyc_tlc.server.server import Part, WorkPool, default_template, load_yaml, validated


class PoolFile(Part):
    """A file's content."""

    name: str
    type: str
    description: str
    variables: dict[str, Any] = {}
    job_configuration: dict[str, Any] = {}


def read_pool(path: Path, variables: Mapping[str, str]) -> WorkPool:
    """The work pool that a file describes, with its whole base job template.

    Args:
        path: The YAML file.
        variables: What ``${VAR}`` stands for.

    Raises:
        ConfigurationError: naming the file and the mistake: a variable that isn't set, one that Prefect's template
            doesn't have, or a value that it doesn't take.
    """
    file = validated(path, PoolFile, _filled_in(load_yaml(path), variables, path))
    template = copy.deepcopy(default_template(file.type))
    properties = template["variables"]["properties"]
    if unknown := sorted(file.variables.keys() - properties.keys()):
        raise ConfigurationError(f"{path}: unknown variable {unknown[0]}", expected=", ".join(sorted(properties)))
    for error in validate(file.variables, template["variables"]):
        raise ConfigurationError(f"{path}: variables.{'.'.join(map(str, error.path))} is not right", got=error.message)
    for name, value in file.variables.items():
        properties[name]["default"] = value
    template["job_configuration"] = _merged(template["job_configuration"], file.job_configuration)
    return WorkPool(name=file.name, type=file.type, description=file.description, base_job_template=template)


def _filled_in(part: Any, variables: Mapping[str, str], path: Path) -> Any:
    """A part of a file with its variables filled in, without what is empty then."""
    if isinstance(part, dict):
        values = {key: _filled_in(value, variables, path) for key, value in part.items()}
        return {key: value for key, value in values.items() if value != ""}
    if isinstance(part, list):
        return [_filled_in(value, variables, path) for value in part]
    if not isinstance(part, str):
        return part

    def value(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        given = variables.get(name) or default
        if given is None:
            raise ConfigurationError(f"{path}: the variable {name} is not set", fix="set it, or write the value there")
        return given

    return VARIABLE.sub(value, part)


def _merged(ours: Any, over: Any) -> Any:
    """Mappings are merged; anything else is replaced."""
    if isinstance(ours, dict) and isinstance(over, dict):
        return ours | {key: _merged(ours.get(key), value) for key, value in over.items()}
    return over
