"""Register a profile's Prefect blocks: read its YAML file and save the blocks that differ on the Prefect server."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, MalformedError
from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import BlockDocument
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from nyc_tlc.comparison import Comparison, make_changes
from nyc_tlc.profiles.sections import CREDENTIALS, LAKES, NOTIFICATIONS, SECTIONS, Section
from nyc_tlc.yaml_files import YamlFile


def read_blocks(path: Path, variables: Mapping[str, str]) -> list[Block]:
    """Build the blocks of a profile's file, without saving them; credentials come before blocks that refer to them.

    Args:
        path: The YAML file.
        variables: The values for ``${VAR}``. A key whose value becomes empty counts as left out.

    Raises:
        ConfigurationError: naming file, line and key, the keys that are allowed and the variables that aren't set.
    """
    file = YamlFile(path, variables, as_text=True)
    sections = file.content
    if not isinstance(sections, dict):
        raise file.mistake((), "no blocks", expected=", ".join(SECTIONS))
    for key in sections:
        if key not in SECTIONS:
            raise file.mistake((key,), f"unknown key {key!r}", expected=", ".join(SECTIONS))
    for what, choice in (("lake", LAKES), ("notification", NOTIFICATIONS)):
        chosen = [slug for slug in choice if slug in sections]
        if len(chosen) > 1:
            raise file.mistake((chosen[1],), f"a second {what}", expected=f"either {' or '.join(choice)}")
    blocks: dict[str, Block] = {}
    for slug, section in SECTIONS.items():
        if slug in sections:
            blocks[slug] = _build_block(file, slug, section, blocks)
    return list(blocks.values())


def register(profile: str, blocks: list[Block], *, check: bool = False) -> list[Comparison]:
    """Create or update a profile's blocks on the Prefect server; blocks that already match are not changed.

    Args:
        profile: The profile's name.
        blocks: Its blocks; a block comes after those it refers to.
        check: Only compare, change nothing.
    """
    with get_client(sync_client=True) as client:
        comparisons = _compare_all(blocks, f"taxi-{profile}", client)
        return list(comparisons) if check else make_changes(comparisons)


def find_notification_block(profile: str, client: SyncPrefectClient) -> UUID | None:
    """Return the id of the block that sends a profile's notifications; None if it has none."""
    saved = (_saved_block(slug, f"taxi-{profile}", client) for slug in NOTIFICATIONS)
    return next((block.id for block in saved if block), None)


def _compare_all(blocks: list[Block], name: str, client: SyncPrefectClient) -> Iterator[Comparison]:
    for block in blocks:
        yield _compare_block(block, name, client)
    unmentioned = SECTIONS.keys() - {block.get_block_type_slug() for block in blocks}
    for slug in SECTIONS:
        if slug in unmentioned and _saved_block(slug, name, client):
            yield Comparison(f"{slug}/{name}", "unused")


def _saved_block(slug: str, name: str, client: SyncPrefectClient) -> BlockDocument | None:
    """Read a block with its secrets; None if there is none of this type and name."""
    try:
        return client.read_block_document_by_name(name, slug, include_secrets=True)
    except ObjectNotFound:
        return None


def _compare_block(block: Block, name: str, client: SyncPrefectClient) -> Comparison:
    slug, save = block.get_block_type_slug(), partial(_save, block, name)
    saved = _saved_block(slug, name, client)
    if saved is None:
        return Comparison(f"{slug}/{name}", "missing", change=save)
    fields = type(block).model_fields
    wanted = block.model_dump(mode="json", include=set(fields), context={"include_secrets": True})

    def same(field: str) -> bool:
        if isinstance(getattr(block, field), Block):
            reference: dict[str, Any] = saved.block_document_references.get(field, {})
            return bool(reference.get("block_document", {}).get("name") == name)
        return bool(_without_empty(saved.data.get(field)) == _without_empty(wanted[field]))

    if differing := tuple(field for field in fields if not same(field)):
        return Comparison(f"{slug}/{name}", "differs", differing, save)
    return Comparison(f"{slug}/{name}", "unchanged")


def _without_empty(value: Any) -> Any:
    """Remove a value's empty parts: the Prefect API keeps some of them and drops others."""
    if not isinstance(value, dict):
        return value
    return {key: part for key, each in value.items() if (part := _without_empty(each)) not in (None, {})} or None


def _save(block: Block, name: str) -> None:
    for field in type(block).model_fields:
        nested = getattr(block, field)
        if isinstance(nested, Block):
            # A loaded block is saved as a reference, so that new credentials reach the blocks that use them.
            setattr(block, field, type(nested).load(name))
    block.save(name, overwrite=True)


def _build_block(file: YamlFile, slug: str, section: type[Section], built: Mapping[str, Block]) -> Block:
    """Build the block of a section, with its credentials from the blocks that are built already.

    Raises:
        ConfigurationError: when the section has a mistake, or the block can't be used on this machine.
    """
    fields = file.validate(section, file.content[slug] or {}, (slug,)).fields()
    for (referring, field), credentials in CREDENTIALS.items():
        if referring != slug:
            continue
        if credentials not in built:
            raise file.mistake((slug,), f"{slug} without {credentials}", fix=f"add the section {credentials}")
        fields[field] = built[credentials]
    try:
        with warnings.catch_warnings():
            # Loads and counts do not use that client.
            warnings.filterwarnings("ignore", message="Cannot create BigQuery Storage client")
            return section.block(**fields)
    except ValidationError as error:
        raise file.explain(error, section.block, (slug,)) from None
    except (MalformedError, OSError) as error:
        raise file.mistake((slug,), f"{slug}: the service account key is not usable", got=str(error)) from None
    except DefaultCredentialsError as error:
        raise file.mistake(
            (slug,),
            f"{slug}: no application default credentials on this machine",
            got=str(error.args[0]),
            fix="run gcloud auth application-default login; blocks/README.md has the other ways",
        ) from None
    except (GoogleAuthError, ValueError, TypeError, AttributeError) as error:
        # The parser's text may quote the key.
        what = "its values are" if slug in NOTIFICATIONS else "the Google credentials are"
        raise file.mistake((slug,), f"{slug}: {what} not usable", got=type(error).__name__) from None
