"""Signatures of Standard Webhooks 1.0 (symmetric, `v1`)."""

from __future__ import annotations

import base64
import binascii
import hmac
from hashlib import sha256


class Signer:
    """Signs bodies with secrets that it never shows: `whsec_` and base64, or any other text.

    There are several while a receiver changes from one to the next: it finds a signature by each.
    """

    __slots__ = ("_keys",)

    def __init__(self, *secrets: str) -> None:
        self._keys = [_key(secret) for secret in secrets]

    def __repr__(self) -> str:
        return "Signer(…)"

    def headers(self, body: bytes, now: float, message: str | None = None) -> dict[str, str]:
        """Return the fields for an attempt at a Unix time.

        Each attempt has the id of its `message`; that of a batch is a digest of the body.
        """
        message = message or f"msg_{sha256(body).hexdigest()[:32]}"
        timestamp = str(int(now))
        text = f"{message}.{timestamp}.".encode() + body
        digests = [hmac.new(key, text, sha256).digest() for key in self._keys]
        return {
            "webhook-id": message,
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests),
        }


def _key(secret: str) -> bytes:
    encoded = secret.removeprefix("whsec_")
    try:
        key = base64.b64decode(encoded, validate=True) if encoded != secret else secret.encode()
    except binascii.Error:
        raise ValueError("after whsec_ a secret goes on in base64; this one does not") from None
    if not key:
        raise ValueError("the secret is empty")
    return key


def fault_of_secret(secret: str) -> str | None:
    """Say what keeps a text from being a secret to sign with; None where nothing does."""
    try:
        _key(secret)
    except ValueError:
        return "the secret is empty, or begins with whsec_ and does not go on in base64"
    return None
