"""A forward proxy: it passes requests with a whole URL on, and opens tunnels for CONNECT."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from stand_ins.serving import Server, serving


class Proxy:
    """The proxy.

    Attributes:
        requests: The method and target of each request it got, in order.
        credentials: The Proxy-Authorization of each of them.
        refusal: The status of all its answers; 0 to do its work.
        upstream: Host and port of the server that it asks, whatever host it was asked for.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.credentials: list[str | None] = []
        self.refusal = 0
        self.upstream: str | None = None
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                if self.is_passed():
                    target = urlsplit(self.path)
                    client = http.client.HTTPConnection(proxy.upstream or target.netloc)
                    headers = {name: value for name, value in self.headers.items() if "roxy-" not in name}
                    client.request(self.command, target.path, headers=headers)
                    answer = client.getresponse()
                    self.send_response(answer.status)
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(answer.read())
                    client.close()

            def do_CONNECT(self) -> None:
                if self.is_passed():
                    host, _, port = self.path.partition(":")
                    with socket.create_connection((host, int(port))) as server:
                        self.send_response(200)
                        self.end_headers()
                        back = threading.Thread(target=pump, args=(server, self.connection), daemon=True)
                        back.start()
                        pump(self.connection, server)
                        back.join()
                    self.close_connection = True

            def is_passed(self) -> bool:
                proxy.requests.append(f"{self.command} {self.path}")
                proxy.credentials.append(self.headers.get("Proxy-Authorization"))
                if proxy.refusal:
                    self.send_response(proxy.refusal)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                return not proxy.refusal

            def log_message(self, *_: object) -> None:
                """Stay quiet."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        """Serve while the block runs."""
        with serving(self._server):
            yield self


def pump(source: socket.socket, target: socket.socket) -> None:
    """Pass bytes on until the source ends."""
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
