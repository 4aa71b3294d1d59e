"""Can a profile reach its lake and its warehouses? Each part is tried the way a run uses it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nyc_tlc.errors import LakeError, TlcError
from nyc_tlc.lake.lake import Lake, SwapRefusedError
from nyc_tlc.profiles.opening import LOCAL, open_lake, open_warehouse
from nyc_tlc.warehouse.warehouse import Kind


@dataclass(frozen=True)
class Finding:
    """How it is with one part of a profile.

    Attributes:
        part: The lake, or a kind of warehouse.
        fine: Whether it can be used.
        message: What is fine, or what is not.
        fix: The one thing to do.
    """

    part: str
    fine: bool
    message: str
    fix: str = ""


def check_part(part: Literal["lake"] | Kind, profile: str) -> Finding:
    """Try one part of a profile."""
    try:
        return Finding(part, True, _check_lake(profile) if part == "lake" else _check_warehouse(part, profile))
    except TlcError as error:
        evidence = {"expected": error.expected, "got": error.got}
        message = "; ".join([error.what, *(f"{word} {what}" for word, what in evidence.items() if what)])
        return Finding(part, False, message, error.fix or _fix(profile))


def _fix(profile: str) -> str:
    """What to do about what the error itself has no advice for."""
    if profile == LOCAL:
        return "check that the folder TLC_HOME can be written"
    return f"correct blocks/profiles/{profile}.yaml, then run .venv/bin/python blocks/register.py {profile}"


def _check_lake(profile: str) -> str:
    """Write under a scratch key, read back, delete."""
    lake = open_lake(profile)
    key, content = f"scratch/{uuid.uuid4().hex}.txt", b"can be written and read"
    lake.write(key, content)
    try:
        if lake.read(key) != content:
            raise LakeError(f"the lake {lake.url('')} gives back other bytes than it took")
        _check_condition(lake, key)
    finally:
        lake.remove(key)
    if lake.read(key) is not None:
        raise LakeError(f"the lake {lake.url('')} keeps what was deleted", fix=f"delete {lake.url(key)} by hand")
    return f"{lake.url('')}: wrote, read back, deleted"


def _check_condition(lake: Lake, key: str) -> None:
    """See that a write that must not replace anything is refused; a publication hangs on that."""
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
    """What was found, for a terminal."""
    lines = []
    for finding in findings:
        lines.append(f"{'ok  ' if finding.fine else 'FAIL'}  {finding.part:<9} {finding.message}")
        if finding.fix:
            lines.append(f"{'':16}{finding.fix}")
    return "\n".join(lines)
