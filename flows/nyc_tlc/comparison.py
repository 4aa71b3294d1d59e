"""What a file says of a server's objects, compared with what the server has, and made so where it differs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

Status = Literal["created", "updated", "removed", "unchanged", "missing", "differs", "stale", "unused", "left out"]
#: What a change makes of the status of an object.
STATUS_AFTER_CHANGE: dict[Status, Status] = {"missing": "created", "differs": "updated", "stale": "removed"}

Saved = TypeVar("Saved")


@dataclass(frozen=True)
class Comparison:
    """How an object of the server compares with its file, or what was done about it.

    Attributes:
        name: The object's kind and name, ``concurrency-limit taxi-warehouse-duckdb``.
        status: ``unused`` is one that a file no longer mentions and that is kept, ``left out`` one that isn't made.
        fields: What differed.
        change: Makes the object what it should be; None when there is nothing to do.
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
    """Compare the fields of the server's object, None if it has none, with those that are wanted."""
    if saved is None:
        return Comparison(name, "missing", change=create)
    fields = tuple(field for field, value in wanted.items() if getattr(saved, field) != value)
    return Comparison(name, "differs", fields, partial(update, saved)) if fields else Comparison(name, "unchanged")


def make_changes(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Carry out what there is to do, and tell what was done."""
    done = []
    for each in comparisons:
        if each.change:
            each.change()
        done.append(replace(each, status=STATUS_AFTER_CHANGE.get(each.status, each.status), change=None))
    return done


def needs_change(comparisons: Sequence[Comparison]) -> bool:
    """Whether anything is not as it should be."""
    return any(each.status in STATUS_AFTER_CHANGE for each in comparisons)


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    """What was found or done, for a terminal: a line an object."""
    statuses = [f"{each.status} ({', '.join(each.fields)})" if each.fields else each.status for each in comparisons]
    width = max(map(len, statuses), default=0)
    return "".join(f"{status:{width}}  {each.name}\n" for status, each in zip(statuses, comparisons, strict=True))
