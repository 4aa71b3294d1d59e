"""The command ``nyc-tlc``: each flow is a subcommand, and so are ``ask`` and ``mcp``. What is called is imported."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path

PACKAGE = Path(__file__).parent
#: The flows are in the installed package; in the clone they are beside it.
INSTALLED = (PACKAGE / "flows").is_dir()
FLOWS = PACKAGE / "flows" if INSTALLED else PACKAGE.parent
OWN = ("ask", "mcp")
USAGE = """\
Usage: nyc-tlc COMMAND [OPTIONS]

New York's taxi trip records in your data lake and warehouse.

{commands}

nyc-tlc COMMAND --help shows a command's options.
"""


def main() -> None:
    """Run the subcommand that the first argument names."""
    files = {path.stem.replace("_", "-"): path for path in sorted(FLOWS.glob("*.py"))}
    files |= {name: PACKAGE / "asking" / f"{name}.py" for name in OWN}
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h"):
        lines = (f"  {command:<22}{_read_title(path)}" for command, path in files.items())
        sys.stdout.write(USAGE.format(commands="\n".join(lines)))
        return
    if name not in files:
        sys.stderr.write(f"error: there is no command {name!r}; expected {', '.join(files)}\n")
        sys.exit(2)
    sys.argv[:2] = ["nyc-tlc"]
    stem = files[name].stem
    package = "nyc_tlc.asking." if name in OWN else "nyc_tlc.flows." if INSTALLED else ""
    try:
        function = getattr(import_module(package + stem), stem)
    except ModuleNotFoundError as error:
        # An older version lacks a part of it.
        if (error.name or "").partition(".")[0] != "mcp":
            raise
        sys.stderr.write("error: the package mcp is missing or too old; .venv/bin/python -m pip install '.[mcp]'\n")
        sys.exit(1)
    command_line = import_module("nyc_tlc.runs.command_line")
    run = command_line.run_script if name in OWN else command_line.run
    run(function, f"nyc-tlc {name}")


def _read_title(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_bytes())) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
