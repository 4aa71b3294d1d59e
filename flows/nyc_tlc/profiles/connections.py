"""Check that a profile can reach its lake and its warehouses, each in the way a run uses it."""

from __future__ import annotations

import contextlib
import uuid
from typing import Literal

from nyc_tlc.errors import LakeError, TlcError
from nyc_tlc.lake.store import Lake, SwapRefusedError
from nyc_tlc.profiles.opening import LOCAL, open_lake, open_warehouse
from nyc_tlc.warehouse.protocol import Kind


def check_part(part: Literal["lake"] | Kind, profile: str) -> tuple[bool, str]:
    """Check one part of a profile. Return whether it can be used, and what a person is shown about it."""
    try:
        message = _check_lake(profile) if part == "lake" else _check_warehouse(part, profile)
        return True, f"ok    {part:<9} {message}"
    except TlcError as error:
        evidence = {"expected": error.expected, "got": error.got}
        message = "; ".join([error.what, *(f"{word} {what}" for word, what in evidence.items() if what)])
        fix = error.fix or (
            "check that the folder TLC_HOME can be written"
            if profile == LOCAL
            else f"correct blocks/profiles/{profile}.yaml, then run .venv/bin/python blocks/register.py {profile}"
        )
        return False, f"FAIL  {part:<9} {message}\n{'':16}{fix}"


def _check_lake(profile: str) -> str:
    """Write an object under a scratch key, read it back and delete it."""
    lake = open_lake(profile)
    key, content = f"scratch/{uuid.uuid4().hex}.txt", b"can be written and read"
    lake.write(key, content)
    try:
        if lake.read(key) != content:
            raise LakeError(f"the lake {lake.url('')} returned other bytes than were written")
        _check_condition(lake, key)
    finally:
        lake.remove(key)
    if lake.read(key) is not None:
        raise LakeError(
            f"the lake {lake.url('')} still has an object that was deleted", fix=f"delete {lake.url(key)} by hand"
        )
    return f"{lake.url('')}: wrote, read back, deleted"


def _check_condition(lake: Lake, key: str) -> None:
    """Check that the store refuses a write that must not replace an object; a publication depends on that."""
    with contextlib.suppress(SwapRefusedError):
        lake.swap(key, b"must not be written", None, {})
        raise LakeError(
            f"the lake {lake.url('')} ignores the condition of a conditional write",
            fix="use a store that keeps it (docs/lakes.md), or two runs of one month can lose each other's files",
        )


def _check_warehouse(kind: Kind, profile: str) -> str:
    warehouse = open_warehouse(profile, kind)
    return f"{warehouse.place}: {warehouse.check(open_lake(profile))}"
