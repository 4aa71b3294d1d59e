"""Rows for Postgres' binary COPY: one thread encodes them while another one sends them."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator

import pgpq
import pyarrow as pa

#: Rows that are encoded and sent together, about a megabyte.
COPY_BATCH_ROWS = 1 << 12
#: How many encoded batches may wait to be sent.
COPY_BATCHES_AHEAD = 8


class CopyStream:
    """The file that COPY reads: a thread encodes a few batches ahead."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self._schema, self._batches = schema, batches
        self._ready: queue.Queue[bytes | BaseException] = queue.Queue(COPY_BATCHES_AHEAD)
        self._ended = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._encode, name="encode", daemon=True)
        self._thread.start()

    def read(self, size: int) -> bytes:
        """Return the next batch whatever its size, nothing at the end. Raise the error that stopped the encoding."""
        ready = b"" if self._ended else self._ready.get()
        if isinstance(ready, BaseException):
            raise ready
        self._ended = not ready
        return ready

    def stop(self) -> None:
        """Stop the thread, even if not all batches were read."""
        self._stopped.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._ready.get(timeout=0.05)

    def _put(self, encoded: bytes) -> None:
        # COPY takes an empty result for the end.
        if encoded:
            self._ready.put(encoded)

    def _encode(self) -> None:
        encoder = pgpq.ArrowToPostgresBinaryEncoder(self._schema)
        try:
            self._put(encoder.write_header())
            for batch in self._batches:
                for start in range(0, len(batch), COPY_BATCH_ROWS):
                    if self._stopped.is_set():
                        return
                    self._put(encoder.write_batch(batch.slice(start, COPY_BATCH_ROWS)))
            self._put(encoder.finish())
            self._ready.put(b"")
        except BaseException as error:  # noqa: BLE001  raised again where COPY reads
            self._ready.put(error)
