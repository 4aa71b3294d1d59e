"""Attacks through what others can write: objects of a lake, a warehouse's file, a source, a server, a lock."""

import contextlib
import fcntl
import gzip
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
import pyarrow as pa
import pytest

from factories import JANUARY, fetched, green_parquet, make_month, trip
from nyc_tlc import workspace
from nyc_tlc.cleaning.read import MonthReader
from nyc_tlc.contract.dataset import read_contract
from nyc_tlc.errors import (
    ArgumentError,
    ConfigurationError,
    ContractError,
    LakeError,
    SourceError,
    TlcError,
    TransientError,
)
from nyc_tlc.lake.copying import copy_month
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.lake.keys import Keys
from nyc_tlc.profiles.opening import open_warehouse
from nyc_tlc.runs.flow_runs import Outcome
from nyc_tlc.runs.month_report import format_quality_report, format_summary
from nyc_tlc.source import http
from nyc_tlc.source.location import RemoteFile
from nyc_tlc.warehouse import postgres_connection
from nyc_tlc.warehouse.duckdb import DuckDbWarehouse
from nyc_tlc.warehouse.lake_file import LakeFile
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.lookups import EMBEDDED_ZONES, fetch_zones, read_lookups
from nyc_tlc.warehouse.postgres import PostgresWarehouse
from stand_ins.http_source import Fault, HttpSource, PublishedFile

KEYS = Keys("green", JANUARY)
BODY = green_parquet(trip(), trip(), trip(passenger_count=0))
HOSTILE = "a|`\n```\n<script>document.title = 'ran'</script>\x1b[2J\u202e![x](http://evil/p.png)"


@pytest.fixture
def lake(tmp_path: Path) -> FolderLake:
    return FolderLake(tmp_path / "lake")


