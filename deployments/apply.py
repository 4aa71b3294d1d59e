"""Prepare a Prefect server for the deployments of ``prefect.yaml``: ``python deployments/apply.py``.

``server.yaml`` and ``automations.yaml`` describe it. Exit status: 0 done, 1 failed, 2 wrong arguments.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "flows"))

import nyc_tlc.runs.script  # noqa: E402, F401

from prefect.client.orchestration import get_client  # noqa: E402
from prefect.settings import PREFECT_API_URL  # noqa: E402

from nyc_tlc import server  # noqa: E402
from nyc_tlc.errors import ConfigurationError  # noqa: E402
from nyc_tlc.profiles.registering import find_notification_block  # noqa: E402
from nyc_tlc.runs.command_line import find_server, run_script  # noqa: E402
from nyc_tlc.settings import read_settings  # noqa: E402
from nyc_tlc.shown import short_path  # noqa: E402
from nyc_tlc.yaml_files import read_variables  # noqa: E402


def apply(*, pool: list[str] | None = None, profile: str | None = None) -> int:
    """Prepare a Prefect server for the deployments: work pools, concurrency limits, automations.

    Args:
        pool: A work pool to have besides, docker for deployments/pools/docker.yaml; can be given several times.
        profile: Whose notification block the automations use; TLC_PROFILE or local if left out.
    """
    profile = profile or read_settings().profile
    folder = short_path(HERE)
    # Everything is read before the first change, so that a mistake changes nothing.
    variables = read_variables()
    pools, limits, at_once = server.read_server(folder / "server.yaml", variables)
    pools += [server.read_pool(folder / f"pools/{name}.yaml", variables) for name in pool or ()]
    automations = server.read_automations(folder / "automations.yaml")
    url = PREFECT_API_URL.value()
    if not url:
        fix = "start one with make server, and export PREFECT_API_URL=http://127.0.0.1:4200/api"
        raise ConfigurationError("no Prefect server to prepare: PREFECT_API_URL is not set", fix=fix)
    find_server()
    block = find_notification_block(profile)
    with get_client(sync_client=True) as client:
        for each in pools:
            server.save_pool(each, at_once, client)
        for limit, slots in limits.items():
            client.upsert_global_concurrency_limit_by_name(limit, slots)
        left_out = server.save_automations(automations, block, client)
        weaknesses = list(server.find_weaknesses(url, client))
    made = f"{len(pools)} work pools for {at_once} runs at once each, {len(limits)} concurrency limits"
    sys.stdout.write(f"{url} has what the deployments need: {made}, {len(automations) - len(left_out)} automations\n")
    sys.stdout.write("a server that is left alone needs Postgres, not SQLite (deployments/README.md)\n")
    missing = {
        "send-notification": f"the profile {profile} has no block for notifications, and blocks/README.md says how to "
        "make one",
        "run-deployment": f"{server.MODELS} is not deployed yet: deploy, and run this again",
    }
    for action, why in missing.items():
        if names := [name for name, lacking in left_out.items() if lacking == action]:
            sys.stdout.write(f"left out: {', '.join(names)}; {why}\n")
    for weakness in weaknesses:
        sys.stderr.write(f"warning: {weakness}; {server.SERVER_FIX}\n")
    return 0


if __name__ == "__main__":
    run_script(apply, "python deployments/apply.py")
