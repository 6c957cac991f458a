"""A claim: what the store still needs of an estate, kept in a file there.

Rule 1: while there is a claim, nothing behind its position is deleted, nor the estate: a closing there is not
settled yet, or may have to be sent again.
Rule 2: a claim that is not whole needs everything; it lags behind the truth, and never leads.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING
from zlib import crc32

from meter_mw.journal.estates import opened
from meter_mw.journal.segments import Position

if TYPE_CHECKING:
    from pathlib import Path

_NAME = "claim"
_RECORD = struct.Struct("<QQI")
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

LATER = Position(2**62, 0)
"""Behind everything that is ever written: the estate is to stay, and nothing else of it."""

NOTHING = Position(2**63 - 1, 0)
"""Behind everything: where no claim is."""


def claimed(estate: Path) -> Position:
    """Return the place from which on an estate is needed for the store; `NOTHING` where it is not."""
    try:
        with opened(estate / _NAME) as fd:
            record = os.read(fd, _RECORD.size)
    except FileNotFoundError:
        return NOTHING
    except OSError:
        return Position(0, 0)
    if len(record) < _RECORD.size:
        return Position(0, 0)
    sequence, offset, checksum = _RECORD.unpack(record)
    return Position(sequence, offset) if crc32(record[:16]) == checksum else Position(0, 0)


def claim(estate: Path, position: Position) -> None:
    """Say from where on an estate is needed; raises `OSError`."""
    record = _RECORD.pack(position.sequence, position.offset, 0)[:16]
    fd = os.open(estate / _NAME, _WRITE, 0o600)
    try:
        os.pwrite(fd, record + crc32(record).to_bytes(4, "little"), 0)
    finally:
        os.close(fd)


def unclaim(estate: Path) -> None:
    """Say that an estate is not needed for the store any more; raises `OSError`."""
    (estate / _NAME).unlink(missing_ok=True)
