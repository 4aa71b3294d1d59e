"""Every command on the page for people from the course is valid."""

import importlib
import inspect
import re
import shlex

import pytest

from conftest import ROOT

PAGE = (ROOT / "docs" / "coming-from-the-course.md").read_text(encoding="utf-8").replace("\n", " ")
COMMANDS = sorted(set(re.findall(r"`python flows/(\w+\.py [^`]+)`", PAGE)))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_on_the_page_is_accepted(command: str) -> None:
    script, *arguments = shlex.split(command)
    name = script.removesuffix(".py")
    flow = getattr(importlib.import_module(name), name)
    known = inspect.signature(flow.fn).parameters
    assert {flag.removeprefix("--") for flag in arguments if flag.startswith("--")} <= set(known)


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) >= 4
