"""Prepare a Prefect server for the deployments of ``prefect.yaml``: ``python deployments/apply.py``.

``server.yaml`` and ``automations.yaml`` describe it; ``--check`` changes nothing. Exit status: 0 done or
nothing to do, 1 failed, or ``--check`` found something to do, 2 wrong arguments.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "flows"))

import nyc_tlc.orchestration.script  # noqa: E402, F401

from prefect.client.orchestration import get_client  # noqa: E402
from prefect.settings import PREFECT_API_URL  # noqa: E402

from nyc_tlc.comparison import comparison_table, needs_change  # noqa: E402
from nyc_tlc.errors import ConfigurationError  # noqa: E402
from nyc_tlc.orchestration.command_line import run_script  # noqa: E402
from nyc_tlc.profiles.opening import LOCAL  # noqa: E402
from nyc_tlc.profiles.registering import find_notification_block  # noqa: E402
from nyc_tlc.server.apply import LEASES_IN_FILES, loses_leases, prepare_server, read_wanted  # noqa: E402
from nyc_tlc.server.work_pools import read_pool  # noqa: E402
from nyc_tlc.settings import read_settings  # noqa: E402
from nyc_tlc.yaml_files import read_variables  # noqa: E402


def apply(*, pool: list[str] | None = None, profile: str | None = None, check: bool = False) -> int:
    """Prepare a Prefect server for the deployments: work pools, concurrency limits, automations, no stale schedules.

    Args:
        pool: A work pool to have besides, docker for deployments/pools/docker.yaml; can be given several times.
        profile: Whose notification block the automations use; TLC_PROFILE or local if left out.
        check: Change nothing; show what is missing or would change, and exit with 1 if anything is.
    """
    profile = profile or read_settings().profile
    root = HERE.parent
    root = root.relative_to(Path.cwd()) if root.is_relative_to(Path.cwd()) else root
    wanted = read_wanted(root)
    pools = [read_pool(root / f"deployments/pools/{name}.yaml", read_variables()) for name in pool or ()]
    if not PREFECT_API_URL.value():
        raise ConfigurationError(
            "no Prefect server to prepare: PREFECT_API_URL is not set",
            fix="start one with .venv/bin/prefect server start and set PREFECT_API_URL=http://127.0.0.1:4200/api",
        )
    with get_client(sync_client=True) as client:
        block = None if profile == LOCAL else find_notification_block(profile, client)
        comparisons = prepare_server(wanted, client, block, pools=pools, check=check)
        forgets = loses_leases(client)
    sys.stdout.write(comparison_table(comparisons))
    if any(each.status == "left out" for each in comparisons):
        sys.stdout.write(
            f"left out: automations that notify, because the profile {profile} has no block for notifications; "
            "blocks/README.md says how to make one\n"
        )
    if forgets:
        sys.stderr.write(
            "warning: a run that is Pending when this server restarts keeps its concurrency slot for ever, and every "
            f"later catch-up is cancelled; start the server with {LEASES_IN_FILES}\n"
        )
    return int(check and needs_change(comparisons))


if __name__ == "__main__":
    run_script(apply, "deployments/apply.py")
