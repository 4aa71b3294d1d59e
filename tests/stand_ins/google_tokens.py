"""Google's token endpoint on a socket, with a service account of its own.

Implements the JWT bearer grant (RFC 7523) as service account keys use it: an assertion signed by the account's key, for
this endpoint, not expired and with a scope, gets the bearer token; any other gets Google's ``invalid_grant`` or
``invalid_scope``. It is also a proxy that refuses and records every connection, so that no client reaches the internet
(google-auth looks up there where an account's tokens may be used).

Does not implement: TLS, ID tokens, refresh tokens, impersonation, workload identity; tokens don't differ by scope and
never expire.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt

from stand_ins.bigquery import BigQuery
from stand_ins.gcs import Gcs
from stand_ins.serving import Server, serving

GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
#: The audience of assertions is always Google's endpoint, whatever the key file says.
AUDIENCE = "https://oauth2.googleapis.com/token"


class GoogleTokens:
    """The stand-in for the token endpoint.

    Attributes:
        key: The service account's key file, parsed.
        token: The bearer token for an assertion of the account.
        assertions: The assertions it got, in order.
        revoked: Whether the key is no longer accepted.
        turned_away: The ``host:port`` of each refused proxy connection, in order.
    """

    def __init__(self, project: str, token: str) -> None:
        self.token, self.revoked = token, False
        self.assertions: list[str] = []
        self.turned_away: list[str] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                status, answer = stand_in._grant(**{name: values[0] for name, values in form.items()})
                self._send(status, answer)

            def do_CONNECT(self) -> None:
                stand_in.turned_away.append(self.path)
                self._send(403, {"error": "there is no internet here"})

            def _send(self, status: int, answer: dict[str, Any]) -> None:
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Stay quiet."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        private_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._public_key = private_key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        pem = private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.key = {
            "type": "service_account",
            "project_id": project,
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": f"nyc-tlc-flows@{project}.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of a client that can reach only this server."""
        return {"HTTPS_PROXY": self.url, "NO_PROXY": "127.0.0.1,localhost"}

    @contextmanager
    def running(self) -> Iterator[GoogleTokens]:
        """Serve while the block runs."""
        with serving(self._server):
            yield self

    def _grant(self, grant_type: str = "", assertion: str = "") -> tuple[int, dict[str, Any]]:
        self.assertions.append(assertion)
        if grant_type != GRANT:
            return 400, {"error": "unsupported_grant_type", "error_description": f"Invalid grant_type: {grant_type}"}
        try:
            claims = jwt.decode(assertion, certs=self._public_key, audience=AUDIENCE)
        except ValueError:
            claims = {}
        if self.revoked or claims.get("iss") != self.key["client_email"]:
            return 400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
        if not str(claims.get("scope", "")).startswith("https://www.googleapis.com/auth/"):
            return 400, {"error": "invalid_scope", "error_description": "Invalid OAuth scope or ID token audience."}
        return 200, {"access_token": self.token, "expires_in": 3599, "token_type": "Bearer"}


@dataclass(frozen=True)
class GoogleCloud:
    """A project at Google: the service account ``tokens``, one bucket, and BigQuery that reads from it."""

    tokens: GoogleTokens
    gcs: Gcs
    bigquery: BigQuery

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of a client that uses this as Google."""
        hosts = {"STORAGE_EMULATOR_HOST": self.gcs.url, "BIGQUERY_EMULATOR_HOST": self.bigquery.url}
        return self.tokens.environment | hosts


@contextmanager
def google_cloud(project: str, bucket: str, token: str) -> Iterator[GoogleCloud]:
    """Serve a project whose bucket and BigQuery accept only that token."""

    def read(_: str, name: str) -> bytes | None:
        return gcs.read(bucket, name) if name in gcs.names(bucket) else None

    with (
        GoogleTokens(project, token).running() as tokens,
        Gcs(bucket).running() as gcs,
        BigQuery(project, read).running() as bigquery,
    ):
        gcs.tokens, bigquery.tokens = {token}, {token}
        yield GoogleCloud(tokens, gcs, bigquery)
