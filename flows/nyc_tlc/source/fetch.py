"""From a source to a verified local file: streamed, resumed where it broke, and what it says it is."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import urllib3

from nyc_tlc.contract.contract import SourceFormat
from nyc_tlc.errors import ConfigurationError, SourceError
from nyc_tlc.settings import read_settings
from nyc_tlc.source.file_format import identify
from nyc_tlc.source.http import described, gave_up, request, retry_policy
from nyc_tlc.source.location import RemoteFile, file_path
from nyc_tlc.source.sample import write_sample
from nyc_tlc.workspace import Workspace

log = logging.getLogger(__name__)

#: Called with the bytes received so far and, where known, in all.
Progress = Callable[[int, int | None], None]

CHUNK = 1 << 20


@dataclass(frozen=True)
class FetchedFile:
    """A month on local disk, verified to be what it says.

    Attributes:
        remote: Where it is from, as the source described it when it was fetched.
        path: The local file.
        format: What it is, found by its content.
        bytes: Its size.
        sha256: The digest of its bytes.
        seconds: How long it took.
    """

    remote: RemoteFile
    path: Path
    format: SourceFormat
    bytes: int
    sha256: str
    seconds: float


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder to fetch into, gone at the end; after a kill, the next run's first step removes it.

    Raises:
        ConfigurationError: when the scratch space can't be written.
    """
    scratch = read_settings().scratch
    try:
        workspace = Workspace(scratch)
    except OSError as error:
        raise ConfigurationError(f"cannot write to {scratch}", got=str(error), fix="set TLC_HOME") from error
    try:
        yield workspace.path
    finally:
        workspace.remove(up_to=scratch)


def fetch_month(remote: RemoteFile, folder: Path, progress: Progress = lambda done, total: None) -> FetchedFile:
    """Bring a month to local disk and verify it; a ``file://`` source is read where it is.

    Args:
        remote: The month at its source.
        folder: Where to put it.
        progress: Told of the bytes received.

    Raises:
        NotPublished: when it is gone from the source.
        TransientError: when the transfer broke more often than the settings allow.
        SourceError: when what came is not a month of trip records, or not all of it.
    """
    began = time.monotonic()
    path = folder / f"{remote.color}_tripdata_{remote.month}"
    if remote.url.startswith("file:"):
        path = file_path(remote)
        digest = _digest(path)
    elif remote.url.startswith("sample:"):
        write_sample(remote.color, remote.month, int(remote.url.rpartition("/")[2]), path)
        digest = _digest(path)
    else:
        remote, digest = _download(remote, path, progress)
    size = path.stat().st_size
    if remote.bytes is not None and size != remote.bytes:
        raise SourceError(f"{remote.name}: the file is incomplete", expected=f"{remote.bytes:,} bytes", got=f"{size:,}")
    fetched = FetchedFile(remote, path, identify(path, remote.name), size, digest, time.monotonic() - began)
    log.info("%s: fetched %s bytes from %s in %.1f s", remote.name, f"{size:,}", remote.shown, fetched.seconds)
    return fetched


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(remote: RemoteFile, path: Path, progress: Progress) -> tuple[RemoteFile, str]:
    """Stream a body to disk; where the connection breaks, go on from there if the server can."""
    retries = retry_policy(remote.name)
    digest, done, found = hashlib.sha256(), 0, remote
    with path.open("wb") as file:
        while True:
            validator = found.etag if found.etag and not found.etag.startswith("W/") else None
            resume = {"Range": f"bytes={done}-", "If-Range": validator} if done and validator else {}
            response = request(remote, "GET", resume, retries)
            if not (resume and response.status == 206 and _starts_at(response, done)):
                digest, done = hashlib.sha256(), 0
                file.seek(0)
                file.truncate()
                found = described(remote, response.headers, response.headers.get("Content-Length"))
            before = done
            try:
                for chunk in response.stream(CHUNK, decode_content=False):
                    file.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    progress(done, found.bytes)
                return found, digest.hexdigest()
            except urllib3.exceptions.HTTPError as error:
                log.warning("%s: the transfer broke after %s bytes: %s", remote.name, f"{done:,}", error)
                retries = retry_policy(remote.name) if done > before else retries
                try:
                    retries = retries.increment("GET", remote.url, error=error)
                except urllib3.exceptions.MaxRetryError:
                    raise gave_up(remote, error) from error
                retries.sleep()
            finally:
                response.close()


def _starts_at(response: urllib3.BaseHTTPResponse, offset: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
