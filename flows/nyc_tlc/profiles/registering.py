"""Save the blocks that a profile's YAML file describes on the Prefect server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, MalformedError
from prefect.blocks.core import Block
from pydantic import ValidationError

from nyc_tlc.errors import ConfigurationError
from nyc_tlc.profiles.opening import LAKES, find_block, import_block, name_blocks, without_storage_warning
from nyc_tlc.profiles.sections import NOTIFICATIONS, SECTIONS, Profile
from nyc_tlc.yaml_files import StrictModel, explain, fill_in, read_yaml, validate


def read_blocks(path: Path, variables: Mapping[str, str]) -> list[Block]:
    """Build the blocks of a profile's file, without saving them; credentials come before blocks that refer to them.

    Args:
        path: The YAML file.
        variables: The values for ``${VAR}``. A key whose value becomes empty counts as left out.

    Raises:
        ConfigurationError: naming file and key, the keys that are allowed and the variables that aren't set.
    """
    content = read_yaml(path)
    if isinstance(content, dict):
        # A section without a value has no keys.
        content = fill_in({slug: keys or {} for slug, keys in content.items()}, variables, path)
    profile = validate(Profile, content, path)
    given = {slug: keys for slug in SECTIONS if (keys := getattr(profile, slug)) is not None}
    for what, choice in (("lake", LAKES), ("notification", NOTIFICATIONS)):
        if len(chosen := [slug for slug in choice if slug in given]) > 1:
            raise ConfigurationError(f"{path}: {chosen[1]}: a second {what}", expected=f"either {' or '.join(choice)}")
    blocks: dict[str, Block] = {}
    for slug, keys in given.items():
        needed = SECTIONS[slug].credentials
        if needed and needed not in blocks:
            raise ConfigurationError(f"{path}: {slug} without {needed}", fix=f"add the section {needed}")
        blocks[slug] = _build(path, slug, keys, blocks.get(needed))
    return list(blocks.values())


def register(profile: str, blocks: list[Block]) -> dict[str, str]:
    """Create or update a profile's blocks on the Prefect server; one that the profile no longer has stays there.

    Args:
        profile: The profile's name.
        blocks: Its blocks; a block comes after those it refers to, so that it is saved with a reference to them.

    Returns:
        Block -> ``created``, ``updated``, or ``unused`` for one that stays.
    """
    name, done = name_blocks(profile), {}
    for block in blocks:
        slug = block.get_block_type_slug()
        done[f"{slug}/{name}"] = "updated" if find_block(profile, slug) else "created"
        block.save(name, overwrite=True)
    stay = (f"{slug}/{name}" for slug in SECTIONS if f"{slug}/{name}" not in done and find_block(profile, slug))
    return done | dict.fromkeys(stay, "unused")


def find_notification_block(profile: str) -> UUID | None:
    """Return the id of the block that sends a profile's notifications; None if it has none."""
    return next(filter(None, (find_block(profile, slug) for slug in NOTIFICATIONS)), None)


def _build(path: Path, slug: str, keys: StrictModel, credentials: Block | None) -> Block:
    section = SECTIONS[slug]
    fields = section.fields(keys.model_dump(exclude_none=True))
    if credentials:
        fields["gcp_credentials" if section.credentials == "gcp-credentials" else "credentials"] = credentials
    evidence: dict[str, Any]
    try:
        with without_storage_warning():
            return import_block(section.block)(**fields)
    except ValidationError as error:
        raise explain(error, path, (slug,)) from None
    except (MalformedError, OSError) as error:
        what, evidence = "the service account key is not usable", {"got": str(error)}
    except DefaultCredentialsError as error:
        what = "no application default credentials on this machine"
        fix = "run gcloud auth application-default login; blocks/README.md has the other ways"
        evidence = {"got": str(error.args[0]), "fix": fix}
    except (GoogleAuthError, ValueError, TypeError, AttributeError) as error:
        # The parser's text may quote the key.
        what = f"{'its values are' if slug in NOTIFICATIONS else 'the Google credentials are'} not usable"
        evidence = {"got": type(error).__name__}
    raise ConfigurationError(f"{path}: {slug}: {what}", **evidence)
