"""Signatures, verified by an independent implementation."""

from __future__ import annotations

import base64
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from meter_mw.sinks.signing import Signer
from meter_mw.testing.sinks import event

KEY = b"0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize("secret", ["whsec_" + base64.b64encode(KEY).decode(), KEY.decode()])
def test_both_forms_of_a_secret_verify(secret: str) -> None:
    """`whsec_` and base64, or the text itself, sign with the same key."""
    body = b"[" + event(1) + b"]"
    assert Webhook(KEY).verify(body, Signer(secret).headers(body, time.time()))


def test_a_changed_body_does_not_verify() -> None:
    """The signature covers the body."""
    headers = Signer(KEY.decode()).headers(b"[]", time.time())
    with pytest.raises(WebhookVerificationError):
        Webhook(KEY).verify(b"[1]", headers)


def test_the_id_is_the_batch() -> None:
    """A later attempt at the same body has the same id and a time and signature of its own."""
    signer = Signer(KEY.decode())
    first, second, other = signer.headers(b"[]", 1), signer.headers(b"[]", 2), signer.headers(b"[1]", 1)
    assert first["webhook-id"] == second["webhook-id"] != other["webhook-id"]
    assert first["webhook-signature"] != second["webhook-signature"]


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_canary!"])
def test_a_useless_secret_is_refused_unseen(secret: str) -> None:
    """The complaint does not repeat the secret."""
    with pytest.raises(ValueError, match="secret") as raised:
        Signer(secret)
    assert "canary" not in str(raised.value)


def test_repr_shows_nothing() -> None:
    """Neither the key nor its base64 is in `repr`."""
    assert repr(Signer("canary")) == "Signer(…)"
