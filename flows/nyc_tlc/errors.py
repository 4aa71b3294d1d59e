"""The errors that this project expects, with ``TlcError`` as their base class.

Each message is one line that a person can act on: what, which month, expected, got, what to do. An error that is not a
``TlcError`` is a bug and keeps its traceback.
"""

from __future__ import annotations

from functools import partial

from nyc_tlc.shown import shown

#: The longest part of an error, in characters: room for all columns of a file.
LONGEST_PART = 2_000


class TlcError(Exception):
    """An expected failure: what went wrong (with colour and month), what was expected and found, and what to do."""

    exit_status = 1

    def __init__(self, what: str, *, expected: str = "", got: str = "", fix: str = "") -> None:
        what, expected, got, fix = (shown(part, LONGEST_PART) for part in (what, expected, got, fix))
        self.what, self.expected, self.got, self.fix = what, expected, got, fix
        parts = (what, f"expected {expected}" if expected else "", f"got {got}" if got else "", fix)
        super().__init__("; ".join(filter(None, parts)))

    def __reduce__(self) -> tuple[object, ...]:
        # By default, the keyword-only arguments would be lost.
        return (partial(type(self), expected=self.expected, got=self.got, fix=self.fix), (self.what,))


class ArgumentError(TlcError):
    """An argument is not valid: there is no such month, colour or option."""

    exit_status = 2


class NotPublished(TlcError):  # noqa: N818 - also the name of a run's state
    """The source does not have the month (TLC answers 403, mirrors 404)."""

    exit_status = 3


class ConfigurationError(TlcError):
    """A setting, profile or source can't be used."""


class DiskFullError(ConfigurationError):
    """The disk is too small for what is due."""


class TransientError(TlcError):
    """A later attempt can succeed: time-outs, resets, 429 and 5xx, after all retries."""


class WarehouseAwayError(TransientError):
    """A warehouse does not answer, or cut a load off; nothing was changed there."""


class BusyError(WarehouseAwayError):
    """Others kept a warehouse busy for as long as TLC_WAREHOUSE_WAIT says, so it is not tried again at once."""


class SourceError(TlcError):
    """The source refused, or its file is not the month: incomplete, corrupt or something else."""


class OverdueError(SourceError):
    """The source does not have a month that has been published, or must be by now."""


class ContractError(TlcError):
    """The file breaks the contract: a required column is missing, or one is unknown in strict mode."""


class ReconciliationError(TlcError):
    """Counts that must be equal differ; nothing was published."""


class LakeError(TlcError):
    """The data lake could not be read or written."""


class ConflictError(LakeError):
    """Another run published the same month in the meantime."""


def first_line(error: BaseException) -> str:
    """Return the first line of a client's error, cut to 300 characters."""
    # The text of an error of Google's clients also has the response; its first argument is only the message.
    message = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    return " ".join(message.strip().partition("\n")[0].split())[:300]


class ReportedError(TlcError):
    """Parts of a run failed; ``report`` has the outcome of every part, in many lines, for the terminal."""

    def __init__(self, what: str, report: str) -> None:
        super().__init__(what)
        self.report = report

    def __reduce__(self) -> tuple[object, ...]:
        return (ReportedError, (self.what, self.report))
