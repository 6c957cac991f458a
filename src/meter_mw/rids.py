"""Request ids: UUIDv7 made here, one a request, never taken from a client."""

from __future__ import annotations

import os

from meter_mw.model import RequestId


def new_rid(now_us: int) -> RequestId:
    """Make a UUIDv7 (RFC 9562, section 5.7): milliseconds since 1970, then 74 random bits.

    The bits come from the kernel on each call, so that a forked worker never repeats its parent's.
    """
    number = int.from_bytes((now_us // 1_000).to_bytes(6, "big") + os.urandom(10), "big")
    number = number & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62
    digits = f"{number:032x}"
    return RequestId(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")
