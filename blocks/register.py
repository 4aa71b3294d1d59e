"""Create or update the Prefect blocks of a profile: ``python blocks/register.py dev``.

``blocks/profiles/dev.yaml`` describes them. Exit status: 0 done, 1 failed, 2 wrong arguments.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "flows"))

import nyc_tlc.runs.script  # noqa: E402, F401

from nyc_tlc.errors import ArgumentError  # noqa: E402
from nyc_tlc.profiles import registering  # noqa: E402
from nyc_tlc.profiles.opening import LOCAL, name_blocks  # noqa: E402
from nyc_tlc.runs.command_line import find_server, run_script  # noqa: E402
from nyc_tlc.shown import short_path  # noqa: E402
from nyc_tlc.yaml_files import read_variables  # noqa: E402


def register(profile: str, /) -> int:
    """Create or update the Prefect blocks of a profile from blocks/profiles/PROFILE.yaml.

    Args:
        profile: The profile's name, dev for blocks/profiles/dev.yaml.
    """
    if profile == LOCAL:
        raise ArgumentError(f"the profile {LOCAL} needs no blocks", fix="it is a folder, see TLC_HOME in README.md")
    name_blocks(profile)
    file = HERE / f"profiles/{profile}.yaml"
    if not file.is_file():
        profiles = " or ".join(sorted(path.stem for path in file.parent.glob("*.yaml")))
        raise ArgumentError(
            f"there is no profile {profile!r}", expected=profiles, fix=f"create blocks/profiles/{file.name}"
        )
    blocks, schema = registering.read_blocks(short_path(file), read_variables())
    find_server()
    for block, done in registering.register(profile, blocks, schema).items():
        sys.stdout.write(f"{done}  {block}\n")
    return 0


if __name__ == "__main__":
    run_script(register, "python blocks/register.py")
