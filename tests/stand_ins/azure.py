"""Azure Blob Storage on a socket: azurite, Microsoft's own emulator, from npm (npm install azurite)."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3
from azure.storage.blob import ContainerClient
from urllib3.util import Retry

from nyc_tlc.lake.azure import client_options
from waiting import free_port

#: The account and key that every azurite accepts.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def find_azurite() -> str | None:
    """Return the program that TLC_TEST_AZURITE names, else the one on the PATH."""
    return os.environ.get("TLC_TEST_AZURITE") or shutil.which("azurite-blob")


class Azure:
    """Azurite, with one container."""

    def __init__(self, url: str) -> None:
        self.url, self.container = url, f"taxi-lake-{uuid.uuid4().hex[:8]}"
        self.client().create_container()

    def client(self, **options: Any) -> ContainerClient:
        """Return the real client."""
        return ContainerClient(f"{self.url}/{ACCOUNT}", self.container, KEY, **client_options(), **options)

    def names(self) -> set[str]:
        """Return the names of the container's blobs."""
        with self.client() as client:
            return set(client.list_blob_names())

    def read(self, name: str) -> bytes:
        """Return a blob's content."""
        with self.client() as client:
            return client.download_blob(name).readall()


@contextmanager
def azurite(program: str, folder: Path) -> Iterator[str]:
    """Serve while the block runs; yield the address."""
    port = free_port()
    place = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    options = ["--silent", "--skipApiVersionCheck", "--inMemoryPersistence", "--disableTelemetry"]
    with subprocess.Popen([program, *place[:4], *options], stdout=subprocess.DEVNULL) as process:
        try:
            http = urllib3.PoolManager()
            http.request(
                "GET", f"http://127.0.0.1:{port}/", retries=Retry(total=100, backoff_factor=0.1, backoff_max=0.2)
            )
            http.clear()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
