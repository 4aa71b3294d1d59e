"""Download a month to a local file, continue where the transfer stopped, and verify the file."""

from __future__ import annotations

import errno
import gzip
import hashlib
import logging
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Literal

import httpx

from nyc_tlc.contract.dataset import SourceFormat
from nyc_tlc.errors import ConfigurationError, SourceError
from nyc_tlc.settings import read_settings
from nyc_tlc.source.file_format import identify
from nyc_tlc.source.http import Attempts, describe_error, describe_file, is_gzipped, make_refusal, request
from nyc_tlc.source.location import RemoteFile, file_path
from nyc_tlc.source.part_files import copy_file
from nyc_tlc.source.sample import write_sample
from nyc_tlc.workspace import workspace

log = logging.getLogger(__name__)

#: Called with the number of bytes received so far, and the file's size if it is known.
Progress = Callable[[int, int | None], None]

CHUNK_BYTES = 1 << 20
#: The bytes that an answer of any size may unpack to.
HARMLESS_BYTES = 1 << 26

#: What shows that a file is complete: the size that the source stated; the end of the transfer (a chunked or gzipped
#: body); the content (Parquet's footer, gzip's checksum); an ETag that is the MD5 digest; or nothing (plain CSV).
VerifiedBy = Literal["size", "transfer", "content", "etag", "nothing"]


