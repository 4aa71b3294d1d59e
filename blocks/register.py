"""Create or update the Prefect blocks of a profile: ``python blocks/register.py dev``.

``blocks/profiles/dev.yaml`` describes them; ``--check`` changes nothing. Exit status: 0 done or nothing to do,
1 failed, or ``--check`` found something to do, 2 wrong arguments.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "flows"))

import nyc_tlc.runs.script  # noqa: E402, F401

from nyc_tlc.comparison import comparison_table, needs_change  # noqa: E402
from nyc_tlc.errors import ArgumentError  # noqa: E402
from nyc_tlc.profiles import registering  # noqa: E402
from nyc_tlc.profiles.opening import LOCAL  # noqa: E402
from nyc_tlc.runs.command_line import find_server, run_script  # noqa: E402
from nyc_tlc.yaml_files import read_variables  # noqa: E402


def register(profile: str, /, *, check: bool = False) -> int:
    """Create or update the Prefect blocks of a profile from blocks/profiles/PROFILE.yaml.

    Args:
        profile: The profile's name, dev for blocks/profiles/dev.yaml.
        check: Change nothing; show what is missing or would change, and exit with 1 if anything is.
    """
    blocks = registering.read_blocks(profile_file(profile), read_variables())
    find_server()
    comparisons = registering.register(profile, blocks, check=check)
    sys.stdout.write(comparison_table(comparisons))
    return int(check and needs_change(comparisons))


def profile_file(profile: str) -> Path:
    """Return the path of the profile's YAML file.

    Raises:
        ArgumentError: when it does not exist, or the profile needs no blocks.
    """
    if profile == LOCAL:
        raise ArgumentError(f"the profile {LOCAL} needs no blocks", fix="it is a folder, see TLC_HOME in README.md")
    if not re.fullmatch(r"[a-z0-9-]+", profile):
        raise ArgumentError(f"not a valid profile name: {profile!r}", expected="lowercase letters, digits and dashes")
    file = HERE / "profiles" / f"{profile}.yaml"
    if not file.is_file():
        raise ArgumentError(
            f"there is no profile {profile!r}",
            expected=" or ".join(sorted(path.stem for path in file.parent.glob("*.yaml"))),
            fix=f"create blocks/profiles/{file.name}",
        )
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file


if __name__ == "__main__":
    run_script(register, "blocks/register.py")
