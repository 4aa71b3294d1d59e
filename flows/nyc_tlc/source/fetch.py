"""From a source to a verified local file: streamed, resumed where it broke, and what it says it is."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Literal

import urllib3

from nyc_tlc.contract.contract import SourceFormat
from nyc_tlc.errors import ConfigurationError, SourceError
from nyc_tlc.settings import read_settings
from nyc_tlc.source.file_format import identify
from nyc_tlc.source.http import Attempts, described, iso_date, reason_of, request
from nyc_tlc.source.location import RemoteFile, file_path
from nyc_tlc.source.sample import write_sample
from nyc_tlc.workspace import Workspace

log = logging.getLogger(__name__)

#: Called with the bytes received so far and, where known, in all.
Progress = Callable[[int, int | None], None]

CHUNK = 1 << 20

#: What shows that a file came whole: the source told its size; the transfer has an end of its own (a body of chunks);
#: its content has (Parquet's footer, gzip's checksum); or nothing does (plain CSV from a source that tells no size).
VerifiedBy = Literal["size", "transfer", "content", "nothing"]


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
        verified_by: What showed that it came whole.
    """

    remote: RemoteFile
    path: Path
    format: SourceFormat
    bytes: int
    sha256: str
    seconds: float
    verified_by: VerifiedBy = "content"


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
        ConfigurationError: when the disk is full.
    """
    began = time.monotonic()
    path = folder / f"{remote.color}_tripdata_{remote.month}"
    chunked = False
    local = remote.url.startswith("file:")
    try:
        if local:
            path = file_path(remote)
            digest = _digest(path)
        elif remote.url.startswith("sample:"):
            write_sample(remote.color, remote.month, int(remote.url.rpartition("/")[2]), path)
            digest = _digest(path)
        else:
            remote, digest, chunked = _download(remote, path, progress)
        size = path.stat().st_size
    except OSError as error:
        raise _cannot_use(path, remote, error) from None
    if remote.bytes is not None and size != remote.bytes:
        raise SourceError(f"{remote.name}: the file is incomplete", expected=f"{remote.bytes:,} bytes", got=f"{size:,}")
    form = identify(path, remote.name, quote=not local)
    verified_by: VerifiedBy = "nothing" if form == "csv" else "content"
    if remote.bytes is not None or remote.url.startswith("sample:"):
        verified_by = "size"
    elif chunked:
        verified_by = "transfer"
    fetched = FetchedFile(remote, path, form, size, digest, time.monotonic() - began, verified_by)
    log.info("%s: fetched %s bytes from %s in %.1f s", remote.name, f"{size:,}", remote.shown, fetched.seconds)
    if verified_by == "nothing":
        log.warning("%s: nothing tells whether the file is whole: the source does not tell its size", remote.name)
    return fetched


def _cannot_use(path: Path, remote: RemoteFile, error: OSError) -> ConfigurationError | SourceError:
    """A local disk that failed, in one line."""
    reason = os.strerror(error.errno or 0)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        needed = f" for {remote.bytes:,} bytes" if remote.bytes else ""
        fix = "free some space, or set TLC_HOME to another disk"
        return ConfigurationError(f"{remote.name}: no space left in {path.parent}{needed}", got=reason, fix=fix)
    return SourceError(f"{remote.name}: cannot read or write {path}", got=reason)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(remote: RemoteFile, path: Path, progress: Progress) -> tuple[RemoteFile, str, bool]:
    """Stream a body to disk; where it breaks, go on from there if the server still has the same file.

    Returns:
        The file as the answers describe it, the digest of its bytes, and whether the transfer had an end of its own.
    """
    attempts = Attempts(remote)
    digest, done, best, found = hashlib.sha256(), 0, 0, remote
    resumes = False
    with path.open("wb") as file:
        while True:
            headers = {"Range": f"bytes={done}-", "If-Range": found.etag or ""} if resumes else {}
            response = request(remote, "GET", headers, attempts)
            try:
                if resumes and response.status != HTTPStatus.OK and not _continues(response, found, done):
                    resumes = False
                    attempts.pause(f"the server cannot go on after {done:,} bytes; the transfer starts again")
                    continue
                if not resumes and response.status != HTTPStatus.OK:
                    attempts.pause(f"HTTP {response.status} to a request for the whole file")
                    continue
                if response.status == HTTPStatus.OK:
                    digest, done = hashlib.sha256(), 0
                    file.seek(0)
                    file.truncate()
                    found = _strictest(remote, described(remote, response.headers))
                for chunk in _chunks(response, found.bytes, done):
                    attempts.require_time()
                    file.write(chunk)
                    digest.update(chunk)
                    if not done or done // CHUNK != (done + len(chunk)) // CHUNK:
                        progress(done + len(chunk), found.bytes)
                    done += len(chunk)
                if found.bytes in (None, done):
                    progress(done, found.bytes)
                    chunked = response.headers.get("Transfer-Encoding", "").lower() == "chunked"
                    return found, digest.hexdigest(), chunked
                broke = f"{done:,} of {found.bytes:,} bytes came"
            except urllib3.exceptions.HTTPError as error:
                broke = f"the transfer broke after {done:,} bytes: {reason_of(error)}"
            finally:
                response.close()
            if done > best:
                best = done
                attempts.renew()
            resumes = done > 0 and re.fullmatch(r'"[!#-~]*"', found.etag or "") is not None
            attempts.pause(broke)


def _chunks(response: urllib3.BaseHTTPResponse, size: int | None, done: int) -> Iterator[bytes]:
    """What came, as it comes, up to the file's size; more than that is one byte too many and an error later."""
    while chunk := response.read1(CHUNK, decode_content=False):
        done += len(chunk)
        yield chunk
        if size is not None and done >= size:
            return


def _strictest(looked: RemoteFile, came: RemoteFile) -> RemoteFile:
    """What HEAD and GET say together of one file; another file than the one looked at is as GET says."""
    if looked.etag != came.etag and None not in (looked.etag, came.etag):
        return came
    if looked.last_modified != came.last_modified and None not in (looked.last_modified, came.last_modified):
        return came
    if None not in (looked.bytes, came.bytes) and looked.bytes != came.bytes:
        # Nothing tells which is right, so the one of the look holds and the transfer is tried again.
        return replace(came, bytes=looked.bytes)
    return replace(
        came,
        etag=came.etag or looked.etag,
        last_modified=came.last_modified or looked.last_modified,
        bytes=looked.bytes if came.bytes is None else came.bytes,
    )


def _continues(response: urllib3.BaseHTTPResponse, found: RemoteFile, done: int) -> bool:
    """Whether a 206 is the whole rest of the file that the first answer began."""
    span = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", response.headers.get("Content-Range", ""))
    if response.status != HTTPStatus.PARTIAL_CONTENT or span is None:
        return False
    start, end, total = map(int, span.groups())
    modified = response.headers.get("Last-Modified")
    same_time = modified is None or found.last_modified in (None, iso_date(modified))
    same_file = response.headers.get("ETag") == found.etag and same_time and found.bytes in (None, total)
    return same_file and start == done and end == total - 1
