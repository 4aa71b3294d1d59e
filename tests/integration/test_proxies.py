"""Months fetched through a real forward proxy, which says what it was asked for."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from factories import JANUARY, green_parquet, trip
from integration.test_transfers import PATH, everything_emitted
from nyc_tlc.errors import ConfigurationError, SourceError, TransientError
from nyc_tlc.source import http
from nyc_tlc.source.fetch import FetchedFile, fetch_month
from nyc_tlc.source.published import look_at
from stand_ins.certificate import make_certificate
from stand_ins.http_source import HttpSource, PublishedFile
from stand_ins.proxy import Proxy

MONTH = green_parquet(trip())


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Serve a proxy, with no variable that names one."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with Proxy().running() as proxy:
        yield proxy


def get(template: str, folder: Path) -> FetchedFile:
    """Fetch the month in a thread of its own, which has no connections from before the variables were set."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: fetch_month(look_at(template, "green", JANUARY), folder)).result()


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_a_month_comes_through_the_proxy(
    variable: str, proxy: Proxy, http_source: HttpSource, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    http_source.files[PATH] = PublishedFile(MONTH)
    monkeypatch.setenv(variable, f"http://me:hush-word@127.0.0.1:{proxy.port}")
    with everything_emitted() as said:
        assert get(http_source.template, tmp_path).path.read_bytes() == MONTH
    assert proxy.requests == [f"HEAD {http_source.url}{PATH}", f"GET {http_source.url}{PATH}"]
    assert set(proxy.credentials) == {"Basic " + base64.b64encode(b"me:hush-word").decode()}
    assert not [line for line in said if "hush-word" in line]


def test_no_proxy_names_hosts_that_are_asked_directly(
    proxy: Proxy, http_source: HttpSource, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    http_source.files[PATH] = PublishedFile(MONTH)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    assert get(http_source.template, tmp_path).bytes == len(MONTH)
    assert proxy.requests == []


def test_https_goes_through_a_tunnel(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    with HttpSource(make_certificate(tmp_path / "certificate.pem")).running() as source:
        source.files[PATH] = PublishedFile(MONTH)
        http.read_certificates.cache_clear()
        try:
            assert get(source.template, tmp_path).path.read_bytes() == MONTH
        finally:
            http.read_certificates.cache_clear()
    assert proxy.requests == [f"CONNECT {source.url.removeprefix('https://')}"]


def test_a_certificate_that_is_not_trusted_is_refused_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        HttpSource(make_certificate(tmp_path / "certificate.pem")).running() as source,
        pytest.raises(SourceError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        get(source.template, tmp_path)
    assert caplog.records == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_is_one_line_without_its_password(
    scheme: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proxy.refusal = 407
    monkeypatch.setenv("ALL_PROXY", f"http://me:hush-word@127.0.0.1:{proxy.port}")
    with everything_emitted() as said, pytest.raises(SourceError, match="407") as caught:
        get(f"{scheme}://taxis.example/{{year}}-{{month}}", tmp_path)
    assert len(proxy.requests) == 1
    assert not [line for line in [*said, str(caught.value)] if "hush-word" in line or "\n" in line]


def test_a_proxy_that_does_not_answer_is_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proxy: Proxy
) -> None:
    monkeypatch.setenv("TLC_HTTP_RETRIES", "1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTTP_PROXY", f"http://me:hush-word@127.0.0.1:{unused.getsockname()[1]}")
        with everything_emitted() as said, pytest.raises(TransientError, match="refused") as caught:
            get("http://taxis.example/{year}-{month}", tmp_path)
    assert not [line for line in [*said, str(caught.value)] if "hush-word" in line]


@pytest.mark.parametrize("address", ["http://me:hush-word@[::bad", "ftp://me:hush-word@host", "socks5://host"])
def test_a_proxy_that_cannot_be_used_is_one_line(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proxy: Proxy
) -> None:
    monkeypatch.setenv("ALL_PROXY", address)
    with pytest.raises(ConfigurationError, match="ALL_PROXY") as caught:
        get("http://taxis.example/{year}-{month}", tmp_path)
    assert "hush-word" not in str(caught.value)
