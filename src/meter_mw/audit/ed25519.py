"""Seals that anyone can check who has the public key (ed25519, RFC 8032)."""

from __future__ import annotations

from hashlib import sha256

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from meter_mw.audit.seals import SealError


class PublicKey:
    """Checks seals."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.name = f"ed25519:{sha256(raw).hexdigest()[:16]}"

    def accepts(self, message: bytes, signature: str) -> bool:
        """Say whether a signature is one of the private half."""
        try:
            self._key.verify(bytes.fromhex(signature), message)
        except (InvalidSignature, ValueError):
            return False
        return True

    def pem(self) -> str:
        """Give the key as PEM, for those who are to check."""
        return self._key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class PrivateKey(PublicKey):
    """Signs seals."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        super().__init__(key.public_key())
        self._private = key

    def sign(self, message: bytes) -> str:
        """Give the signature in hex."""
        return self._private.sign(message).hex()


def private_key(pem: bytes) -> PrivateKey:
    """Read a private key without a passphrase. Raises SealError, which does not show it."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SealError("the private key of the seals is no PEM without a passphrase") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SealError("the private key of the seals is not of ed25519")
    return PrivateKey(key)


def public_key(pem: bytes) -> PublicKey:
    """Read a public key, or the public half of a private one. Raises SealError."""
    if b"PRIVATE KEY" in pem:
        return private_key(pem)
    try:
        key = load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SealError("the public key of the seals is no PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise SealError("the public key of the seals is not of ed25519")
    return PublicKey(key)
