"""The first import of every script, before Prefect: it says how to install the packages, and expects Ctrl-C."""

from __future__ import annotations

import gc
import importlib.util
import multiprocessing
import os
import sys
from pathlib import Path

from nyc_tlc.runs.interruption import expect_signals

CLONE = Path(__file__).resolve().parents[3]

# A worker or a test that imports a flow is neither the command nor a script of the clone, and neither is a process that
# a script starts.
if multiprocessing.parent_process() is None and (
    sys.argv[0] == "nyc-tlc" or Path(sys.argv[0]).resolve().parent.parent == CLONE
):
    if importlib.util.find_spec("prefect") is None:
        python = CLONE / ".venv/bin/python"
        make = "" if python.exists() else f"make -C {CLONE} run, and from then on "
        sys.exit(f"error: {sys.executable} does not have this project's packages; use {make}{python} {sys.argv[0]}")
    # Prefect would send how it is used, and print a notice about that.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    expect_signals()
    # The packages make a million objects that stay; to look through them again and again takes a fifth of the imports.
    gc.set_threshold(100_000)

    # Here, because it may need the package tzdata.
    from nyc_tlc.month import COLORS

    # The usual mistake is told before the imports, which take more than a second.
    option = ""
    for text in sys.argv[1:]:
        if text.startswith("-"):
            option = text
        elif option in ("--color", "--colors") and text not in COLORS:
            sys.stderr.write(f"error: there is no colour {text!r}; expected {', '.join(COLORS)}\n")
            sys.exit(2)
