"""Copy months from one lake to another: the same bytes under the same keys, published like a month that is made."""

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

Copied = Literal["copied", "was there already", "another version is there"]
#: Bytes of one read.
COPY_CHUNK_BYTES = 8 << 20


def copy_month(source: Lake, target: Lake, color: Color, month: Month, scratch: Path, *, force: bool = False) -> Copied:
    """Copy a month: first its files, verified by the manifest's digests, then its manifest.

    A month that the target already has is not copied.

    Args:
        source: The lake to copy from.
        target: The lake to copy to.
        color: The colour.
        month: The month.
        scratch: The folder for the files during the copy.
        force: Whether to replace another version of the month in the target.

    Returns:
        What was done, or why nothing was.

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
        same = there.digests == manifest.digests and there.contract_version == manifest.contract_version
        return "was there already" if same else "another version is there"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="copy-") as folder:
        files = [
            _fetch(source, manifest, key, digest, Path(folder) / str(number))
            for number, (key, digest) in enumerate(sorted(manifest.digests.items()))
        ]
        publish_files(target, manifest, files, found.version, _labels(manifest))
    log.info("%s: copied from %s to %s", keys.name, source.url(""), target.url(""))
    return "copied"


def _fetch(source: Lake, manifest: Manifest, key: str, expected: str | None, path: Path) -> NewFile:
    """Download one of a month's files to ``path`` and check its digest."""
    digest, size = hashlib.sha256(), 0
    with source.open(key) as remote, path.open("wb") as local:
        while chunk := remote.read(COPY_CHUNK_BYTES):
            digest.update(chunk)
            size += local.write(chunk)
    if expected not in (None, digest.hexdigest()):
        raise LakeError(
            f"{manifest.name}: {source.url(key)} is not the file in the manifest",
            expected=f"SHA-256 {expected}",
            got=f"{digest.hexdigest()} ({size:,} bytes)",
            fix="nothing of the month was copied; make the month again with --force",
        )
    return NewFile(key, path, size, digest.hexdigest())


def _labels(manifest: Manifest) -> dict[str, str]:
    """Return the objects' labels, the same as those of a month that is made."""
    return {
        "color": manifest.color,
        "month": manifest.month,
        "source_sha256": manifest.source.sha256,
        "contract_version": manifest.contract_version,
        "rules_version": manifest.rules_version,
    }
