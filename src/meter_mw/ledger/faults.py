"""What an error of the database says about the events that were to be written. Pure."""

from __future__ import annotations

from enum import Enum, auto

from sqlalchemy.exc import DBAPIError

_LONGEST = 200
# Classes of SQLSTATE (PostgreSQL, appendix A), and codes of SQLite, for data that does not fit.
_DATA = ("22", "23", "54")
_MISFITS = ("SQLITE_CONSTRAINT", "SQLITE_MISMATCH", "SQLITE_TOOBIG")
# Syntax and access rules, a wrong password, a database that is not there; what SQLite may not touch.
_OPERATOR = ("42", "28", "3D", "3F")
_FORBIDDEN = ("SQLITE_ERROR", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_CORRUPT", "SQLITE_NOTADB")


class Fault(Enum):
    """Whose fault it is."""

    EVENT = auto()
    """An event's: it will never fit."""

    OPERATOR = auto()
    """The operator's: waiting alone cures nothing."""

    PASSING = auto()
    """Nobody's: a restart, a deadlock, a full disk, a lost connection."""


def fault_of(error: Exception) -> tuple[Fault, str]:
    """Give whose fault an error is, and words for it, without the data of any event."""
    driven = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    code = getattr(driven, "sqlstate", None) or getattr(driven, "sqlite_errorname", None) or ""
    diagnosis = getattr(driven, "diag", None)
    words = getattr(diagnosis, "message_primary", None) or str(driven).partition("\n")[0]
    reason = f"{code or type(driven).__name__}: {words[:_LONGEST]}"
    if code.startswith((*_DATA, *_MISFITS)) or isinstance(driven, UnicodeError | OverflowError):
        return Fault.EVENT, reason
    if code.startswith((*_OPERATOR, *_FORBIDDEN)) or (not code and not _is_passing(driven)):
        return Fault.OPERATOR, reason
    return Fault.PASSING, reason


def _is_passing(error: BaseException) -> bool:
    """Say whether an error without a code is one of the connection's."""
    return type(error).__name__ in ("OperationalError", "ConnectionTimeout", "TimeoutError", "InterfaceError")
