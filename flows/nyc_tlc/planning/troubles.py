"""The table of troubles in the lake: what is wrong, since when, and what people have to be told of it.

A trouble is told when it begins, once a week while it lasts, and when it is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Literal

from pydantic import ValidationError

from nyc_tlc.errors import (
    ContractError,
    DiskFullError,
    LakeError,
    OverdueError,
    ReconciliationError,
    SourceError,
    TlcError,
    TransientError,
    WarehouseAwayError,
)
from nyc_tlc.lake.manifest import Stored
from nyc_tlc.lake.store import Lake
from nyc_tlc.month import Color
from nyc_tlc.planning.record import BackfillRun, TroubleKind, Why
from nyc_tlc.settings import read_settings
from nyc_tlc.text_tables import format_table
from nyc_tlc.warehouse.counts import Wrong
from nyc_tlc.warehouse.volume import VolumeError

KEY = "troubles.json"
TOLD_AGAIN = timedelta(days=7)
#: More troubles of a kind and colour than this are one line of a message.
LISTED = 5

#: Error -> the kind of trouble that it is; the first that fits.
KINDS: dict[type[TlcError], TroubleKind] = {
    VolumeError: "odd volume",
    OverdueError: "overdue",
    WarehouseAwayError: "warehouse away",
    TransientError: "source down",
    DiskFullError: "disk low",
    SourceError: "broken file",
    ContractError: "broken file",
    ReconciliationError: "broken file",
}

#: What is new about a trouble.
Change = Literal["new", "still", "over"]


class Trouble(Stored):
    """One trouble: of a month, of a place, or of both.

    Attributes:
        place: The warehouse or the source; empty for a month of the lake.
        seen: When it was found last.
        told: When people were told last; None if they were not.
    """

    kind: TroubleKind
    color: Color | None = None
    month: str | None = None
    place: str = ""
    since: datetime
    seen: datetime
    told: datetime | None = None
    text: Why

    @property
    def subject(self) -> tuple[str, ...]:
        """What it is about."""
        return (self.color or "", self.month or "", self.place)


class TroublesFile(Stored):
    """The content of ``troubles.json``: the open troubles, oldest first."""

    troubles: tuple[Trouble, ...] = ()


def find_trouble(
    kind: TroubleKind, text: str, color: Color | None = None, month: str | None = None, place: str = ""
) -> Trouble:
    """Return a trouble that was found now."""
    now = datetime.now(UTC)
    return Trouble(kind=kind, color=color, month=month, place=place, since=now, seen=now, text=text)


def find_failed(run: BackfillRun) -> list[Trouble]:
    """Return the troubles of a backfill's failed months."""
    return [
        find_trouble(month.trouble or "failed", month.error or month.why, month.color, month.month)
        for month in run.months
        if month.result == "failed"
    ]


def find_wrong(wrong: Wrong) -> list[Trouble]:
    """Return the troubles of months whose rows in a warehouse are not as many as ``loads`` says."""
    return [
        find_trouble("rows missing", text, color, str(month), kind)
        for kind, months in wrong.items()
        for (color, month), text in months.items()
    ]


def name_trouble(error: object) -> TroubleKind:
    """Return the kind of trouble that an error of a month is."""
    return next((kind for type_, kind in KINDS.items() if isinstance(error, type_)), "failed")


def name_trouble_of_run(message: str) -> TroubleKind:
    """Return the kind of trouble of a failed run, whose message has the name of the error's type before the error."""
    names = {word.strip() for word in message.split(":")[:3]}
    types = (each for type_ in KINDS for each in (type_, *type_.__subclasses__()))
    return next((name_trouble(each("")) for each in types if each.__name__ in names), "failed")


def read_troubles(lake: Lake) -> tuple[Trouble, ...]:
    """Read the open troubles.

    Raises:
        LakeError: when the table can't be read.
    """
    content = lake.read(KEY)
    try:
        return TroublesFile.model_validate_json(content).troubles if content else ()
    except ValidationError:
        raise LakeError(
            f"the table {lake.url(KEY)} can't be read", fix="delete it: the next catch-up makes it"
        ) from None


def compare_troubles(
    known: Sequence[Trouble], found: Sequence[Trouble]
) -> tuple[list[Trouble], list[tuple[Change, Trouble]]]:
    """Compare the known troubles with those found now.

    While a source is down, nothing is known of its months, so their troubles stay. A source that is down is told of
    after ``TLC_SOURCE_PATIENCE`` days, because nothing is lost by it.

    Returns:
        The open troubles, oldest first, with ``told`` set; and what people have to be told.
    """
    now, before = datetime.now(UTC), {(each.kind, each.subject): each for each in known}
    found = list({(each.kind, each.subject): each for each in found}.values())
    if any(each.kind == "source down" for each in found):
        subjects = {(each.kind, each.subject) for each in found}
        found += [each for key, each in before.items() if key not in subjects]
    patience = timedelta(days=read_settings().source_patience)
    news, still_open = list[tuple[Change, Trouble]](), list[Trouble]()
    for each in found:
        old = before.pop((each.kind, each.subject), each)
        trouble = each.model_copy(update={"since": old.since, "told": old.told})
        is_due = trouble.kind != "source down" or now - trouble.since >= patience
        if is_due and (trouble.told is None or now - trouble.told >= TOLD_AGAIN):
            news.append(("still" if trouble.told else "new", trouble))
            trouble = trouble.model_copy(update={"told": now})
        still_open.append(trouble)
    about = {each.subject for each in still_open}
    news += [("over", each) for each in before.values() if each.told and each.subject not in about]
    return sorted(still_open, key=lambda each: (each.since, each.subject)), news


def write_troubles(lake: Lake, troubles: Sequence[Trouble]) -> None:
    """Write the open troubles."""
    lake.write(KEY, TroublesFile(troubles=tuple(troubles)).to_json())


def format_troubles(troubles: Sequence[Trouble]) -> str:
    """Format the open troubles as a Markdown table, also for a terminal; empty if there are none."""
    rows = [
        (" ".join(filter(None, each.subject)), each.kind, f"{each.since:%Y-%m-%d}", f"{each.seen:%Y-%m-%d}", each.text)
        for each in troubles
    ]
    table = format_table(("Trouble", "Kind", "Since", "Seen", "What"), rows, pad=True)
    return "\n".join(table) if rows else ""


def format_news(news: Sequence[tuple[Change, Trouble]]) -> str:
    """Format what people have to be told: a line for each trouble; one for many of a kind, with the first of them."""
    lines = list[str]()
    for (change, kind, color), group in groupby(sorted(news, key=_kind_of_news), key=_kind_of_news):
        texts = [trouble.text for _, trouble in group]
        what = "over" if change == "over" else f"{change}, {kind}"
        if len(texts) > LISTED:
            texts = [f"{len(texts)} months of {color}, of which the first is: {texts[0]}"]
        lines += [f"{what}: {text}" for text in texts]
    return "\n".join(lines)


def _kind_of_news(news: tuple[Change, Trouble]) -> tuple[str, str, str]:
    change, trouble = news
    return change, trouble.kind, trouble.color or ""
