"""The documents agree with the program."""

import importlib
import inspect
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT, PrefectServer, Profile
from factories import without_version
from nyc_tlc.descriptions.dictionary import make_dictionary
from nyc_tlc.errors import ConfigurationError
from nyc_tlc.settings import read_settings

README = (ROOT / "README.md").read_text(encoding="utf-8")


def console_blocks() -> list[str]:
    """Return the terminal sessions in the README."""
    return re.findall(r"```console\n(.*?)```", README, re.DOTALL)


def test_the_first_output_in_the_readme_is_the_real_one(prefect_server: PrefectServer, tmp_path: Path) -> None:
    command, _, shown = console_blocks()[0].partition("\n")
    assert command == "$ make run"
    recipe = subprocess.run(
        ["make", "--no-print-directory", "-n", "run", "ARGS="], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    home, _, script, *arguments = shlex.split(recipe.splitlines()[-1])
    shutil.copytree(ROOT / "flows", tmp_path / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "prefect.yaml", tmp_path)
    done = prefect_server.run(str(tmp_path / script), *arguments, cwd=tmp_path, TLC_HOME=home.removeprefix("TLC_HOME="))
    assert done.returncode == 0, done.stderr
    output = re.sub(r"look at it: \S+ ", "look at it: .venv/bin/python ", done.stdout)
    assert without_version(output) == without_version(shown)


def test_every_flag_in_the_readme_exists() -> None:
    commands = "".join(console_blocks()).replace("\\\n", " ")
    shown = re.findall(r"python flows/(\w+)\.py([^\n#]*)", commands)
    assert len({name for name, _ in shown}) >= 7
    for name, arguments in shown:
        flow = getattr(importlib.import_module(name), name)
        known = set(inspect.signature(flow.fn).parameters)
        assert {flag.replace("-", "_") for flag in re.findall(r" --([a-z-]+)", arguments)} <= known, arguments


def test_the_reference_is_what_the_signatures_and_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    made = importlib.import_module("reference").make_reference()
    assert (ROOT / "docs/reference.md").read_text(encoding="utf-8") == made
    for option in ("| `--color` | `yellow` |", "| `--layout` | `month` |", "| `TLC_HTTP_RETRIES` | `6` |"):
        assert option in made


def test_the_messages_in_the_readme_are_those_that_the_program_prints() -> None:
    section = README.partition("## When something goes wrong")[2].partition("\n## ")[0]
    messages = re.findall(r"^\| `([^`]+)` \|", section, re.M)
    assert len(messages) > 10
    sources = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "flows").rglob("*.py")))
    for message in messages:
        if not message.startswith("… and the lake's bucket"):
            parts = [part.strip(" :;") for part in message.split("…")]
            assert all(part in sources for part in parts), message


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MAX_REJECTED", "abc", "expected a valid number; got abc"),
        ("MAX_REJECTED", "101", "expected less than or equal to 100; got 101"),
        ("SOURCE_SCHEMES", "ftp", "expected some of https, http, file, sample, separated by commas; got ftp"),
    ],
)
def test_a_setting_that_cannot_be_used_says_what_is_allowed(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"TLC_{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        read_settings()
    assert str(caught.value) == f"the setting TLC_{name} is not usable; {message}"


def readme_commands() -> list[str]:
    """Return the README's commands that run this project's scripts and end; servers and workers do not end."""
    text = "".join(console_blocks()).replace("\\\n", " ")
    commands = re.findall(r"^\$ (.+?)(?:\s{2,}#.*)?$", text, re.M)
    return [each for each in commands if not re.search(r"^export |prefect |^make (test|dbt)|apply\.py", each)]


@pytest.mark.torture
@pytest.mark.timeout(600)
def test_every_command_of_the_readme_works_as_it_is_written(
    dev: Profile, gcp: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the commands with samples, because there is no network. Commands for deployments have their own tests."""
    for name in ("flows", "blocks", "dbt", "docs", ".venv", ".venv-dbt", "Makefile", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    for lock in ROOT.glob("requirements*.lock"):
        shutil.copy2(lock, tmp_path)
    for profile in (dev, gcp):
        assert profile.register().returncode == 0
        month = ("--source", "sample", "--color", "green", "--year", "2024", "--month", "1")
        assert profile.run("etl_web_to_gcs", *month).returncode == 0
    environment = gcp.server.environment(**gcp.environment, **dev.variables) | {
        "TLC_SOURCE": "sample",
        "TLC_SAMPLE_ROWS": "300",
        "TLC_HOME": "data",
    }
    commands = readme_commands()
    assert len(commands) > 15
    for command in commands:
        written = command.replace("--source dtc", "--source sample").replace("file:///data/", "sample:///")
        done = subprocess.run(
            ["bash", "-c", re.sub(r"'sample:///\S+'", "sample", written)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_the_data_dictionary_is_what_the_contracts_say() -> None:
    assert (ROOT / "docs" / "data-dictionary.md").read_text(encoding="utf-8") == make_dictionary()


@pytest.mark.parametrize(
    "document", [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("**/*.md")) if ".venv" not in path.parts]
)
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("http"):
            assert (ROOT / document).parent.joinpath(target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("document", ["docs/security.md", "tests/RELIABILITY.md"])
def test_every_test_that_a_document_names_exists(document: str) -> None:
    named = set(re.findall(r"\b(test_\w{8,})\b(?!\.py)", (ROOT / document).read_text(encoding="utf-8")))
    files = [*(ROOT / "tests").rglob("test_*.py")]
    written = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8"))}
    assert len(named) > 10
    assert named <= written | {file.stem for file in files}


def test_the_lock_files_name_no_index_and_hash_every_version() -> None:
    for name in ("requirements-install.lock", "requirements.lock", "requirements-all.lock"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "://" not in text
        assert "index-url" not in text
        assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?=\w)", text))
