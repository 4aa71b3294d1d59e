"""Prepare a Prefect server for the deployments of ``prefect.yaml``: ``python deployments/apply.py``.

``server.yaml`` and ``automations.yaml`` say what it should have; ``--check`` changes nothing. Exit status: 0 done or
nothing to do, 1 failed, or ``--check`` found something to do, 2 wrong arguments.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "flows"))

import cyclopts  # noqa: E402
from prefect.client.orchestration import get_client  # noqa: E402
from prefect.settings import PREFECT_API_URL  # noqa: E402

from nyc_tlc.errors import ArgumentError, ConfigurationError, TlcError  # noqa: E402
from nyc_tlc.profiles.blocks import variables  # noqa: E402
from nyc_tlc.profiles.opening import LOCAL  # noqa: E402
from nyc_tlc.server import server  # noqa: E402
from nyc_tlc.server.pools import read_pool  # noqa: E402
from nyc_tlc.settings import read_settings  # noqa: E402


def apply(*, pool: list[str] | None = None, profile: str | None = None, check: bool = False) -> int:
    """Prepare a Prefect server for the deployments: work pools, concurrency limits, automations, no stale schedules.

    Args:
        pool: A work pool to have besides, docker for deployments/pools/docker.yaml; can be given several times.
        profile: Whose notification block the automations use; TLC_PROFILE or local if left out.
        check: Change nothing; tell what is missing or would change, and exit with 1 if anything is.
    """
    profile = profile or read_settings().profile
    root = HERE.parent
    root = root.relative_to(Path.cwd()) if root.is_relative_to(Path.cwd()) else root
    wanted = server.read_wanted(root)
    pools = [read_pool(root / f"deployments/pools/{name}.yaml", variables()) for name in pool or ()]
    if not PREFECT_API_URL.value():
        raise ConfigurationError(
            "no Prefect server to prepare: PREFECT_API_URL is not set",
            fix="start one with prefect server start and set PREFECT_API_URL=http://127.0.0.1:4200/api",
        )
    with server.answered(), get_client(sync_client=True) as client:
        block = None if profile == LOCAL else server.notification(profile, client)
        standings = server.apply(wanted, client, block, pools=pools, check=check)
    told = [f"{each.status} ({', '.join(each.fields)})" if each.fields else each.status for each in standings]
    for status, standing in zip(told, standings, strict=True):
        sys.stdout.write(f"{status:{max(map(len, told))}}  {standing.what}\n")
    if any(standing.status == "left out" for standing in standings):
        what = f"{', '.join(server.NOTIFICATIONS[:-1])} or {server.NOTIFICATIONS[-1]}"
        sys.stdout.write(
            f"left out is what notifies: the profile {profile} has no block {what}, see blocks/README.md\n"
        )
    return int(any(standing.status in server.DONE for standing in standings))


def main() -> int:
    """Run as a command; the exit status."""
    app = cyclopts.App(name="python deployments/apply.py", version_flags=[])
    app.default(apply)
    try:
        command, bound, _ = app.parse_args(sys.argv[1:], exit_on_error=False, print_error=False)
        return command(*bound.args, **bound.kwargs) or 0
    except cyclopts.CycloptsError as error:
        failure: TlcError = ArgumentError(str(error))
    except TlcError as error:
        failure = error
    sys.stderr.write(f"error: {failure}\n")
    return failure.exit_status


if __name__ == "__main__":
    sys.exit(main())
