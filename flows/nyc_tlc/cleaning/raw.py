"""Take a month's source file from the lake, to clean it again without its source."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import cast

from nyc_tlc.lake.manifest import Manifest
from nyc_tlc.lake.store import Lake
from nyc_tlc.source.fetch import FetchedFile, VerifiedBy
from nyc_tlc.source.location import RemoteFile

log = logging.getLogger(__name__)


def describe_source(manifest: Manifest) -> RemoteFile:
    """Return the source's file as it was when the month was fetched."""
    keys, source = manifest.month_keys, manifest.source
    return RemoteFile(keys.color, keys.month, source.url, source.etag, source.last_modified, source.bytes)


def fetch_raw(manifest: Manifest, lake: Lake, folder: Path) -> FetchedFile:
    """Copy the month's raw file from the lake to a folder.

    Raises:
        LakeError: when it is not the file in the manifest.
    """
    began, source, path = time.monotonic(), manifest.source, folder / manifest.month_keys.file
    lake.download(source, manifest.name, path)
    seconds = time.monotonic() - began
    log.info("%s: read %s bytes from %s in %.1f s", manifest.name, f"{source.bytes:,}", lake.url(source.key), seconds)
    return FetchedFile(
        describe_source(manifest),
        path,
        source.format,
        source.bytes,
        source.sha256,
        seconds,
        cast(VerifiedBy, source.verified_by or "nothing"),
        source.key,
    )