@dataclass(frozen=True)
class FetchedFile:
    """A month's file on the local disk, verified.

    Attributes:
        remote: The file at the source, as the source described it during the download.
        seconds: How long the download took.
        verified_by: What showed that it is complete.
        key: Its key in the lake, if it was read from there; None if the source sent it.
    """

    remote: RemoteFile
    path: Path
    format: SourceFormat
    bytes: int
    sha256: str
    seconds: float
    verified_by: VerifiedBy = "content"
    key: str | None = None


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Create a folder for downloads, and remove it at the end; after a kill, the next run removes it.

    Raises:
        ConfigurationError: when the scratch space can't be written.
    """
    scratch = read_settings().scratch
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(workspace(scratch))
        except OSError as error:
            raise ConfigurationError(f"cannot write to {scratch}", got=str(error), fix="set TLC_HOME") from error
        yield folder


def fetch_month(remote: RemoteFile, folder: Path, progress: Progress = lambda done, total: None) -> FetchedFile:
    """Download a month to a folder on the local disk, or copy it there, and verify it.

    Raises:
        NotPublished: when the source no longer has it.
        TransientError: when the transfer failed more often than the settings allow.
        SourceError: when the file is not a month of trip records, or is incomplete.
        ConfigurationError: when the disk is full.
    """
    began = time.monotonic()
    path = folder / f"{remote.color}_tripdata_{remote.month}"
    transferred = False
    try:
        if remote.is_local:
            copy_file(file_path(remote), path, remote.name)
        elif remote.url.startswith("sample:"):
            write_sample(remote.color, remote.month, int(remote.url.rpartition("/")[2]), path)
        else:
            remote, transferred = _download(remote, path, progress)
        size, digest = path.stat().st_size, digest_file(path)
    except OSError as error:
        raise _explain_disk_error(path, remote, error) from None
    if remote.bytes is not None and size != remote.bytes:
        raise SourceError(f"{remote.name}: the file is incomplete", expected=f"{remote.bytes:,} bytes", got=f"{size:,}")
    file_format = identify(path, remote.name, quote=remote.may_be_quoted)
    verified_by: VerifiedBy = "nothing" if file_format == "csv" else "content"
    if remote.bytes is not None or remote.url.startswith("sample:"):
        verified_by = "size"
    elif transferred:
        verified_by = "transfer"
    elif file_format == "csv" and remote.etag == f'"{digest_file(path, "md5")}"':
        verified_by = "etag"
    fetched = FetchedFile(remote, path, file_format, size, digest, time.monotonic() - began, verified_by)
    log.info("%s: fetched %s bytes from %s in %.1f s", remote.name, f"{size:,}", remote.shown, fetched.seconds)
    if verified_by == "nothing":
        log.warning("%s: cannot check that the file is complete: the source does not state its size", remote.name)
    return fetched


def _explain_disk_error(path: Path, remote: RemoteFile, error: OSError) -> ConfigurationError | SourceError:
    reason = os.strerror(error.errno or 0)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        needed = f" for {remote.bytes:,} bytes" if remote.bytes else ""
        fix = "free some space, or set TLC_HOME to another disk"
        return ConfigurationError(f"{remote.name}: no space left in {path.parent}{needed}", got=reason, fix=fix)
    return SourceError(f"{remote.name}: cannot read or write {path}", got=reason)


def digest_file(path: Path, algorithm: str = "sha256") -> str:
    """Return the digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _download(remote: RemoteFile, path: Path, progress: Progress) -> tuple[RemoteFile, bool]:
    """Write a response's body to a file; if it stops, continue from there if the server still has the same file.

    Returns:
        The file as the responses describe it, and whether its transfer has an end of its own, which was seen.
    """
    done, best, found, size = 0, 0, remote, remote.bytes
    resumes = gzipped = False
    with closing(Attempts(remote)) as attempts, path.open("wb") as file:
        while True:
            headers = {"Range": f"bytes={done}-", "If-Range": found.etag or ""} if resumes else {}
            with closing(request(remote, "GET", attempts, headers)) as response:
                if response.status_code == HTTPStatus.OK:
                    done = file.seek(0)
                    file.truncate()
                    found, gzipped = _merge_responses(remote, describe_file(remote, response)), is_gzipped(response)
                    size = None if gzipped else found.bytes
                elif resumes and (size := _read_size_of_rest(response, found, done)):
                    found = replace(found, bytes=size)
                elif response.status_code in (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
                    resumes = False
                    attempts.pause(f"no bytes to continue with after {done:,}; the transfer starts again")
                    continue
                else:
                    raise make_refusal(remote, response)
                try:
                    for chunk in response.iter_raw():
                        if size is not None and done + len(chunk) > size:
                            reason, done = f"received more than the file's {size:,} bytes", 0
                            break
                        file.write(chunk)
                        if not done or done // CHUNK_BYTES != (done + len(chunk)) // CHUNK_BYTES:
                            progress(done + len(chunk), size)
                        done += len(chunk)
                    else:
                        if size in (None, done):
                            break
                        reason = f"received {done:,} of {size:,} bytes"
                except httpx.HTTPError as error:
                    reason = f"the transfer stopped after {done:,} bytes: {describe_error(error)}"
            if done > best:
                best = done
                attempts.renew()
            resumes = done > 0 and not gzipped and re.fullmatch(r'"[!#-~]*"', found.etag or "") is not None
            attempts.pause(reason)
    progress(done, size)
    if gzipped:
        _unpack(path, remote.name)
    return found, gzipped or response.headers.get("Transfer-Encoding", "").lower() == "chunked"


def _unpack(path: Path, name: str) -> None:
    packed = path.rename(path.with_suffix(".gz"))
    allowed = max(HARMLESS_BYTES, read_settings().max_expansion * packed.stat().st_size)
    try:
        with gzip.open(packed) as source, path.open("wb") as target:
            while chunk := source.read(CHUNK_BYTES):
                if target.tell() + len(chunk) > allowed:
                    raise SourceError(f"{name}: unpacks to more than {allowed:,} bytes", fix="raise TLC_MAX_EXPANSION")
                target.write(chunk)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(f"{name}: cannot undo the answer's Content-Encoding gzip", got=str(error)) from None
    packed.unlink()


def _merge_responses(head: RemoteFile, get: RemoteFile) -> RemoteFile:
    """Return what HEAD and GET together say about a file. If the file changed between them, return what GET says."""
    if head.etag != get.etag and None not in (head.etag, get.etag):
        return get
    if head.last_modified != get.last_modified and None not in (head.last_modified, get.last_modified):
        return get
    # If their sizes differ, it is unknown which is right. With that of HEAD, the transfer fails and is tried again.
    return replace(
        get,
        etag=get.etag or head.etag,
        last_modified=get.last_modified or head.last_modified,
        bytes=get.bytes if head.bytes is None else head.bytes,
    )


def _read_size_of_rest(response: httpx.Response, found: RemoteFile, done: int) -> int | None:
    """Return the file's size if a 206 response has the complete rest of the file that the first response began."""
    rest, headers = describe_file(found, response), response.headers
    span = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/[0-9]{1,18}", headers.get("Content-Range", ""))
    is_plain = "Content-Encoding" not in headers and not headers.get("Content-Type", "").startswith("multipart/")
    if response.status_code != HTTPStatus.PARTIAL_CONTENT or span is None or rest.bytes is None or not is_plain:
        return None
    is_rest = int(span[1]) == done < rest.bytes == int(span[2]) + 1
    same_time = rest.last_modified == found.last_modified or None in (rest.last_modified, found.last_modified)
    same_file = rest.etag == found.etag and same_time and found.bytes in (None, rest.bytes)
    return rest.bytes if is_rest and same_file else None
