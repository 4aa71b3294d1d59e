"""Azure Blob Storage on a socket: azurite, Microsoft's own emulator, behind a proxy that adds faults.

Azurite is from npm (npm install azurite). The proxy passes requests on as they are, one after the other.
"""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from wsgiref.types import StartResponse, WSGIEnvironment

import httpx
from azure.storage.blob import ContainerClient, LinearRetry

from nyc_tlc.lake.azure import client_options
from nyc_tlc.settings import read_settings
from stand_ins.gcs import Fault
from stand_ins.object_store import HELD, ObjectStore
from waiting import eventually, free_port

#: The account and key that every azurite accepts.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def find_azurite() -> str | None:
    """Return the program that TLC_TEST_AZURITE names, else the one that ``make azurite`` installs, or on the PATH."""
    installed = shutil.which(Path(sys.prefix) / "azurite/node_modules/.bin/azurite-blob")
    return os.environ.get("TLC_TEST_AZURITE") or installed or shutil.which("azurite-blob")


class Azure(ObjectStore):
    """Azurite, with one container."""

    def __init__(self, url: str) -> None:
        super().__init__(self._forward)
        self._azurite, self.container = url, f"taxi-lake-{uuid.uuid4().hex[:8]}"
        with self._direct() as client:
            client.create_container()

    def client(self, *, held: bool = False, **options: Any) -> ContainerClient:
        """Return the real client, as a profile's block makes it."""
        agent = HELD if held else "test"
        soon = LinearRetry(backoff=0, retry_total=read_settings().http_retries, random_jitter_range=0)
        options = client_options() | {"user_agent": agent, "retry_policy": soon} | options
        return ContainerClient(f"{self.url}/{ACCOUNT}", self.container, KEY, **options)

    def names(self) -> set[str]:
        """Return the names of the container's blobs."""
        with self._direct() as client:
            return set(client.list_blob_names())

    def read(self, name: str) -> bytes:
        """Return a blob's content."""
        with self._direct() as client:
            return client.download_blob(name).readall()

    def refuse(self, fault: Fault) -> tuple[bytes, dict[str, str]]:
        """Return the body and the headers of an error of Azure. The fault's message is its code."""
        error = f"<?xml version='1.0'?><Error><Code>{fault.message}</Code><Message>injected</Message></Error>"
        headers = {"Content-Type": "application/xml", "x-ms-error-code": fault.message}
        return error.encode(), fault.headers | headers

    def _direct(self) -> ContainerClient:
        return ContainerClient(f"{self._azurite}/{ACCOUNT}", self.container, KEY)

    def _forward(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with closing(http.client.HTTPConnection(urlsplit(self._azurite).netloc, timeout=60)) as connection:
            body = environ["wsgi.input"].read() or None
            connection.request(environ["REQUEST_METHOD"], environ["RAW_URI"], body, environ["headers"])
            answer = connection.getresponse()
            content = answer.read()
            hop_by_hop = {"connection", "keep-alive", "transfer-encoding", "date", "server"}
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in hop_by_hop]
            start_response(f"{answer.status} {answer.reason}", kept)
        return [content]


@contextmanager
def azurite(program: str, folder: Path) -> Iterator[str]:
    """Serve while the block runs; yield the address."""
    port = free_port()
    place = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    options = ["--silent", "--skipApiVersionCheck", "--inMemoryPersistence", "--disableTelemetry"]

    def answers() -> bool:
        try:
            httpx.get(f"http://127.0.0.1:{port}/")
        except httpx.TransportError:
            return False
        return True

    with subprocess.Popen([program, *place[:4], *options], stdout=subprocess.DEVNULL) as process:
        try:
            eventually(answers, 60, every=0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
