"""The Prefect server of this clone, which ``make server`` starts, and its password in ``prefect.toml``.

Prefect itself reads ``prefect.toml`` in the clone, for workers too; scripts find it when they are started elsewhere.
The server's other settings are in ``pyproject.toml``.
"""

from __future__ import annotations

import os
import secrets
import sys
import tomllib
from typing import Any, NoReturn
from urllib.parse import urlsplit

from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_SERVER_API_PORT

from nyc_tlc.errors import ConfigurationError, TlcError
from nyc_tlc.runs.temporary_server import prepare_home
from nyc_tlc.settings import CLONE

PASSWORD_FILE = CLONE / "prefect.toml"
WARNING = """\
# The password of the server that make server starts. Whoever has it may run code as the worker.
# Remove this file to use another server, or Prefect Cloud, from this folder.
"""
NEXT = """\
The Prefect server of this clone: {url}
The UI asks for the password (auth_string) in {file}, which scripts and workers here read.
In other terminals:

  cd {clone}
  export PREFECT_API_URL={url}/api
  .venv/bin/python deployments/apply.py
  .venv/bin/prefect --no-prompt deploy --all
  .venv/bin/prefect worker start --pool taxi

"""


def own_password() -> dict[Any, Any]:
    """Return the setting that has the password, if the server that is set is on this machine."""
    host = urlsplit(PREFECT_API_URL.value() or "").hostname
    password = _read_password("api") if host in ("127.0.0.1", "localhost", "::1") else None
    return {PREFECT_API_AUTH_STRING: password} if password else {}


def start_own_server() -> NoReturn:
    """Become the server; make its password first, if there is none.

    Raises:
        ConfigurationError: when ``prefect.toml`` is someone's own and has no password.
    """
    os.chdir(CLONE)
    os.umask(0o077)
    prepare_home()
    if not PASSWORD_FILE.is_file():
        password = f'auth_string = "admin:{secrets.token_urlsafe(24)}"'
        PASSWORD_FILE.write_text(f"{WARNING}[api]\n{password}\n\n[server.api]\n{password}\n")
    if not _read_password("server", "api"):
        fix = "add it: auth_string under [api] and under [server.api]"
        raise ConfigurationError(f"{PASSWORD_FILE} has no password for the server", fix=fix)
    PASSWORD_FILE.chmod(0o600)
    url = f"http://127.0.0.1:{PREFECT_SERVER_API_PORT.value()}"
    sys.stdout.write(NEXT.format(url=url, file=PASSWORD_FILE, clone=CLONE))
    sys.stdout.flush()
    # The address of a running server would be a client's.
    os.environ.pop("PREFECT_API_URL", None)
    os.execv(sys.executable, [sys.executable, "-m", "prefect", "server", "start"])  # noqa: S606  no shell is needed


def _read_password(*section: str) -> str | None:
    table: Any = tomllib.loads(PASSWORD_FILE.read_text()) if PASSWORD_FILE.is_file() else {}
    for name in section:
        table = table.get(name, {})
    password: str | None = table.get("auth_string")
    return password


if __name__ == "__main__":
    try:
        start_own_server()
    except TlcError as error:
        sys.exit(f"error: {error}")
