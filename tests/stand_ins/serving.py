"""Serve a stand-in while a test runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseServer


@contextmanager
def serving(server: BaseServer, *released: threading.Event) -> Iterator[None]:
    """Serve in a thread while the block runs.

    Args:
        server: The server.
        *released: Events that held requests wait for; set at the end, before the server is shut down.
    """
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield
    finally:
        for event in released:
            event.set()
        server.shutdown()
        server.server_close()
