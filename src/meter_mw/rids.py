"""Request ids: UUIDv7 made here, one a request, never taken from a client."""

from __future__ import annotations

import os

from meter_mw import forks
from meter_mw.model import RequestId

_DRAWN = 64
"""Ids whose random bits are drawn from the kernel at once."""

_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
"""The digit with two bits of the variant, 10, before two random ones (RFC 9562, section 4.1)."""


class _Tails:
    """What follows the time in ids that are to be made; each is given once, to whichever thread.

    A forked child begins with none, so that it never repeats its parent's.
    """

    def __init__(self) -> None:
        self._ready: list[str] = []
        forks.register(self)

    def take(self) -> str:
        """Give the version, the variant and 74 random bits, as they are written."""
        try:
            return self._ready.pop()
        except IndexError:
            digits = os.urandom(10 * _DRAWN).hex()
            first, *rest = (_tail(digits[at : at + 20]) for at in range(0, len(digits), 20))
            self._ready += rest
            return first

    def forget(self) -> None:
        """Drop what belongs to the parent of this process."""
        self._ready.clear()


def _tail(digits: str) -> str:
    return f"7{digits[:3]}-{_VARIANT[digits[3]]}{digits[4:7]}-{digits[7:19]}"


_tails = _Tails()
_written = (-1, "")
"""The millisecond of the last id, and how it is written."""


def new_rid(now_us: int) -> RequestId:
    """Make a UUIDv7 (RFC 9562, section 5.7): milliseconds since 1970, then 74 random bits."""
    global _written  # noqa: PLW0603 - the same millisecond is written again and again
    moment, time = _written
    now_ms = now_us // 1_000
    if moment != now_ms:
        digits = f"{now_ms:012x}"
        time = f"{digits[:8]}-{digits[8:]}-"
        _written = (now_ms, time)
    return RequestId(time + _tails.take())
