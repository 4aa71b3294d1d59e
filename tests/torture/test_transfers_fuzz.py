"""The long run of the random servers: seeds 1,000 to 1,424."""

from pathlib import Path

import pytest

from integration.test_transfers import NEW, OLD, behave, get, judge


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(1_000, 1_425))
def test_a_random_server_gives_a_whole_version_or_one_line(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("TIMEOUT", "0.5"), ("RETRIES", "3"), ("BACKOFF", "0.001"), ("DEADLINE", "10")):
        monkeypatch.setenv(f"TLC_HTTP_{name}", value)
    monkeypatch.setattr("nyc_tlc.source.http.MAX_RETRY_AFTER", 0.01)
    with behave(seed).running() as source:
        judge(lambda: get(source, tmp_path), {OLD, NEW})
