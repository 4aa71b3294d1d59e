"""Register a profile's blocks on a real Prefect server."""

import json
import re
import runpy
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect_gcp import GcpCredentials, GcsBucket
from prefect_sqlalchemy import SqlAlchemyConnector

from conftest import ROOT, PrefectServer
from nyc_tlc.profiles.opening import find_schema
from nyc_tlc.profiles.registering import SECTIONS, ConnectionInfo

SECRET = "p@ss:w/o%r#d"
DEV = ["local-file-system/taxi-dev", "sqlalchemy-connector/taxi-dev"]
GCP = ["gcp-credentials/taxi-gcp", "gcs-bucket/taxi-gcp", "bigquery-warehouse/taxi-gcp"]


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def standings(self) -> dict[str, str]:
        """Block -> what was done about it."""
        lines = (re.split(r"  +", line) for line in self.out.splitlines())
        return {block: status for status, block in lines}


Register = Callable[..., Ran]


@pytest.fixture(autouse=True)
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the folder blocks/ to the working directory, and unset the variables in its files."""
    shutil.copytree(ROOT / "blocks", tmp_path / "blocks", ignore=shutil.ignore_patterns("__pycache__"))
    for profile in (tmp_path / "blocks/profiles").iterdir():
        for name in re.findall(r"\$\{(\w+)", profile.read_text()):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("nyc_tlc.yaml_files.CLONE", tmp_path)
    return tmp_path / "blocks"


@pytest.fixture
def client(prefect_server: PrefectServer) -> Iterator[SyncPrefectClient]:
    """Return a client of the server; delete the profiles' blocks after the test."""
    settings = {PREFECT_API_URL: prefect_server.url, PREFECT_HOME: prefect_server.home}
    with temporary_settings(settings), get_client(sync_client=True) as client:
        yield client
        for block in client.read_block_documents():
            if str(block.name).startswith("taxi-"):
                client.delete_block_document(block.id)


@pytest.fixture
def register(clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Register:
    """Return a function that runs blocks/register.py in this process."""

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["blocks/register.py", *arguments])
        monkeypatch.setattr(sys, "path", [*sys.path])
        with pytest.raises(SystemExit) as exited:
            runpy.run_path(str(clone / "register.py"), run_name="__main__")
        shown = capsys.readouterr()
        return Ran(int(str(exited.value.code)), shown.out, shown.err)

    return run


