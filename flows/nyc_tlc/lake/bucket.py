"""What the lakes in object stores share: a folder in a bucket, reads by ranges, and errors that say what to do.

A transfer, its checksum and its retries are those of the vendor's client. What the clients do not repeat is repeated
here: a read whose answer was cut off on the way.
"""

from __future__ import annotations

import contextlib
import io
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, ClassVar, NamedTuple, TypeVar, cast

from nyc_tlc.errors import ConfigurationError, LakeError, TlcError, TransientError
from nyc_tlc.lake.keys import describe_key
from nyc_tlc.lake.store import Found, Lake, SwapRefusedError

T = TypeVar("T")
#: How often a read is done before a cut-off answer is an error.
READ_ATTEMPTS = 4
#: The HTTP statuses after which a later attempt can succeed.
TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


class Failure(NamedTuple):
    """A failed call of a store's client.

    Attributes:
        status: The HTTP status of the store's answer; None if there was no answer.
        text: The answer in one line.
        transient: Whether a later attempt can succeed although the status does not say so.
        cut_off: Whether the answer to a read was cut off, and the client does not repeat the read.
        missing: Whether the object does not exist.
        refused: Whether a conditional write found another version of the object.
    """

    status: int | None
    text: str
    transient: bool = False
    cut_off: bool = False
    missing: bool = False
    refused: bool = False


class Refusal(NamedTuple):
    """A kind of answer that stays the same until a person does something.

    Attributes:
        status: Its HTTP status; None for any.
        part: A part of its text, in lower case.
        what: What is wrong; ``{url}`` stands for the lake's URL.
    """

    status: int | None
    part: str
    what: str
    fix: str


BAD_CREDENTIALS = (
    "the credentials for {url} are refused",
    "renew them as blocks/README.md says, and register the profile again",
)
NO_PERMISSION = "a permission is missing in {url}"
NO_BUCKET = ("there is no such bucket or container: {url}", "create the bucket or container, or correct its name")
LOCKED = (
    "a policy of {url} keeps objects from being replaced or deleted",
    "use one without a retention or immutability policy: a lake replaces manifests and removes old files",
)


