"""Seals: a signed statement of what a closed segment holds, each naming the one before it.

A book without a key would show accidents only: whoever can write a file can write its hashes anew.
So a seal is signed, with a secret (HMAC-SHA256) or, for others to check, a private key (ed25519).
"""

from __future__ import annotations

import hmac
import json
import re
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from typing import Protocol

from meter_mw.model import MeterError

_DOMAIN = b"meter_mw seal v1\n"
"""What is signed begins with it, so that the key signs nothing that could mean something else."""

BEFORE_ALL = "0" * 64
"""What the first seal names as the one before it."""

_HEX = re.compile(r"(?:[0-9a-f]{2})+")
_HASH = re.compile(r"[0-9a-f]{64}")


class SealError(MeterError):
    """A seal, a book or a key that cannot be used; says which and why."""


class Signing(Protocol):
    """A key that signs, and checks what it signed."""

    @property
    def name(self) -> str:
        """Which key this is, without giving it away."""

    def sign(self, message: bytes) -> str:
        """Give the signature in hex."""

    def accepts(self, message: bytes, signature: str) -> bool:
        """Say whether a signature is one of this key for the message."""


class Checking(Protocol):
    """A key that can only check."""

    @property
    def name(self) -> str:
        """Which key this is."""

    def accepts(self, message: bytes, signature: str) -> bool:
        """Say whether a signature is one of this key's private half for the message."""


@dataclass(frozen=True, slots=True)
class Seal:
    """What a segment held when it was closed, or (`discarded`) that it was deleted after delivery.

    `number` counts the seals of a book, `previous` is the digest of the one before. `events` records
    have the Merkle root `root` (hex). `estate` and `segment` say where they lay. Times are µs since 1970.
    """

    number: int
    source: str
    estate: str
    segment: int
    events: int
    root: str
    closed_us: int
    previous: str
    discarded: bool = False
    key: str = ""
    signature: str = ""

    def message(self) -> bytes:
        """Give the bytes that are signed: everything but the signature."""
        stated = {name: value for name, value in asdict(self).items() if name != "signature"}
        return _DOMAIN + json.dumps(stated, sort_keys=True, separators=(",", ":")).encode()

    def digest(self) -> str:
        """Give what the next seal calls this one."""
        return sha256(self.encode()).hexdigest()

    def encode(self) -> bytes:
        """Give the seal as one line of JSON, without its end."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    def signed(self, key: Signing) -> Seal:
        """Give this seal with the signature of a key."""
        named = replace(self, key=key.name)
        return replace(named, signature=key.sign(named.message()))

    @classmethod
    def decode(cls, line: bytes) -> Seal:
        """Read a seal; raises SealError."""
        try:
            found = json.loads(line)
            seal = cls(**found)
        except (ValueError, TypeError, RecursionError):
            raise SealError("not a seal") from None
        kinds = {"int": int, "str": str, "bool": bool}
        if any(type(getattr(seal, each.name)) is not kinds[str(each.type)] for each in fields(cls)):
            raise SealError("not a seal: a field has another type")
        texts = [each for each in asdict(seal).values() if isinstance(each, str)]
        is_hex = _HASH.fullmatch(seal.root) and _HEX.fullmatch(seal.signature)
        if not is_hex or not all(each.isprintable() for each in texts):
            raise SealError("not a seal: a field has what no seal has there")
        return seal


class HmacKey:
    """A shared secret: who can check can sign as well."""

    __slots__ = ("_secret", "name")

    def __init__(self, secret: bytes) -> None:
        if not secret:
            raise SealError("the secret of the seals is empty")
        self._secret = secret
        self.name = f"hmac-sha256:{self.sign(b'name of this key')[:16]}"

    def sign(self, message: bytes) -> str:
        """Give the signature in hex."""
        return hmac.new(self._secret, message, sha256).hexdigest()

    def accepts(self, message: bytes, signature: str) -> bool:
        """Say whether a signature is one of this key."""
        return hmac.compare_digest(self.sign(message).encode(), signature.encode())
