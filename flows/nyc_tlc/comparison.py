"""Compare a server's objects with those that a file describes, and change what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

Status = Literal["created", "updated", "removed", "unchanged", "missing", "differs", "stale", "unused", "left out"]
#: The status of an object before its change -> its status after it.
STATUS_AFTER_CHANGE: dict[Status, Status] = {"missing": "created", "differs": "updated", "stale": "removed"}

Saved = TypeVar("Saved")


@dataclass(frozen=True)
class Comparison:
    """How an object of the server compares with its file, or the outcome of its change.

    Attributes:
        name: The object's kind and name, ``concurrency-limit taxi-warehouse-duckdb``.
        status: ``unused`` is an object that a file no longer has and that stays, ``left out`` one that is not created.
        fields: The fields that differ.
        change: Creates, updates or removes the object; None if it needs no change.
    """

    name: str
    status: Status
    fields: tuple[str, ...] = ()
    change: Callable[[], object] | None = None


def compare(
    name: str,
    wanted: Mapping[str, Any],
    saved: Saved | None,
    create: Callable[[], object],
    update: Callable[[Saved], object],
) -> Comparison:
    """Compare the wanted fields with those of the server's object, which is None if it does not exist."""
    if saved is None:
        return Comparison(name, "missing", change=create)
    fields = tuple(field for field, value in wanted.items() if getattr(saved, field) != value)
    return Comparison(name, "differs", fields, partial(update, saved)) if fields else Comparison(name, "unchanged")


def make_changes(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Make the changes, and return the comparisons with their new statuses."""
    done = []
    for each in comparisons:
        if each.change:
            each.change()
        done.append(replace(each, status=STATUS_AFTER_CHANGE.get(each.status, each.status), change=None))
    return done


def needs_change(comparisons: Sequence[Comparison]) -> bool:
    """Return whether any object needs a change."""
    return any(each.status in STATUS_AFTER_CHANGE for each in comparisons)


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    """Return a table for a terminal, with a line for each object."""
    statuses = [f"{each.status} ({', '.join(each.fields)})" if each.fields else each.status for each in comparisons]
    width = max(map(len, statuses), default=0)
    return "".join(f"{status:{width}}  {each.name}\n" for status, each in zip(statuses, comparisons, strict=True))
