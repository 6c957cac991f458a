"""Signatures of Standard Webhooks 1.0 (symmetric, `v1`)."""

from __future__ import annotations

import base64
import binascii
import hmac
from hashlib import sha256


class Signer:
    """Signs bodies with a secret, `whsec_` and base64 or any other text, that it never shows."""

    __slots__ = ("_key",)

    def __init__(self, secret: str) -> None:
        encoded = secret.removeprefix("whsec_")
        try:
            self._key = base64.b64decode(encoded, validate=True) if encoded != secret else secret.encode()
        except binascii.Error:
            raise ValueError("after whsec_ a secret goes on in base64; this one does not") from None
        if not self._key:
            raise ValueError("the secret is empty")

    def __repr__(self) -> str:
        return "Signer(…)"

    def headers(self, body: bytes, now: float) -> dict[str, str]:
        """Return the fields for an attempt at a Unix time.

        The id is a digest of the body, so each attempt at the same batch has the same one.
        """
        message = f"msg_{sha256(body).hexdigest()[:32]}"
        timestamp = str(int(now))
        digest = hmac.new(self._key, f"{message}.{timestamp}.".encode() + body, sha256).digest()
        return {
            "webhook-id": message,
            "webhook-timestamp": timestamp,
            "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
        }


def fault_of_secret(secret: str) -> str | None:
    """Say what keeps a text from being a secret to sign with; None where nothing does."""
    try:
        Signer(secret)
    except ValueError:
        return "the secret is empty, or begins with whsec_ and does not go on in base64"
    return None
