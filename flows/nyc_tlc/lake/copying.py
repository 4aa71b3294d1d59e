"""Months from one lake into another: byte for byte, under the same keys, published there as if they were made there."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from pathlib import Path
from typing import Literal

from nyc_tlc.errors import LakeError
from nyc_tlc.lake.keys import Keys
from nyc_tlc.lake.lake import Lake, NewFile
from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.publication import publish_files
from nyc_tlc.months import Color, Month

log = logging.getLogger(__name__)

Copied = Literal["copied", "was there already", "another one is there"]
#: Bytes that are read at a time.
COPY_CHUNK_BYTES = 8 << 20


def copy_month(source: Lake, target: Lake, color: Color, month: Month, scratch: Path, *, force: bool = False) -> Copied:
    """Copy a month: its files, verified by the manifest's digests, then its manifest.

    A month that is there already is not copied again, so a copy that was interrupted goes on with the month it had come
    to.

    Args:
        source: Where it is.
        target: Where it shall be too.
        color: Its colour.
        month: The month.
        scratch: Where its files are kept on the way.
        force: Whether to replace another version of the month in the target.

    Raises:
        LakeError: when the source doesn't have it, or one of its files is not the manifest's.
        ConflictError: when a run published the month in the target meanwhile.
    """
    keys = Keys(color, month)
    manifest = source.manifest(keys)
    if manifest is None:
        raise LakeError(f"{keys.name}: not in the lake {source.url('')}")
    found = target.find_manifest(keys)
    if found.content is not None and not force:
        there = target.parse(found.content, keys)
        same = there.digests == manifest.digests and there.contract_version == manifest.contract_version
        return "was there already" if same else "another one is there"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="copy-") as folder:
        files = [
            _fetch(source, manifest, key, digest, Path(folder) / str(number))
            for number, (key, digest) in enumerate(sorted(manifest.digests.items()))
        ]
        publish_files(target, manifest, files, found.version, _describe(manifest))
    log.info("%s: copied from %s to %s", keys.name, source.url(""), target.url(""))
    return "copied"


def _fetch(source: Lake, manifest: Manifest, key: str, expected: str | None, path: Path) -> NewFile:
    """Bring one of a month's files to this machine."""
    digest, size = hashlib.sha256(), 0
    with source.open(key) as remote, path.open("wb") as local:
        while chunk := remote.read(COPY_CHUNK_BYTES):
            digest.update(chunk)
            size += local.write(chunk)
    if expected not in (None, digest.hexdigest()):
        raise LakeError(
            f"{manifest.name}: {source.url(key)} is not the manifest's file",
            expected=f"SHA-256 {expected}",
            got=f"{digest.hexdigest()} ({size:,} bytes)",
            fix="nothing of the month was copied; make it again with --force",
        )
    return NewFile(key, path, size, digest.hexdigest())


def _describe(manifest: Manifest) -> dict[str, str]:
    """What the objects say of themselves, as those of a month that is made."""
    return {
        "color": manifest.color,
        "month": manifest.month,
        "source_sha256": manifest.source.sha256,
        "contract_version": manifest.contract_version,
        "rules_version": manifest.rules_version,
    }
