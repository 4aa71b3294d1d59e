"""Create or update the Prefect blocks of a profile: ``python blocks/register.py dev``.

``blocks/profiles/dev.yaml`` says what they are; ``--check`` changes nothing. Exit status: 0 done or nothing to do,
1 failed, or ``--check`` found something to do, 2 wrong arguments.
"""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "flows"))

import cyclopts  # noqa: E402
from prefect.settings import temporary_settings  # noqa: E402

from nyc_tlc.errors import ArgumentError, TlcError  # noqa: E402
from nyc_tlc.orchestration.command_line import TEMPORARY_SERVER  # noqa: E402
from nyc_tlc.profiles import blocks  # noqa: E402
from nyc_tlc.profiles.opening import LOCAL  # noqa: E402


def register(profile: str, /, *, check: bool = False) -> int:
    """Create or update the Prefect blocks of a profile from blocks/profiles/PROFILE.yaml.

    Args:
        profile: The profile's name, dev for blocks/profiles/dev.yaml.
        check: Change nothing; tell what is missing or would change, and exit with 1 if anything is.
    """
    found = blocks.read_blocks(profile_file(profile), blocks.variables())
    standings = blocks.register(profile, found, check=check)
    told = [f"{each.status} ({', '.join(each.fields)})" if each.fields else each.status for each in standings]
    for status, standing in zip(told, standings, strict=True):
        sys.stdout.write(f"{status:{max(map(len, told))}}  {standing.block}\n")
    return int(any(standing.status in ("missing", "differs") for standing in standings))


def profile_file(profile: str) -> Path:
    """The profile's YAML file.

    Raises:
        ArgumentError: when there is none, or the profile needs no blocks.
    """
    if profile == LOCAL:
        raise ArgumentError(f"the profile {LOCAL} needs no blocks", fix="it is a folder, see TLC_HOME in README.md")
    if not re.fullmatch(r"[a-z0-9-]+", profile):
        raise ArgumentError(f"no name for a profile: {profile!r}", expected="lowercase letters, digits and dashes")
    file = HERE / "profiles" / f"{profile}.yaml"
    if not file.is_file():
        raise ArgumentError(
            f"there is no profile {profile!r}",
            expected=" or ".join(sorted(path.stem for path in file.parent.glob("*.yaml"))),
            fix=f"write {file.name} beside them",
        )
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file


def main() -> int:
    """Run as a command; the exit status."""
    app = cyclopts.App(name="python blocks/register.py", version_flags=[])
    app.default(register)
    # Where it looked for credentials in vain is in the error already.
    logging.getLogger("google.auth").setLevel(logging.ERROR)
    try:
        command, bound, _ = app.parse_args(sys.argv[1:], exit_on_error=False, print_error=False)
        with temporary_settings(set_defaults=TEMPORARY_SERVER):
            return command(*bound.args, **bound.kwargs) or 0
    except cyclopts.CycloptsError as error:
        failure: TlcError = ArgumentError(str(error))
    except TlcError as error:
        failure = error
    sys.stderr.write(f"error: {failure}\n")
    return failure.exit_status


if __name__ == "__main__":
    sys.exit(main())
