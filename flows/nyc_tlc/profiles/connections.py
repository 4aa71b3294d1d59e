"""Check that a profile can reach its lake, its warehouses and its source, each in the way a run uses it."""

from __future__ import annotations

import contextlib
import uuid
from typing import Literal

from nyc_tlc.errors import LakeError, OverdueError, TlcError
from nyc_tlc.lake.store import Lake, SwapRefusedError
from nyc_tlc.month import COLORS, Color
from nyc_tlc.planning.space import check_next_months
from nyc_tlc.profiles.opening import LOCAL, list_warehouses, open_lake, open_warehouse
from nyc_tlc.source.http import describe_route
from nyc_tlc.source.location import RemoteFile, redact_url
from nyc_tlc.source.published import find_newest, is_overdue
from nyc_tlc.warehouse.protocol import Kind

Part = Literal["lake", "source", "disk"] | Kind


def check_part(part: Part, profile: str, source: str) -> tuple[bool, str]:
    """Check a part of a profile, or the source. Return whether it can be used, and what a person is shown about it."""
    try:
        if part == "source":
            message = _check_source(source)
        elif part == "disk":
            message = check_next_months(open_lake(profile), list_warehouses(profile))
        else:
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


def _check_source(source: str) -> str:
    """Find the newest month of each colour, without a download.

    Raises:
        OverdueError: when the source has no colour, or one whose next month must be published by now.
        TransientError: when it does not answer.
    """
    newest, absent = dict[Color, RemoteFile](), list[Color]()
    for color in COLORS:
        try:
            newest[color] = find_newest(source, color)
        except OverdueError:
            absent.append(color)
    found = [remote.name for remote in newest.values()] + [f"no {color}" for color in absent]
    shown = f"{redact_url(source)}: {', '.join(found)}"
    if not newest:
        raise OverdueError(f"{redact_url(source)} has no month of the last two years", fix="check TLC_SOURCE")
    if late := [
        f"{color} {remote.month.plus(1)}" for color, remote in newest.items() if is_overdue(remote.month.plus(1))
    ]:
        raise OverdueError(f"{shown}; overdue: {', '.join(late)}", fix="check TLC_SOURCE; TLC may publish late")
    return f"{shown}; {describe_route(next(iter(newest.values())).url)}"


def _check_warehouse(kind: Kind, profile: str) -> str:
    warehouse = open_warehouse(profile, kind)
    return f"{warehouse.place}: {warehouse.check(open_lake(profile))}"