@pytest.fixture
def service_account(tmp_path: Path) -> Path:
    """Write the JSON key file of an unknown service account."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = tmp_path / "key.json"
    content = {
        "type": "service_account",
        "project_id": "elsewhere",
        "private_key_id": "1",
        "private_key": key.decode(),
        "client_email": "taxi@elsewhere.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    file.write_text(json.dumps(content))
    return file


def test_dev_needs_one_variable_and_what_changed_is_saved_and_never_shown(
    client: SyncPrefectClient, clone: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "old-" + SECRET)
    made = register("dev")
    assert (made.status, made.err) == (0, "")
    assert made.standings == dict.fromkeys(DEV, "created")
    connection = SqlAlchemyConnector.load("taxi-dev").connection_info
    assert connection.create_url().render_as_string() == "postgresql+psycopg2://nyc_tlc:***@localhost:5432/ny_taxi"
    assert connection.create_url().password == "old-" + SECRET
    before = {block.id for block in client.read_block_documents()}

    # Variables come from .env, and the environment wins.
    Path(".env").write_text(f"POSTGRES_HOST=from-file\nPOSTGRES_DB=from-file\nPOSTGRES_PASSWORD='{SECRET}'\n")
    monkeypatch.delenv("POSTGRES_PASSWORD")
    monkeypatch.setenv("POSTGRES_DB", "from-environment")
    monkeypatch.setenv("TLC_SCHEMA", "my_taxi")
    updated = register("dev")
    schema = {"variable/taxi-dev-schema": "created"}
    assert (updated.status, updated.standings) == (0, dict.fromkeys(DEV, "updated") | schema)
    assert SECRET not in updated.out + updated.err
    connection = SqlAlchemyConnector.load("taxi-dev").connection_info
    assert (connection.host, connection.database) == ("from-file", "from-environment")
    assert connection.password.get_secret_value() == SECRET
    assert {block.id for block in client.read_block_documents()} == before
    (shown,) = [
        block for block in client.read_block_documents(include_secrets=False) if "connection_info" in block.data
    ]
    assert shown.data["connection_info"]["password"] == "********"

    monkeypatch.setenv("TLC_SCHEMA", "this_one")
    assert (find_schema("dev"), find_schema("local")) == ("this_one", "this_one")
    # A worker that has no such variable finds the name that the profile was registered with.
    monkeypatch.delenv("TLC_SCHEMA")
    assert (find_schema("dev"), find_schema("local")) == ("my_taxi", "ny_taxi")
    # A block that the profile no longer has is told and kept.
    (clone / "profiles/dev.yaml").write_text("local-file-system: {basepath: /lake}")
    schema = {"variable/taxi-dev-schema": "removed"}
    assert register("dev").standings == dict(zip(DEV, ["updated", "unused"], strict=True)) | schema
    assert SqlAlchemyConnector.load("taxi-dev")
    assert find_schema("dev") == "ny_taxi"


def test_the_name_of_a_schema_is_checked(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", SECRET)
    monkeypatch.setenv("TLC_SCHEMA", "My taxi")
    wrong = register("dev")
    assert (wrong.status, wrong.err.count("\n")) == (1, 1)
    assert wrong.err.startswith("error: blocks/profiles/dev.yaml: schema: String should match pattern")


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # by a library of Prefect's
def test_one_variable_is_enough_to_be_notified(
    client: SyncPrefectClient, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", SECRET)
    monkeypatch.setenv("SLACK_WEBHOOK_URL", "https://hooks.slack.com/services/T00/B00/s3cr3t")
    monkeypatch.setenv("WEBHOOK_URL", "")
    made = register("dev")
    assert (made.status, made.err) == (0, "")
    assert made.standings == dict.fromkeys([*DEV, "slack-webhook/taxi-dev"], "created")
    monkeypatch.setenv("WEBHOOK_URL", "https://example.com/taxi")
    both = register("dev")
    assert (both.status, both.err) == (
        1,
        "error: blocks/profiles/dev.yaml: custom-webhook: a second notification; "
        "expected either slack-webhook or sendgrid-email or custom-webhook\n",
    )


def test_all_variables_that_are_not_set_are_named_with_their_keys(register: Register) -> None:
    ran = register("gcp")
    assert ran.status == 1
    assert ran.err == (
        "error: blocks/profiles/gcp.yaml: gcp-credentials.project: the variable GOOGLE_CLOUD_PROJECT is not set; "
        "blocks/profiles/gcp.yaml: gcs-bucket.bucket: the variable GCS_BUCKET is not set; "
        "export GOOGLE_CLOUD_PROJECT and GCS_BUCKET or write it into .env, then run this again\n"
    )


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (
            "gcs-buckets:\n",
            "unknown key gcs-buckets; expected gcp-credentials, gcs-bucket, aws-credentials, s3-bucket,",
        ),
        (
            "sqlalchemy-connector:\n  connection_info:\n    host: h\n    pasword: ${PASSWORD}\n    database: d",
            "sqlalchemy-connector.connection_info: unknown key pasword; "
            "expected driver, host, port, database, username, password, query\n",
        ),
        (
            "sqlalchemy-connector:\n  connection_info:\n    host: h\n    database: d\n    username: u",
            "sqlalchemy-connector.connection_info.password: missing or empty\n",
        ),
        (
            "sqlalchemy-connector:\n  connection_info: {host: h, database: d, username: u, password: p,\n"
            "                    port: '${PASSWORD}'}",
            "sqlalchemy-connector.connection_info.port: Input should be a valid integer",
        ),
        ("local-file-system: /lake", "local-file-system: it has to have keys; expected basepath\n"),
        ("local-file-system:\n  basepath: lake", "local-file-system.basepath: a path has to start with / or ~"),
        (
            "local-file-system:\n  basepath: ${LAKE-/lake}",
            "local-file-system.basepath: a ${ without a variable; expected ${",
        ),
        ("local-file-system:\n  basepath: /a\n  basepath: /b", "the key 'basepath' is repeated\n"),
        (
            "local-file-system: {basepath: /lake}\ngcs-bucket: {bucket: lake}",
            "local-file-system: a second lake; expected",
        ),
        ("\ngcs-bucket:\n  bucket: lake", "gcs-bucket without gcp-credentials; add the section"),
        ("gcs-bucket:\n  bucket: a: b", "not valid YAML in line 2; got mapping values are not allowed here"),
        ("gcs-bucket:\n  bucket: *p@ss", "not valid YAML; got ComposerError\n"),
        ("", "it has to have keys; expected gcp-credentials"),
    ],
)
def test_a_mistake_in_a_profile_is_told_with_file_key_and_allowed_keys(
    clone: Path, register: Register, monkeypatch: pytest.MonkeyPatch, profile: str, message: str
) -> None:
    monkeypatch.setenv("PASSWORD", SECRET)
    (clone / "profiles/mine.yaml").write_text(profile)
    ran = register("mine")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"error: blocks/profiles/mine.yaml: {message}")
    assert ran.err.count("\n") == 1
    assert SECRET not in ran.err


def test_gcp_is_registered_from_a_key_file_google_is_not_asked_and_new_credentials_are_used(
    client: SyncPrefectClient, prefect_server: PrefectServer, service_account: Path
) -> None:
    names = {"GOOGLE_CLOUD_PROJECT": "taxis", "GCS_BUCKET": "taxi-lake"}
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.setblocking(False)
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        proxies = {"HTTPS_PROXY": address, "HTTP_PROXY": address, "NO_PROXY": "127.0.0.1"}
        file = {"GCP_SERVICE_ACCOUNT_FILE": str(service_account)}
        done = prefect_server.run("blocks/register.py", "gcp", **names, **proxies, **file)
        with pytest.raises(BlockingIOError):
            proxy.accept()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [word for block in GCP for word in ("created", block)]
    assert GcpCredentials.load("taxi-gcp").project == "taxis"
    given = {"GCP_SERVICE_ACCOUNT_INFO": service_account.read_text(), "GCS_FOLDER": "tlc"}
    updated = prefect_server.run("blocks/register.py", "gcp", **names, **given)
    assert updated.stdout.split() == [word for block in GCP for word in ("updated", block)]
    assert "PRIVATE KEY" not in updated.stdout + updated.stderr
    bucket = GcsBucket.load("taxi-gcp")
    assert bucket.bucket_folder == "tlc/"
    assert bucket.gcp_credentials.service_account_info.get_secret_value() == json.loads(service_account.read_text())
    (saved,) = [block for block in client.read_block_documents() if "bucket_folder" in block.data]
    assert saved.block_document_references["gcp_credentials"]["block_document"]["name"] == "taxi-gcp"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (f"{SECRET}", "gcp-credentials.service_account_info: not the JSON of a service account key"),
        (json.dumps([SECRET]), "gcp-credentials.service_account_info: not the JSON of a service account key"),
        (json.dumps({"private_key": SECRET}), "gcp-credentials: the service account key is not usable"),
        (
            json.dumps({"private_key": SECRET, "client_email": SECRET, "token_uri": SECRET}),
            "gcp-credentials: the Google credentials are not usable; got ",
        ),
    ],
)
def test_a_key_that_is_none_is_refused_and_not_quoted(
    register: Register, monkeypatch: pytest.MonkeyPatch, key: str, message: str
) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "taxis")
    monkeypatch.setenv("GCS_BUCKET", "taxi-lake")
    monkeypatch.setenv("GCP_SERVICE_ACCOUNT_INFO", key)
    ran = register("gcp")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"error: blocks/profiles/gcp.yaml: {message}")
    assert ran.err.count("\n") == 1
    assert SECRET not in ran.err


def test_without_a_key_and_without_default_credentials_the_way_to_get_some_is_told(
    prefect_server: PrefectServer, tmp_path: Path
) -> None:
    nobody = {"CLOUDSDK_CONFIG": str(tmp_path), "GOOGLE_APPLICATION_CREDENTIALS": "", "NO_GCE_CHECK": "true"}
    names = {"GOOGLE_CLOUD_PROJECT": "taxis", "GCS_BUCKET": "taxi-lake"}
    done = prefect_server.run("blocks/register.py", "gcp", **names, **nobody)
    assert done.returncode == 1
    assert "gcp.yaml: gcp-credentials: no application default credentials on this machine; got " in done.stderr
    assert "run gcloud auth application-default login" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_api_that_refuses_or_is_away_is_one_line_without_its_answer(
    register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(422)
            self.end_headers()
            self.wfile.write(json.dumps({"request_body": SECRET}).encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("POSTGRES_PASSWORD", SECRET)
    with HTTPServer(("127.0.0.1", 0), Refusing) as api:
        threading.Thread(target=api.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{api.server_port}/api"
        with temporary_settings({PREFECT_API_URL: url}):
            refused = register("dev")
        api.shutdown()
    with temporary_settings({PREFECT_API_URL: url}):
        away = register("dev")
    assert (refused.status, away.status) == (1, 1)
    assert refused.err.startswith(f"error: what is at {url} (PREFECT_API_URL) is no Prefect API; ")
    assert away.err.startswith(f"error: the Prefect server at {url} (PREFECT_API_URL) can't be reached; got ")
    assert (refused.err + away.err).count("\n") == 2
    assert SECRET not in refused.err + away.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["local"], "the profile local needs no blocks"),
        (["prod"], "there is no profile 'prod'; expected aws or azure or dev or gcp"),
        (["../profiles/dev"], "not a valid profile name"),
        ([], "PROFILE"),
        (["dev", "--chek"], "--chek"),
    ],
)
def test_wrong_arguments_exit_with_2(register: Register, arguments: list[str], message: str) -> None:
    ran = register(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert message in ran.err


def test_the_readme_has_every_section_key_and_variable() -> None:
    readme = (ROOT / "blocks/README.md").read_text()
    words = set(re.findall(r"`([\w-]+)`", readme))
    for slug, section in SECTIONS.items():
        assert {slug, *section.keys.model_fields} <= words
    assert set(ConnectionInfo.model_fields) <= words
    for profile in (ROOT / "blocks/profiles").iterdir():
        assert set(re.findall(r"\$\{(\w+)", profile.read_text())) <= words