class BucketLake(Lake):
    """A data lake in a folder of a bucket. A store's lake implements the methods that begin with an underscore."""

    #: The client's errors for failures of the network or the service.
    failures: ClassVar[tuple[type[Exception], ...]]
    #: The store's refusals; the first that fits decides what an error says.
    refusals: ClassVar[Sequence[Refusal]]

    def __init__(self, folder: str) -> None:
        """Use a folder of the bucket as the lake's root; the bucket itself if ``folder`` is empty."""
        self._folder = PurePosixPath(folder.strip("/"))

    @classmethod
    @abstractmethod
    def _describe(cls, error: Exception) -> Failure:
        """Describe one of the client's errors."""

    @abstractmethod
    def _head(self, name: str) -> tuple[int, Mapping[str, str]] | None:
        """Return an object's size and metadata."""

    @abstractmethod
    def _get_range(self, name: str, start: int, end: int) -> bytes:
        """Return the bytes from a position to before another one."""

    @abstractmethod
    def _get(self, name: str) -> Found:
        """Return an object's bytes and version."""

    @abstractmethod
    def _put(self, name: str, content: bytes, metadata: Mapping[str, str], **condition: Any) -> None:
        """Write an object."""

    @abstractmethod
    def _require_version(self, expected: str | None) -> dict[str, Any]:
        """Return the condition for ``_put`` that an object has a version; if it is None, that it does not exist."""

    @abstractmethod
    def _list(self, prefix: str) -> Iterable[str]:
        """Return the names that start with a prefix."""

    @abstractmethod
    def _delete(self, name: str) -> None:
        """Delete an object."""

    @abstractmethod
    def _duplicate(self, name: str, to: str) -> bool:
        """Copy an object inside the store; it keeps its type and its metadata."""

    @abstractmethod
    def _send(self, name: str, path: Path, metadata: Mapping[str, str]) -> None:
        """Send a file by the client's managed transfer."""

    @classmethod
    def explain(cls, error: Exception, name: str, url: str) -> TlcError:
        """Return the error to raise for an error of the client."""
        failure = cls._describe(error)
        if failure.transient or failure.status in TRANSIENT_STATUSES:
            return TransientError(f"{name}: {url} did not answer", got=failure.text, fix="try again later")
        for status, part, what, fix in cls.refusals:
            if status in (None, failure.status) and part in failure.text.lower():
                return ConfigurationError(f"{name}: {what.format(url=url)}", got=failure.text, fix=fix)
        return LakeError(f"{name}: {url} failed", got=failure.text)

    def name(self, key: str) -> str:
        return str(self._folder / key) + "/" * key.endswith("/") if str(self._folder) != "." else key

    def size(self, key: str) -> int | None:
        found = self._if_exists(key, self._head)
        return found[0] if found else None

    def open(self, key: str) -> BinaryIO:
        size = self.size(key)
        if size is None:
            raise LakeError(f"there is no {key} in the lake", got=self.url(""))
        return cast(BinaryIO, RangeReader(partial(self._read, key, self._get_range, self.name(key)), size))

    def find(self, key: str) -> Found:
        return self._if_exists(key, self._get) or Found()

    def write(self, key: str, content: bytes) -> None:
        with self._translate_errors(key):
            self._put(self.name(key), content, {})

    def swap(self, key: str, content: bytes, expected: str | None, labels: Mapping[str, str]) -> None:
        with self._translate_errors(key):
            try:
                self._put(self.name(key), content, labels, **self._require_version(expected))
            except self.failures as error:
                if self._describe(error).refused:
                    raise SwapRefusedError(key) from None
                raise

    def list_keys(self, prefix: str) -> set[str]:
        root = self.name("")
        names = self._read(prefix, lambda: list(self._list(self.name(prefix))))
        return {name.removeprefix(root).lstrip("/") for name in names}

    def remove(self, key: str) -> None:
        self._if_exists(key, self._delete)

    def copy(self, key: str, to: str) -> bool:
        return bool(self._if_exists(key, lambda name: self._duplicate(name, self.name(to))))

    def upload(self, key: str, path: Path, sha256: str, labels: Mapping[str, str]) -> None:
        with self._translate_errors(key):
            try:
                self._send(self.name(key), path, {**labels, "sha256": sha256})
            except self.failures:
                # The client may have repeated a request that took effect and of which only the answer was lost.
                there = self._if_exists(key, self._head)
                if there is None or (there[0], there[1].get("sha256")) != (path.stat().st_size, sha256):
                    raise

    def _read(self, key: str, read: Callable[..., T], *arguments: object) -> T:
        """Read; repeat it when the answer was cut off. The client has already repeated what it repeats itself."""
        with self._translate_errors(key):
            for _ in range(READ_ATTEMPTS - 1):
                try:
                    return read(*arguments)
                except self.failures as error:
                    if not self._describe(error).cut_off:
                        raise
            return read(*arguments)

    def _if_exists(self, key: str, call: Callable[[str], T | None]) -> T | None:
        """Call the client with an object's name. Return None if the object does not exist."""

        def call_if_exists() -> T | None:
            try:
                return call(self.name(key))
            except self.failures as error:
                if self._describe(error).missing:
                    return None
                raise

        return self._read(key, call_if_exists)

    @contextlib.contextmanager
    def _translate_errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except self.failures as error:
            raise self.explain(error, describe_key(key), self.url("")) from error


class RangeReader(io.RawIOBase):
    """An object that is read like a file: each read is one request for only those bytes."""

    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        """Start at the first of ``size`` bytes. ``read_range`` returns those from a position to before another one."""
        self._read_range, self._size, self._at = read_range, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readall(self) -> bytes:
        return self.read(self._size - self._at) or b""

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        end = min(self._at + len(view), self._size)
        if end <= self._at:
            return 0
        content = self._read_range(self._at, end)
        view[: len(content)] = content
        self._at += len(content)
        return len(content)
