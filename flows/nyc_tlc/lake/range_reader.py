"""An object of a bucket as a file for reading: each read is one request for just those bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any


class RangeReader(io.RawIOBase):
    """An object that is read range by range."""

    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        """Read an object.

        Args:
            read_range: Gives the bytes from a first one to the one before a second one.
            size: The object's size.
        """
        self._read_range, self._size, self._at = read_range, size, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, without a request."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        """The place."""
        return self._at

    def readall(self) -> bytes:
        """All that is left, in one request."""
        return self.read(self._size - self._at) or b""

    def readinto(self, buffer: Any) -> int:
        """Read as many bytes as the buffer takes, nothing at the end."""
        view = memoryview(buffer).cast("B")
        end = min(self._at + len(view), self._size)
        if end <= self._at:
            return 0
        content = self._read_range(self._at, end)
        view[: len(content)] = content
        self._at += len(content)
        return len(content)
