"""Copy months from one lake to another: the same bytes, published like a month that is made."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from nyc_tlc.errors import LakeError
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.publication import publish_files
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Color, Month

log = logging.getLogger(__name__)

Copied = Literal["copied", "was there already", "another version is there"]


def copy_month(source: Lake, target: Lake, color: Color, month: Month, scratch: Path, *, force: bool = False) -> Copied:
    """Copy a month: first its files, verified by the manifest's digests, then its manifest.

    A month that the target already has is not copied.

    Args:
        force: Whether to replace another version of the month in the target.

    Raises:
        LakeError: when the source does not have the month, or a file differs from its digest in the manifest.
        ConflictError: when another run published the month in the target during the copy.
    """
    keys = Keys(color, month)
    manifest = source.manifest(keys)
    if manifest is None:
        raise LakeError(f"{keys.name}: not in the lake {source.url('')}")
    found = target.find_manifest(keys)
    if found.content is not None and not force:
        there = target.parse(found.content, keys)
        one, other = ((each.contract_version, *(file.sha256 for file in each.files)) for each in (there, manifest))
        return "was there already" if one == other else "another version is there"
    copy = manifest.with_keys(keys.of_new_version().of)
    files = {new.key: scratch / str(number) for number, new in enumerate(copy.files)}
    for old, path in zip(manifest.files, files.values(), strict=True):
        source.download(old, manifest.name, path)
    publish_files(target, copy, files, found.version)
    log.info("%s: copied from %s to %s", keys.name, source.url(""), target.url(""))
    return "copied"
