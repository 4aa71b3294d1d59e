"""Read this project's YAML files, fill in their variables and check them with models.

Variables are filled in after the YAML is parsed, so a value can't break it. Errors name the file and the key but never
a value, because a value may be a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from nyc_tlc.errors import ConfigurationError
from nyc_tlc.settings import CLONE

#: The keys and list indexes that lead to a place in a file.
Location = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

#: ``${NAME}`` or ``${NAME:-default}``; also ``${`` alone, which is an error.
VARIABLE = re.compile(r"\$\{(?:(?P<name>[A-Za-z_]\w*)(?::-(?P<default>[^{}]*))?\})?")


class StrictModel(BaseModel):
    """A part of a YAML file: unknown keys are errors, and no error shows a value."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, content: Any) -> Any:
        keys = [field.alias or name for name, field in cls.model_fields.items()]
        allowed = ", ".join(keys) or "no keys"
        if not isinstance(content, dict):
            raise ValueError(f"it has to have keys; expected {allowed}")
        if unknown := [key for key in content if key not in keys]:
            raise ValueError(f"unknown key {unknown[0]}; expected {allowed}")
        return content


class _Loader(yaml.SafeLoader):
    """A loader that refuses a repeated key; PyYAML's own takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if repeated := next((key for key in keys if keys.count(key) > 1), None):
            raise ConfigurationError(f"{self.name}: the key {repeated!r} is repeated")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file.

    Raises:
        ConfigurationError: when the file can't be read or isn't YAML, or has a key twice.
    """
    try:
        with path.open("rb") as stream:
            return _Loader(stream).get_single_data()
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read", got=error.strerror or "") from None
    except (yaml.scanner.ScannerError, yaml.parser.ParserError) as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigurationError(f"{path}: not valid YAML{line}", got=error.problem or "") from None
    except yaml.YAMLError as error:
        # The text of these errors quotes the file.
        raise ConfigurationError(f"{path}: not valid YAML", got=type(error).__name__) from None


def read_variables() -> dict[str, str | None]:
    """Return the values for ``${VAR}``: from the environment, then from ``.env`` in the clone."""
    return {**dotenv_values(CLONE / ".env"), **os.environ}


def fill_in(content: Any, variables: Mapping[str, str | None], path: Path) -> Any:
    """Replace the variables in a file's content.

    A value that comes out empty is left out, and so is a mapping or a list of which nothing is left.

    Raises:
        ConfigurationError: naming every variable that is not set, and its key.
    """
    unset: dict[str, str] = {}

    def replace(match: re.Match[str], location: Location) -> str:
        name, default = match["name"], match["default"]
        if name is None:
            what = f"{path}: {name_key(location)}: a ${{ without a variable"
            raise ConfigurationError(what, expected="${NAME} or ${NAME:-default}")
        value = variables.get(name) or default
        if value is None:
            unset[f"{path}: {name_key(location)}: the variable {name} is not set"] = name
        return value or ""

    def fill(part: Any, location: Location) -> Any:
        if isinstance(part, str):
            return VARIABLE.sub(lambda match: replace(match, location), part)
        if not isinstance(part, dict | list):
            return part
        places = part.items() if isinstance(part, dict) else enumerate(part)
        filled = {key: value for key, each in places if (value := fill(each, (*location, key))) != ""}
        if part and not filled:
            return ""
        return filled if isinstance(part, dict) else list(filled.values())

    filled = fill(content, ())
    if unset:
        names = " and ".join(dict.fromkeys(unset.values()))
        raise ConfigurationError("; ".join(unset), fix=f"export {names} or write it into .env, then run this again")
    return filled


def validate(
    model: type[Model], content: Any, path: Path, location: Location = (), extra: Literal["forbid"] | None = None
) -> Model:
    """Return a part of a file as a model; ``extra`` is for models that are not strict themselves.

    Raises:
        ConfigurationError: naming the file, the key, the first mistake and the keys that are allowed.
    """
    try:
        return model.model_validate(content, extra=extra)
    except ValidationError as error:
        raise explain(error, path, location) from None


def explain(error: ValidationError, path: Path, location: Location) -> ConfigurationError:
    """Return the error for the first mistake in a part of a file, without the value."""
    mistakes = error.errors(include_url=False, include_input=False, include_context=False)
    # A value was tried as each of the types it can have; those that its own type excludes say nothing about it.
    others = {each["loc"][:-1] for each in mistakes if each["type"] == "literal_error" and each["loc"][-1] == "type"}
    first = next((each for each in mistakes if each["loc"][:-1] not in others), mistakes[0])
    what = {"missing": "missing or empty", "extra_forbidden": "unknown key"}.get(first["type"], first["msg"])
    parts = (str(path), name_key((*location, *first["loc"])), what.removeprefix("Value error, "))
    return ConfigurationError(": ".join(filter(None, parts)))


def name_key(location: Location) -> str:
    """Return a key with the keys around it: ``gcs-bucket.bucket``."""
    return ".".join(map(str, location))
