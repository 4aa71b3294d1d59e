"""What the documents say is so."""

import importlib
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, PrefectServer
from etl_web_to_gcs import etl_web_to_gcs
from factories import without_version
from nyc_tlc.contract.dictionary import dictionary
from nyc_tlc.settings import Settings

README = (ROOT / "README.md").read_text(encoding="utf-8")


def console_blocks() -> list[str]:
    """The terminal sessions the README shows."""
    return re.findall(r"```console\n(.*?)```", README, re.DOTALL)


def test_the_first_output_in_the_readme_is_the_real_one(prefect_server: PrefectServer, tmp_path: Path) -> None:
    command, _, shown = console_blocks()[0].partition("\n")
    assert command == "$ make run"
    recipe = subprocess.run(
        ["make", "--no-print-directory", "-n", "run", "ARGS="], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    home, _, script, *arguments = shlex.split(recipe.splitlines()[-1])
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=tmp_path,
        env=prefect_server.environment(TLC_HOME=home.removeprefix("TLC_HOME="), PYTHONPATH=str(ROOT / "flows")),
        capture_output=True,
        text=True,
        check=False,
    )
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


def test_the_readme_lists_every_option_and_setting_with_its_default() -> None:
    for name in inspect.signature(etl_web_to_gcs.fn).parameters:
        assert f"`--{name}`" in README
    for name, field in Settings.model_fields.items():
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        assert f"| `TLC_{name.upper()}` | `{default}` |" in README


def test_the_data_dictionary_is_what_the_contracts_say() -> None:
    assert (ROOT / "docs" / "data-dictionary.md").read_text(encoding="utf-8") == dictionary()


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


def test_the_lock_files_name_no_index_and_hash_every_version() -> None:
    for name in ("requirements.lock", "requirements-dev.lock", "requirements-bench.lock"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "://" not in text
        assert "index-url" not in text
        assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?=\w)", text))
