"""Runs the notebook from its first cell to its last over a lake of sample months, and keeps what it shows.

Run as ``python docs/run_notebook.py`` (``make notebook``) after a change of the notebook.
"""

from __future__ import annotations

import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

from nyc_tlc.cleaning.clean import clean_month
from nyc_tlc.cleaning.publish import publish_month
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.keys import Keys
from nyc_tlc.month import Month
from nyc_tlc.source.fetch import fetch_month
from nyc_tlc.source.published import look_at

NOTEBOOK = Path(__file__).parent / "first-hour.ipynb"
FLOWS = Path(__file__).parents[1] / "flows"
#: What the notebook is about, and how many rows a month of it has here.
MONTHS, ROWS = [Month(2023, number) for number in range(1, 13)], 3_000
#: Seconds a cell may take.
PATIENCE = 120


def make_lake(home: Path) -> None:
    """Bring the notebook's months into the lake of the profile local, as samples."""
    os.environ |= {"TLC_HOME": str(home), "TLC_SAMPLE_ROWS": str(ROWS)}
    lake, terms = FolderLake(home / "lake"), read_contract("green")
    for month in MONTHS:
        with tempfile.TemporaryDirectory() as folder:
            fetched = fetch_month(look_at("sample", "green", month), Path(folder))
            cleaned = clean_month(fetched, terms, Path(folder) / "cleaned")
            publish_month(cleaned, terms, lake, lake.find_manifest(Keys("green", month)).version, datetime.now(UTC))


def run_notebook(source: Path, target: Path, home: Path) -> None:
    """Run a notebook and write it with what it shows.

    Args:
        source: The notebook.
        target: Where it is written.
        home: TLC_HOME for it: where the lake is.

    Raises:
        CellExecutionError: when a cell fails.
    """
    notebook = nbformat.read(source, as_version=4)
    environment = os.environ | {"TLC_HOME": str(home), "PYTHONPATH": str(FLOWS), "JUPYTER_PLATFORM_DIRS": "1"}
    sockets = Config({"KernelManager": {"transport": "ipc", "ip": str(home / "kernel")}})
    client = NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3", record_timing=False, config=sockets)
    client.execute(env=environment, cwd=str(home))
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(notebook, target)


def main() -> None:
    """See the module."""
    with tempfile.TemporaryDirectory() as folder:
        make_lake(Path(folder))
        run_notebook(NOTEBOOK, NOTEBOOK, Path(folder))
    sys.stdout.write(f"{NOTEBOOK.name} has run\n")


if __name__ == "__main__":
    main()