def change_manifest(lake: FolderLake, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest as someone does who can write the lake's objects."""
    manifest = json.loads(lake.read(KEYS.manifest) or b"")
    change(manifest)
    lake.write(KEYS.manifest, json.dumps(manifest).encode())


def key_of(part: str, key: str) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest[part].update(key=key)


FORGED = {
    "a path out of the lake": key_of("clean", "../../evil.abcdef012345.parquet"),
    "such a path after the month's folder": key_of(
        "clean", "clean/green/year=2024/month=01/../../../../green_tripdata_2024-01.abcdef012345.parquet"
    ),
    "an absolute path": key_of("source", "/etc/passwd"),
    "a NUL": key_of("source", "raw/green/green_tripdata_2024-01.abcdef012345.parquet\0"),
    "a page": key_of("quarantine", "reports/coverage.html"),
    "another month's file": key_of("source", "raw/green/green_tripdata_2024-02.abcdef012345.parquet"),
    "another colour's file": key_of("source", "raw/yellow/green_tripdata_2024-01.abcdef012345.parquet"),
    "one file twice": lambda manifest: manifest["quarantine"].update(key=manifest["clean"]["key"]),
    "another month": lambda manifest: manifest.update(month="2024-02"),
    "no month": lambda manifest: manifest.update(month="../.."),
    "another colour": lambda manifest: manifest.update(color="yellow"),
    "a day outside": lambda manifest: manifest.update(
        daily=[
            {
                "key": "daily/green/pickup_date=2023-01-01/green_tripdata_2024-01.abcdef012345.parquet",
                **{part: manifest["clean"][part] for part in ("rows", "bytes", "sha256")},
            }
        ]
    ),
    "no digest": lambda manifest: manifest["quarantine"].update(sha256=None),
    "no size": lambda manifest: manifest["quarantine"].update(bytes=None),
}


def test_a_forged_manifest_is_not_read_and_nothing_of_it_is_copied(lake: FolderLake, tmp_path: Path) -> None:
    manifest = make_month(lake, BODY, tmp_path)
    target = FolderLake(tmp_path / "deep" / "target")
    for name, change in FORGED.items():
        lake.write(KEYS.manifest, manifest.to_json())
        change_manifest(lake, change)
        with pytest.raises(LakeError, match="green 2024-01: the manifest"):
            copy_month(lake, target, "green", JANUARY, tmp_path)
        assert not target.root.exists(), name


def test_a_file_of_another_size_is_refused_before_it_is_read(lake: FolderLake, tmp_path: Path) -> None:
    manifest = make_month(lake, BODY, tmp_path)
    with lake.local_path(manifest.clean.key).open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(LakeError, match="got 1,099,511,627,776 bytes, not read"):
        copy_month(lake, FolderLake(tmp_path / "target"), "green", JANUARY, tmp_path)


def test_no_link_in_a_folder_lake_is_followed(lake: FolderLake, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    manifest = make_month(lake, BODY, tmp_path)
    path = lake.local_path(manifest.clean.key)
    path.unlink()
    path.symlink_to(secret)
    for read in (lake.open, lake.read, lake.size):
        with pytest.raises(LakeError, match="outside of the lake"):
            read(manifest.clean.key)
    with pytest.raises(LakeError, match="outside of the lake"):
        lake.read("../secret")
    # Nor to another file of the lake.
    path.unlink()
    path.symlink_to(lake.local_path(KEYS.manifest))
    with pytest.raises(LakeError, match="symbolic links"):
        lake.read(manifest.clean.key)
    # A folder of it.
    (tmp_path / "elsewhere").mkdir()
    (lake.root / "reports").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LakeError, match="outside of the lake"):
        lake.write("reports/coverage.html", b"")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_link_in_a_draft_s_place_is_not_written_through(lake: FolderLake, tmp_path: Path) -> None:
    victim, file = tmp_path / "victim", tmp_path / "file"
    victim.write_text("mine")
    file.write_text("content")
    lake.write("manifest/green/2024-01.json", b"old")
    lake.local_path("manifest/green/.2024-01.json.part").symlink_to(victim)
    lake.write("manifest/green/2024-01.json", b"new")
    lake.local_path("manifest/green/.new.part").symlink_to(victim)
    with pytest.raises(LakeError, match="File exists"):
        lake.upload("manifest/green/new", file, "", {})
    assert victim.read_text() == "mine"
    assert lake.read("manifest/green/2024-01.json") == b"new"


def test_a_pipe_in_a_lake_is_an_error_and_not_waited_for(lake: FolderLake) -> None:
    lake.write("manifest/green/2024-02.json", b"")
    os.mkfifo(lake.local_path(KEYS.manifest))
    with pytest.raises(LakeError, match="not a regular file"):
        lake.manifest(KEYS)


def test_views_in_a_warehouse_file_read_no_file_of_this_machine(lake: FolderLake, tmp_path: Path) -> None:
    secret, path = tmp_path / "secret", tmp_path / "warehouse.duckdb"
    secret.write_text("mine")
    with duckdb.connect(path) as connection:
        connection.execute("CREATE SCHEMA ny_taxi")
        connection.execute(f"CREATE VIEW ny_taxi.zones AS SELECT content AS zone FROM read_text('{secret}')")
    warehouse = DuckDbWarehouse(path)
    with pytest.raises(TlcError, match="disabled by configuration"):
        warehouse.query("SELECT zone FROM ny_taxi.zones")
    make_month(lake, BODY, tmp_path)
    manifest = lake.manifest(KEYS)
    assert manifest
    with pytest.raises(ConfigurationError, match=r"ny_taxi\.zones is a view and not a table"):
        load_month(LakeFile(manifest, lake), warehouse)
    with duckdb.connect(path) as connection:
        connection.execute("CREATE VIEW ny_taxi.loads AS SELECT 1")
    with pytest.raises(ConfigurationError, match=r"ny_taxi\.loads is a view and not a table"):
        warehouse.loads()


def test_a_function_of_another_role_does_not_run_as_the_loader(
    postgres: dict[str, str], lake: FolderLake, tmp_path: Path
) -> None:
    with contextlib.closing(psycopg2.connect(**postgres)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE public.stolen (who text)")
        # With these types it fits better than PostgreSQL's own, for the calls with a text.
        cursor.execute(
            "CREATE FUNCTION public.hashtextextended(unknown_text varchar, seed int) RETURNS bigint LANGUAGE plpgsql"
            " AS $$ BEGIN INSERT INTO public.stolen VALUES (current_user); RETURN 1; END $$"
        )
        cursor.execute(f"ALTER DATABASE {postgres['dbname']} SET search_path = public, pg_catalog")
    manifest = make_month(lake, BODY, tmp_path)
    warehouse = PostgresWarehouse(postgres)
    load_month(LakeFile(manifest, lake), warehouse)
    assert warehouse.query("SELECT count(*) FROM public.stolen") == [(0,)]
    assert warehouse.query("SHOW search_path") == [("pg_catalog, pg_temp",)]


@contextlib.contextmanager
def talking_server(greeting: bytes, forever: bytes) -> Iterator[int]:
    """Run a server that answers with a greeting and then does not stop before the block ends. Yield its port."""
    clients: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    clients.append(server.accept()[0])
                    threading.Thread(target=talk, args=(clients[-1],), daemon=True).start()

        def talk(client: socket.socket) -> None:
            with contextlib.suppress(OSError), client:
                client.recv(4096)
                client.sendall(greeting)
                while True:
                    client.sendall(forever)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        for each in (server, *clients):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("greeting", "forever"),
    [(b"", b"HTTP/1.1 200 OK\r\n" * 99), (b"R\0\0\0\x08\0\0\0\0", b"S\0\0\0\x08a\0b\0" * 99)],
    ids=["another protocol", "parameters for ever"],
)
def test_a_server_that_talks_for_ever_in_postgres_place_is_left(
    monkeypatch: pytest.MonkeyPatch, greeting: bytes, forever: bytes
) -> None:
    monkeypatch.setattr(postgres_connection, "CONNECT_SECONDS", 0.5)
    with talking_server(greeting, forever) as port:
        parameters = {"host": "127.0.0.1", "port": str(port), "user": "me", "dbname": "x", "sslmode": "disable"}
        with pytest.raises((TransientError, ConfigurationError), match=r"a query: "):
            PostgresWarehouse(parameters | {"gssencmode": "disable"}).query("SELECT 1")


def test_a_lock_that_another_process_keeps_ends_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workspace, "LOCK_SECONDS", 1.1)
    lake = FolderLake(tmp_path / "lake")
    lake.write("reports/a", b"")
    held = os.open(lake.root, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(LakeError, match="another process keeps it locked"):
        lake.write("reports/a", b"")
    assert "waiting for another process to unlock" in caplog.text
    os.close(held)
    # Nobody else can open scratch space, and so not lock it.
    with workspace.workspace(tmp_path / "scratch"):
        pass
    assert (tmp_path / "scratch").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("profile", ["x/../private", "x?y", "X", "", "a\nb"])
def test_a_profile_s_name_is_no_path_to_another_block(profile: str) -> None:
    with pytest.raises(ArgumentError, match="not a valid profile name"):
        open_warehouse(profile, "postgres")


ZONES = EMBEDDED_ZONES.read_bytes()
BAD_ZONES = {
    "too long": ZONES + b"x" * (8 << 20),
    "gzip": gzip.compress(ZONES),
    "not UTF-8": ZONES.replace(b"Newark Airport", b"\xff\xfe"),
    "a NUL": ZONES.replace(b"Newark Airport", b"\0"),
    "an escape": ZONES.replace(b"Newark Airport", b"\x1b[2J"),
    "an empty row": ZONES + b"\n\n",
    "a huge id": ZONES + b'"99999","a","b","c"\n',
    "nothing": b"",
    "only a header": ZONES.partition(b"\n")[0],
}


def test_another_file_in_the_zones_place_is_not_used(http_source: HttpSource, caplog: pytest.LogCaptureFixture) -> None:
    for name, body in BAD_ZONES.items():
        caplog.clear()
        http_source.files["/zones.csv"] = PublishedFile(body)
        assert fetch_zones(f"{http_source.url}/zones.csv") is None, name
        (line,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert line.startswith("zones: ")
        assert line.endswith("; using the embedded copy")
        assert "\x1b" not in line


def test_the_zones_as_tlc_publishes_them_are_used(http_source: HttpSource) -> None:
    http_source.files["/zones.csv"] = PublishedFile(ZONES)
    assert fetch_zones(f"{http_source.url}/zones.csv") == ZONES
    assert read_lookups(ZONES)[0].rows.num_rows == 265


@pytest.mark.parametrize("host", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "[::1]", "localhost"])
def test_a_redirect_from_a_public_source_to_a_private_address_is_refused(
    http_source: HttpSource, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    asked = http._is_public
    # The stand-in is on this machine: it counts as public here.
    monkeypatch.setattr(http, "_is_public", lambda url: url.port == int(http_source.url[-5:]) or asked(url))
    moved = Fault("status", 302, {"Location": f"http://{host}:1/latest"})
    http_source.files["/a"] = PublishedFile(b"", faults=[moved] * 9)
    with pytest.raises(SourceError, match="redirects to an address that is not public"):
        http.look(RemoteFile("green", JANUARY, f"{http_source.url}/a"))


def test_local_files_and_answers_from_elsewhere_are_not_quoted(tmp_path: Path, http_source: HttpSource) -> None:
    with pytest.raises(ContractError) as caught:
        MonthReader(fetched("name,iban,pickup\nAda,DE89,x\n", tmp_path), read_contract("green"))
    assert "iban" not in str(caught.value)
    elsewhere = http_source.url.replace("127.0.0.1", "localhost")
    http_source.files["/b"] = PublishedFile(b"secret")
    http_source.files["/a"] = PublishedFile(b"", faults=[Fault("status", 302, {"Location": f"{elsewhere}/b"})] * 9)
    assert not http.look(RemoteFile("green", JANUARY, f"{http_source.url}/a")).may_be_quoted
    assert http.look(RemoteFile("green", JANUARY, f"{http_source.url}/b")).may_be_quoted


def test_a_signed_url_is_not_in_a_repr() -> None:
    assert "Signature" not in repr(RemoteFile("green", JANUARY, "https://host/x?Signature=abc"))


def test_a_hostile_column_name_is_plain_text_everywhere(
    lake: FolderLake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    body = green_parquet(trip(**{HOSTILE: "x"}), types={HOSTILE: pa.string()})
    manifest = make_month(lake, body, tmp_path)
    texts = [
        *(record.getMessage() for record in caplog.records),
        format_quality_report(manifest, lake),
        Outcome(format_summary(manifest, lake, "local"))._repr_markdown_(),
        (lake.read(KEYS.manifest) or b"").decode(),
        str(ContractError("x", got=HOSTILE)),
    ]
    for text in texts:
        assert all(char.isprintable() or char == "\n" for char in text), text
        assert "<script" not in text
        assert "](http://evil" not in text
    assert all("\n" not in record.getMessage() for record in caplog.records)
    assert len(manifest.drift[0]) <= 100
