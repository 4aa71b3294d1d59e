"""Read this project's YAML files: replace ``${VAR}``, check them with a model, and report errors with their line.

Variables are replaced after the YAML is parsed, so a value can't break it. Errors name the file, the line and the key
but never a value, because a value may be a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, ValidationError

from nyc_tlc.errors import ConfigurationError
from nyc_tlc.settings import CLONE

#: A place in a file: the keys and list indexes that lead to it.
Location = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

#: ``${NAME}`` or ``${NAME:-default}``; also ``${`` alone, which is an error.
VARIABLE = re.compile(r"\$\{(?:(?P<name>[A-Za-z_]\w*)(?::-(?P<default>[^{}]*))?\})?")


class StrictModel(BaseModel):
    """A part of a YAML file: unknown keys are errors, and no error shows a value."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def read_variables() -> dict[str, str]:
    """Return the values for ``${VAR}``: from the environment, then from ``.env`` in the clone."""
    from_file = {name: value for name, value in dotenv_values(CLONE / ".env").items() if value is not None}
    return from_file | dict(os.environ)


class YamlFile:
    """A YAML file's content, and the line of each of its keys.

    Attributes:
        path: The file.
        content: Its content. If variables are replaced, a value that becomes empty is left out, and so is a section
            that becomes empty; a key of the top level that was written without a value stays.
    """

    def __init__(self, path: Path, variables: Mapping[str, str] | None = None, *, as_text: bool = False) -> None:
        """Read the file.

        Args:
            path: The file.
            variables: The values for ``${VAR}``; None to replace nothing.
            as_text: Read all values as text: a password of digits is not a number.

        Raises:
            ConfigurationError: when it can't be read or isn't YAML, has a key twice, or a variable is not set.
        """
        self.path, self._variables = path, variables
        self._lines: dict[Location, int] = {(): 1}
        self._unset: list[tuple[str, Location]] = []
        self._seen: set[int] = set()
        self.content: Any = None
        try:
            loader = (yaml.BaseLoader if as_text else yaml.SafeLoader)(path.read_bytes())
            if root := loader.get_single_node():
                self._visit(root, ())
                self.content = loader.construct_document(root)
        except OSError as error:
            raise ConfigurationError(f"{path} can't be read", got=error.strerror or "") from None
        except yaml.YAMLError as error:
            raise self._not_yaml(error) from None
        if self._unset:
            missing = "; ".join(f"{self._place(where)}: the variable {name} is not set" for name, where in self._unset)
            names = " and ".join(dict.fromkeys(name for name, _ in self._unset))
            raise ConfigurationError(missing, fix=f"export {names} or write it into .env, then run this again")
        if variables is not None and isinstance(self.content, dict):
            filled = ((key, value, _remove_empty(value)) for key, value in self.content.items())
            self.content = {key: part for key, value, part in filled if part != "" or value == ""}

    def mistake(self, location: Location, what: str, **evidence: str) -> ConfigurationError:
        """Return an error with the file and the line of a key."""
        return ConfigurationError(f"{self._place(location)}: {what}", **evidence)

    def validate(self, model: type[Model], content: Any, location: Location = ()) -> Model:
        """Return a part of the file as a model.

        Args:
            model: Its class.
            content: The part.
            location: Where it is in the file.

        Raises:
            ConfigurationError: naming file, line, key, the first mistake and the keys that are allowed.
        """
        try:
            return model.model_validate(content)
        except ValidationError as error:
            raise self.explain(error, model, location) from None

    def explain(self, error: ValidationError, model: type[BaseModel], location: Location = ()) -> ConfigurationError:
        """Return the error for the first mistake in a part of the file, without the value."""
        mistakes = error.errors(include_url=False, include_input=False, include_context=False)
        # A misspelt key comes before the one that is missing because of it.
        first = min(mistakes, key=lambda mistake: mistake["type"] != "extra_forbidden")
        where = (*location, *first["loc"])
        key = ".".join(map(str, where)) or "the file"
        match first["type"]:
            case "extra_forbidden":
                return self.mistake(where, f"unknown key {key}", expected=_allowed_keys(model, first["loc"][:-1]))
            case "missing":
                expected = _allowed_keys(model, first["loc"][:-1])
                return self.mistake(where, f"{key} is missing or empty", expected=expected)
            case "model_type" | "model_attributes_type":
                return self.mistake(where, f"{key} has to have keys", expected=_allowed_keys(model, first["loc"]))
        return self.mistake(where, f"{key}: {first['msg'].removeprefix('Value error, ')}")

    def _place(self, location: Location) -> str:
        """Return file and line of a key, or of the nearest key around it."""
        while location not in self._lines:
            location = location[:-1]
        return f"{self.path}:{self._lines[location]}"

    def _visit(self, node: yaml.Node, location: Location) -> None:
        """Record the lines of a node's keys, and replace the variables in its values."""
        if id(node) in self._seen:
            return  # an alias of a node that was visited before
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner, line = (*location, str(key.value)), key.start_mark.line + 1
                if inner in self._lines:
                    raise self.mistake(inner, f"the key {key.value!r} is repeated in line {line}")
                self._lines[inner] = line
                self._visit(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._lines[*location, index] = item.start_mark.line + 1
                self._visit(item, (*location, index))
        elif self._variables is not None and node.tag == "tag:yaml.org,2002:str":
            node.value = VARIABLE.sub(lambda match: self._replace_variable(match, location), node.value)

    def _replace_variable(self, match: re.Match[str], location: Location) -> str:
        name, default = match["name"], match["default"]
        if name is None:
            raise self.mistake(location, "a ${ without a variable", expected="${NAME} or ${NAME:-default}")
        value = (self._variables or {}).get(name) or default
        if value is None:
            self._unset.append((name, location))
        return value or ""

    def _not_yaml(self, error: yaml.YAMLError) -> ConfigurationError:
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
            self._lines[()] = error.problem_mark.line + 1
        # The text of other errors quotes the file.
        problem = error.problem if isinstance(error, yaml.scanner.ScannerError | yaml.parser.ParserError) else None
        return self.mistake((), "not valid YAML", got=problem or type(error).__name__)


def _remove_empty(part: Any) -> Any:
    """Return a part without empty values; ``""`` if nothing is left. A value that was written as ``{}`` stays."""
    if isinstance(part, dict):
        kept: Any = {key: value for key, each in part.items() if (value := _remove_empty(each)) != ""}
    elif isinstance(part, list):
        kept = [value for each in part if (value := _remove_empty(each)) != ""]
    else:
        return part
    return kept if kept or not part else ""


def _allowed_keys(model: type[BaseModel], location: Location) -> str:
    """Return the keys that a model allows at a location; empty if the value there has no model."""
    annotation: Any = model
    try:
        for key in location:
            annotation = get_args(annotation)[0] if isinstance(key, int) else annotation.model_fields[key].annotation
        return ", ".join(annotation.model_fields) or "no keys"
    except (AttributeError, IndexError, KeyError):
        return ""
