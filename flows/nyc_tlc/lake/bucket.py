"""What the lakes in object stores share: a folder in a bucket, reads by ranges, and errors that say what to do."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from nyc_tlc.errors import ConfigurationError, LakeError, TlcError, TransientError
from nyc_tlc.lake.keys import describe_key
from nyc_tlc.lake.lake import Lake
from nyc_tlc.lake.range_reader import RangeReader


@dataclass(frozen=True)
class FailedCall:
    """A call of a store's client that failed; its methods return the error to raise.

    Attributes:
        name: What was read or written.
        url: The lake's URL.
        got: The store's answer in one line.
    """

    name: str
    url: str
    got: str

    def without_answer(self) -> TlcError:
        """Return the error for a failure after which a later attempt can succeed."""
        return TransientError(f"{self.name}: {self.url} did not answer", got=self.got, fix="try again later")

    def with_bad_credentials(self) -> TlcError:
        """Return the error for credentials that the store refuses."""
        return ConfigurationError(
            f"{self.name}: the credentials for {self.url} are refused",
            got=self.got,
            fix="renew them as blocks/README.md says, and register the profile again",
        )

    def without_permission(self, fix: str) -> TlcError:
        """Return the error for a permission that the credentials lack."""
        return ConfigurationError(f"{self.name}: a permission is missing in {self.url}", got=self.got, fix=fix)

    def without_bucket(self, what: str = "bucket") -> TlcError:
        """Return the error for a bucket, or a container, that does not exist."""
        return ConfigurationError(
            f"{self.name}: there is no {what} at {self.url}", got=self.got, fix="create it, or correct its name"
        )

    def of_lost_upload(self) -> TlcError:
        """Return the error for an upload that the store no longer has."""
        return TransientError(
            f"{self.name}: an upload to {self.url} was lost on the way", got=self.got, fix="run it again"
        )

    def of_other_kind(self) -> TlcError:
        """Return the error for any other failure."""
        return LakeError(f"{self.name}: {self.url} failed", got=self.got)


class BucketLake(Lake):
    """A data lake in a folder of a bucket."""

    def __init__(
        self, folder: str, failures: tuple[type[Exception], ...], explain: Callable[[Exception, str, str], TlcError]
    ) -> None:
        """Use a folder as the lake's root.

        Args:
            folder: The folder in the bucket; the bucket itself if it is empty.
            failures: The client's errors for failures of the network or the service.
            explain: Returns the error to raise for such an error, the name of what was read or written, and the URL.
        """
        self._folder, self._failures, self._explain = PurePosixPath(folder.strip("/")), failures, explain

    @abstractmethod
    def read_range(self, key: str, start: int, end: int) -> bytes:
        """Read a part of an object.

        Args:
            key: Its key.
            start: The position of the first byte.
            end: The position after the last byte.

        Raises:
            LakeError: when the object does not exist.
        """

    def name(self, key: str) -> str:
        """Return an object's name in the bucket."""
        return str(self._folder / key) + "/" * key.endswith("/") if str(self._folder) != "." else key

    def key(self, name: str) -> str:
        """Return the key of an object by its name in the bucket."""
        return name.removeprefix(self.name("")).lstrip("/")

    def local_path(self, key: str) -> None:
        """Return None: a bucket's objects are not on this machine."""

    def open(self, key: str) -> BinaryIO:
        """Open an object for reading, range by range."""
        size = self.size(key)
        if size is None:
            raise LakeError(f"there is no {key} in the lake", got=self.url(""))
        return cast(BinaryIO, RangeReader(partial(self.read_range, key), size))

    @contextlib.contextmanager
    def translate_errors(self, key: str) -> Iterator[None]:
        """Translate the client's errors into errors that say what to do."""
        try:
            yield
        except self._failures as error:
            raise self._explain(error, describe_key(key), self.url("")) from error
