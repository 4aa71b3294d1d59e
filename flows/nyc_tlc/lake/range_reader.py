"""Read an object of a bucket like a file: each read is one request for only those bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any


class RangeReader(io.RawIOBase):
    """An object that is read range by range."""

    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        """Start at the object's first byte.

        Args:
            read_range: Returns the bytes from a start position to before an end position.
            size: The object's size in bytes.
        """
        self._read_range, self._size, self._at = read_range, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Change the position, without a request. Return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def readall(self) -> bytes:
        """Read the rest in one request."""
        return self.read(self._size - self._at) or b""

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer in one request. Return the number of bytes; 0 at the end."""
        view = memoryview(buffer).cast("B")
        end = min(self._at + len(view), self._size)
        if end <= self._at:
            return 0
        content = self._read_range(self._at, end)
        view[: len(content)] = content
        self._at += len(content)
        return len(content)
