"""What all flows have in common for Prefect."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

from nyc_tlc.runs.interruption import at_end
from nyc_tlc.runs.lost_runs import clear_lost_runs

# Prefect writes the exception of a failed run to a file, although results are not persisted. Nothing reads it there, so
# the folder ends with the process.
_RESULTS = tempfile.mkdtemp(prefix="nyc-tlc-")
for _register in (atexit.register, at_end.append):
    _register(lambda: shutil.rmtree(_RESULTS, ignore_errors=True))

RUN_OPTIONS: dict[str, Any] = {
    "on_running": [clear_lost_runs],
    "persist_result": False,
    "result_storage": Path(_RESULTS),
}
