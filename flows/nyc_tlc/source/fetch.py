"""Download a month to a local file, continue where the transfer stopped, and verify the file."""

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
from nyc_tlc.source.http import Attempts, describe_error, describe_file, iso_date, request
from nyc_tlc.source.location import RemoteFile, file_path
from nyc_tlc.source.part_files import join_parts
from nyc_tlc.source.sample import write_sample
from nyc_tlc.workspace import Workspace

log = logging.getLogger(__name__)

#: Called with the number of bytes received so far, and the file's size if it is known.
Progress = Callable[[int, int | None], None]

CHUNK_BYTES = 1 << 20

#: What shows that a file is complete: the size that the source stated; the end of the transfer (a chunked body); the
#: content (Parquet's footer, gzip's checksum); or nothing (plain CSV from a source that states no size).
VerifiedBy = Literal["size", "transfer", "content", "nothing"]


@dataclass(frozen=True)
class FetchedFile:
    """A month's file on the local disk, verified.

    Attributes:
        remote: The file at the source, as the source describe_file it during the download.
        path: The local file.
        format: Its format, found from its content.
        bytes: Its size in bytes.
        sha256: The digest of its bytes.
        seconds: How long the download took.
        verified_by: What showed that it is complete.
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
    """Create a folder for downloads, and remove it at the end; after a kill, the next run removes it.

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
    """Download a month to the local disk and verify it; the file of a ``file://`` source is not copied.

    Args:
        remote: The month at its source.
        folder: The folder to write to.
        progress: Called with the number of bytes received.

    Raises:
        NotPublished: when the source no longer has it.
        TransientError: when the transfer failed more often than the settings allow.
        SourceError: when the file is not a month of trip records, or is incomplete.
        ConfigurationError: when the disk is full.
    """
    began = time.monotonic()
    path = folder / f"{remote.color}_tripdata_{remote.month}"
    chunked = False
    try:
        if remote.is_local:
            path = join_parts(file_path(remote), path, remote.name)
            digest = _digest(path)
        elif remote.url.startswith("sample:"):
            write_sample(remote.color, remote.month, int(remote.url.rpartition("/")[2]), path)
            digest = _digest(path)
        else:
            remote, digest, chunked = _download(remote, path, progress)
        size = path.stat().st_size
    except OSError as error:
        raise _explain_disk_error(path, remote, error) from None
    if remote.bytes is not None and size != remote.bytes:
        raise SourceError(f"{remote.name}: the file is incomplete", expected=f"{remote.bytes:,} bytes", got=f"{size:,}")
    file_format = identify(path, remote.name, quote=not remote.is_local)
    verified_by: VerifiedBy = "nothing" if file_format == "csv" else "content"
    if remote.bytes is not None or remote.url.startswith("sample:"):
        verified_by = "size"
    elif chunked:
        verified_by = "transfer"
    fetched = FetchedFile(remote, path, file_format, size, digest, time.monotonic() - began, verified_by)
    log.info("%s: fetched %s bytes from %s in %.1f s", remote.name, f"{size:,}", remote.shown, fetched.seconds)
    if verified_by == "nothing":
        log.warning("%s: cannot check that the file is complete: the source does not state its size", remote.name)
    return fetched


def _explain_disk_error(path: Path, remote: RemoteFile, error: OSError) -> ConfigurationError | SourceError:
    """Return the error for a local disk that failed, in one line."""
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
    """Write a response's body to a file; if it stops, continue from there if the server still has the same file.

    Returns:
        The file as the responses describe it, the digest of its bytes, and whether the body was chunked.
    """
    attempts = Attempts(remote)
    digest, done, best, found = hashlib.sha256(), 0, 0, remote
    resumes = False
    with path.open("wb") as file:
        while True:
            headers = {"Range": f"bytes={done}-", "If-Range": found.etag or ""} if resumes else {}
            response = request(remote, "GET", headers, attempts)
            try:
                if resumes and response.status != HTTPStatus.OK and not _is_continuation(response, found, done):
                    resumes = False
                    attempts.pause(f"the server cannot continue after {done:,} bytes; the transfer starts again")
                    continue
                if not resumes and response.status != HTTPStatus.OK:
                    attempts.pause(f"HTTP {response.status} to a request for the whole file")
                    continue
                if response.status == HTTPStatus.OK:
                    digest, done = hashlib.sha256(), 0
                    file.seek(0)
                    file.truncate()
                    found = _merge_responses(remote, describe_file(remote, response.headers))
                for chunk in _chunks(response, found.bytes, done):
                    attempts.require_time()
                    file.write(chunk)
                    digest.update(chunk)
                    if not done or done // CHUNK_BYTES != (done + len(chunk)) // CHUNK_BYTES:
                        progress(done + len(chunk), found.bytes)
                    done += len(chunk)
                if found.bytes in (None, done):
                    progress(done, found.bytes)
                    chunked = response.headers.get("Transfer-Encoding", "").lower() == "chunked"
                    return found, digest.hexdigest(), chunked
                reason = f"received {done:,} of {found.bytes:,} bytes"
            except urllib3.exceptions.HTTPError as error:
                reason = f"the transfer stopped after {done:,} bytes: {describe_error(error)}"
            finally:
                response.close()
            if done > best:
                best = done
                attempts.renew()
            resumes = done > 0 and re.fullmatch(r'"[!#-~]*"', found.etag or "") is not None
            attempts.pause(reason)


def _chunks(response: urllib3.BaseHTTPResponse, size: int | None, done: int) -> Iterator[bytes]:
    """Yield chunks of the body until the file's size is reached; a last chunk that is too long is an error later."""
    while chunk := response.read1(CHUNK_BYTES, decode_content=False):
        done += len(chunk)
        yield chunk
        if size is not None and done >= size:
            return


def _merge_responses(head: RemoteFile, get: RemoteFile) -> RemoteFile:
    """Return what HEAD and GET together say about a file. If the file changed between them, return what GET says."""
    if head.etag != get.etag and None not in (head.etag, get.etag):
        return get
    if head.last_modified != get.last_modified and None not in (head.last_modified, get.last_modified):
        return get
    if None not in (head.bytes, get.bytes) and head.bytes != get.bytes:
        # It is unknown which size is right. With that of HEAD, the transfer fails and is tried again.
        return replace(get, bytes=head.bytes)
    return replace(
        get,
        etag=get.etag or head.etag,
        last_modified=get.last_modified or head.last_modified,
        bytes=head.bytes if get.bytes is None else get.bytes,
    )


def _is_continuation(response: urllib3.BaseHTTPResponse, found: RemoteFile, done: int) -> bool:
    """Return whether a 206 response has the complete rest of the file that the first response began."""
    span = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", response.headers.get("Content-Range", ""))
    if response.status != HTTPStatus.PARTIAL_CONTENT or span is None:
        return False
    start, end, total = map(int, span.groups())
    modified = response.headers.get("Last-Modified")
    same_time = modified is None or found.last_modified in (None, iso_date(modified))
    same_file = response.headers.get("ETag") == found.etag and same_time and found.bytes in (None, total)
    return same_file and start == done and end == total - 1
