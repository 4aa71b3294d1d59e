"""The notebook in docs/ runs from its first cell to its last, and draws its plots."""

import runpy
from pathlib import Path

import nbformat
import pytest

from conftest import ROOT


@pytest.mark.torture
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_notebook_runs_and_says_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    program = runpy.run_path(str(ROOT / "docs" / "run_notebook.py"))
    home = tmp_path / "home"
    program["make_lake"](home)
    program["run_notebook"](program["NOTEBOOK"], tmp_path / "run.ipynb", home)
    kept, run = (nbformat.read(path, as_version=4) for path in (program["NOTEBOOK"], tmp_path / "run.ipynb"))
    plots = [kind for cell in run.cells for each in cell.get("outputs", ()) for kind in each.get("data", ())]
    assert plots.count("image/png") == 3
    logged = [each["text"] for cell in run.cells for each in cell.get("outputs", ()) if each.get("name") == "stderr"]
    assert logged
    assert all(text.startswith("GENERATED DATA. ") and text.count("\n") == 1 for text in logged)
    for before, now in zip(kept.cells, run.cells, strict=True):
        said, says = ([texts(each) for each in cell.get("outputs", ())] for cell in (before, now))
        assert said == says, "run make notebook"


def texts(output: nbformat.NotebookNode) -> list[str]:
    """Return the texts of a cell's output, without figures and paths."""
    said = [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
    return [text for text in said if "<Figure" not in text and "not in the lake" not in text]
