"""Serve a stand-in while a test runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from socketserver import BaseServer


class Server(ThreadingHTTPServer):
    """A server that takes many connections at once: one that does not fit would be tried again after a second."""

    daemon_threads = True
    request_queue_size = 128


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
