"""What a profile's name stands for. ``local`` needs nothing: a folder under ``TLC_HOME``."""

from __future__ import annotations

from nyc_tlc.errors import ConfigurationError
from nyc_tlc.lake import Lake
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.settings import settings

LOCAL = "local"


def open_lake(profile: str) -> Lake:
    """The profile's data lake.

    Raises:
        ConfigurationError: when there is no such profile.
    """
    if profile != LOCAL:
        raise ConfigurationError(f"there is no profile {profile!r}", expected=LOCAL)
    return FolderLake(settings().home.absolute() / "lake")
