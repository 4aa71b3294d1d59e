"""Check that a profile can reach its lake and its warehouses, each in the way a run uses it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nyc_tlc.errors import LakeError, TlcError
from nyc_tlc.lake.store import Lake, SwapRefusedError
from nyc_tlc.profiles.opening import LOCAL, open_lake, open_warehouse
from nyc_tlc.warehouse.protocol import Kind


@dataclass(frozen=True)
class Finding:
    """The result of checking one part of a profile.

    Attributes:
        part: The lake, or a kind of warehouse.
        fine: Whether it can be used.
        message: What works, or what is wrong.
        fix: What to do about it.
    """

    part: str
    fine: bool
    message: str
    fix: str = ""


def check_part(part: Literal["lake"] | Kind, profile: str) -> Finding:
    """Check one part of a profile."""
    try:
        return Finding(part, True, _check_lake(profile) if part == "lake" else _check_warehouse(part, profile))
    except TlcError as error:
        evidence = {"expected": error.expected, "got": error.got}
        message = "; ".join([error.what, *(f"{word} {what}" for word, what in evidence.items() if what)])
        return Finding(part, False, message, error.fix or _suggest_fix(profile))


def _suggest_fix(profile: str) -> str:
    """Return what to do when the error itself does not say it."""
    if profile == LOCAL:
        return "check that the folder TLC_HOME can be written"
    return f"correct blocks/profiles/{profile}.yaml, then run .venv/bin/python blocks/register.py {profile}"


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


def table(findings: Sequence[Finding]) -> str:
    """Format the findings for a terminal."""
    lines = []
    for finding in findings:
        lines.append(f"{'ok  ' if finding.fine else 'FAIL'}  {finding.part:<9} {finding.message}")
        if finding.fix:
            lines.append(f"{'':16}{finding.fix}")
    return "\n".join(lines)
