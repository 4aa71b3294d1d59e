"""The command ``nyc-tlc``: one subcommand a flow, and quick to say what is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest

from conftest import ROOT
from nyc_tlc.asking.ask import format_csv, format_json, format_lines
from nyc_tlc.asking.door import Answer

FLOWS = sorted(path.stem for path in (ROOT / "flows").glob("*.py"))


def run(*arguments: str) -> tuple[int, str, str, set[str]]:
    """Run Python; return its exit status, what it said, and the packages that were imported."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        env={"PYTHONPATH": str(ROOT / "flows")},
        capture_output=True,
        text=True,
        check=False,
    )
    imported = re.findall(r"^import time:.*\| +(\w+)", done.stderr, re.M)
    said = "".join(line for line in done.stderr.splitlines(keepends=True) if not line.startswith("import time:"))
    return done.returncode, done.stdout, said, set(imported)


def test_the_help_names_every_flow_and_imports_none() -> None:
    status, help_text, _, imported = run("-m", "nyc_tlc", "--help")
    assert status == 0
    assert re.findall(r"^  ([a-z-]+)  +\S", help_text, re.M) == [
        *(each.replace("_", "-") for each in FLOWS),
        "ask",
        "mcp",
    ]
    assert not imported & {"prefect", "polars", "pyarrow", "duckdb", "pydantic"}


@pytest.mark.parametrize("start", [("-m", "nyc_tlc", "etl-month"), (str(ROOT / "flows/etl_month.py"),)])
def test_a_wrong_colour_is_told_before_prefect_is_imported(start: tuple[str, ...]) -> None:
    status, _, said, imported = run(*start, "--color", "purple")
    assert (status, said) == (2, "error: there is no colour 'purple'; expected yellow, green, fhv, fhvhv\n")
    assert not imported & {"prefect", "polars", "pyarrow", "pydantic"}


def test_an_unknown_command_is_a_wrong_argument() -> None:
    status, _, said, _ = run("-m", "nyc_tlc", "etl")
    assert status == 2
    assert said.startswith("error: there is no command 'etl'; expected backfill, ")
    assert said.count("\n") == 1


def test_without_the_extra_the_error_says_how_to_install_it() -> None:
    without = "import sys; sys.modules['mcp'] = None; sys.argv = ['nyc-tlc', 'mcp']"
    status, _, said, _ = run("-c", f"{without}; from nyc_tlc.__main__ import main; main()")
    assert (status, said.count("\n")) == (1, 1)
    assert said.endswith("pip install '.[mcp]'\n")


def test_the_help_of_a_flow_names_the_command_that_was_called() -> None:
    # Without a list of what is imported, which takes twice as long here.
    command = [sys.executable, "-m", "nyc_tlc", "months", "--help"]
    help_text = subprocess.check_output(command, env={"PYTHONPATH": str(ROOT / "flows")}, text=True)
    assert help_text.startswith("Usage: nyc-tlc months [OPTIONS]")
    assert "--warehouses" in help_text


def test_answers_are_safe_to_show_and_valid_to_read() -> None:
    answer = Answer(["n", "text"], [(float("nan"), "a\x1b[2J\n|b"), (1.5, None)], is_cut=False)
    assert "\x1b" not in format_lines(answer)
    assert len(format_lines(answer).splitlines()) == 4
    assert format_json(answer) == '[{"n":null,"text":"a\\u001b[2J\\n|b"},\n {"n":1.5,"text":null}]\n'
    assert format_csv(answer) == 'n,text\nnan,"a\x1b[2J\n|b"\n1.5,\n'


def test_every_package_is_in_the_wheel() -> None:
    packages = {path.parent.name for path in (ROOT / "flows/nyc_tlc").glob("*/__init__.py")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    assert listed == {"nyc_tlc", "nyc_tlc.flows", *(f"nyc_tlc.{name}" for name in packages)}
