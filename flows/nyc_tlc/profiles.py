"""What a profile's name stands for. ``local`` needs nothing: a folder under ``TLC_HOME``."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from nyc_tlc.errors import ConfigurationError
from nyc_tlc.lake import Lake, LocalLake
from nyc_tlc.settings import settings

LOCAL = "local"


def open_lake(profile: str) -> Lake:
    """The profile's data lake; within a process always the same one.

    Raises:
        ConfigurationError: when there is no such profile.
    """
    if profile != LOCAL:
        raise ConfigurationError(f"there is no profile {profile!r}", expected=LOCAL)
    return _local_lake(settings().home.absolute() / "lake")


@cache
def _local_lake(root: Path) -> LocalLake:
    return LocalLake(root)
