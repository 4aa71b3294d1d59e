"""An HTTP server that takes what is posted to it: notifications, OpenLineage's events."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from stand_ins.serving import serving

#: The path, the header Authorization and the body of each request.
Mail = list[tuple[str, str | None, dict[str, Any]]]


@contextlib.contextmanager
def inbox() -> Iterator[tuple[str, Mail]]:
    """Serve it. Yield its address, and the list to which requests are added."""
    mail: Mail = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            mail.append((self.path, self.headers["Authorization"], body))
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}", mail
