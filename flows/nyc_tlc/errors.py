"""One tree of errors. Each is one line a person can act on: what, which month, expected, got, what to do.

``TlcError`` is the root: every failure this project expects. What is not a ``TlcError`` is a bug and
keeps its traceback.
"""

from __future__ import annotations


class TlcError(Exception):
    """An expected failure.

    Args:
        what: What went wrong, with the colour and month where there is one.
        expected: What should have been there.
        got: What was there instead.
        fix: The next thing a person should do.
    """

    exit_status = 1

    def __init__(self, what: str, *, expected: str = "", got: str = "", fix: str = "") -> None:
        self.what, self.expected, self.got, self.fix = what, expected, got, fix
        parts = [what]
        if expected:
            parts.append(f"expected {expected}")
        if got:
            parts.append(f"got {got}")
        if fix:
            parts.append(fix)
        super().__init__("; ".join(" ".join(part.split()) for part in parts))

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling with the evidence: keyword-only arguments would otherwise be lost."""
        return (_rebuild, (type(self), self.what, self.expected, self.got, self.fix))


def _rebuild(kind: type[TlcError], what: str, expected: str, got: str, fix: str) -> TlcError:
    return kind(what, expected=expected, got=got, fix=fix)


class ArgumentError(TlcError):
    """What was asked for cannot be: no such month, colour or option."""

    exit_status = 2


class NotPublished(TlcError):  # noqa: N818 - also the name of a run's state
    """The source does not have the month (TLC answers 403, mirrors 404)."""

    exit_status = 3


class ConfigurationError(TlcError):
    """A setting, profile or source is not usable as it is configured."""


class TransientError(TlcError):
    """Time can heal it: time-outs, resets, 429 and 5xx, after all retries."""


class SourceError(TlcError):
    """What came is not the month that was asked for: cut, corrupt or something else altogether."""


class ContractError(TlcError):
    """The file breaks the contract: a required column is missing, or strict mode met an unknown one."""


class ReconciliationError(TlcError):
    """Counts that must be equal are not; nothing was published."""


class LakeError(TlcError):
    """The data lake could not be read or written."""


class ConflictError(LakeError):
    """Another run published the same month in the meantime."""


def first_line(error: BaseException, length: int = 300) -> str:
    """What a client's error says, in one line of at most so many characters."""
    return " ".join(str(error).strip().partition("\n")[0].split())[:length]


class ReportedError(TlcError):
    """Parts of what was asked for failed.

    Args:
        what: How many, or which.
        report: What became of every part, in many lines, for the terminal.
    """

    def __init__(self, what: str, report: str) -> None:
        super().__init__(what)
        self.report = report

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling with the report."""
        return (ReportedError, (self.what, self.report))
