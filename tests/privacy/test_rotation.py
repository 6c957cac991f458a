"""A new secret, from the policy to the commands: keys of the registry go on, and end with their secret."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from meter_mw.meter import Meter
from support.policies import request

if TYPE_CHECKING:
    from conftest import Service

ONE = 'secret: "${METER_KEY_SECRET}"'
BOTH = (
    'secrets: [{id: k2, secret: "${NEW_SECRET}", from: 2026-01-01}, {id: k1, secret: "${METER_KEY_SECRET}"}]'
)
NEW = 'secrets: [{id: k2, secret: "${NEW_SECRET}"}]'


def say(service: Service, secrets: str) -> None:
    """Have the policy speak of these secrets."""
    path = service.folder / "meter.yaml"
    text = path.read_text()
    for each in (ONE, BOTH, NEW):
        text = text.replace(f"identity: {{{each}", f"identity: {{{secrets}")
    path.write_text(text)


def whose(key: str) -> tuple[str, str | None]:
    """Give the subject of a key, and the pseudonym that events have for it."""
    meter = Meter("meter.yaml")
    caller = meter.admit(request(key=key)).caller
    meter.close()
    assert caller is not None
    return caller.subject, caller.key


def test_keys_go_on_under_a_new_secret_and_end_with_the_old_one(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEW_SECRET", "another-secret-for-this-test")
    old = service.done("keys", "create", "acme").split()[0]
    subject, pseudonym = whose(old)
    say(service, BOTH)
    assert whose(old) == (subject, pseudonym) == ("acme", pseudonym)
    (listed,) = json.loads(service.done("keys", "list", "--json"))
    assert listed["key"] == pseudonym
    assert service.done("keys", "show", str(pseudonym)) == service.done("keys", "show", listed["id"])
    new = service.done("keys", "rotate", listed["id"], "--overlap", "1h").split()[0]
    assert {each["key"][:3] for each in json.loads(service.done("keys", "list", "--json"))} == {"k1_", "k2_"}
    assert whose(new)[0] == whose(old)[0] == "acme"
    say(service, NEW)
    assert whose(new)[0] == "acme"
    stranger, name = whose(old)
    assert stranger == name
    assert stranger.startswith("k2_")


def test_an_export_and_an_erasure_know_both_pseudonyms(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counts of each key are found too, under whichever secret it was made."""
    monkeypatch.setenv("NEW_SECRET", "another-secret-for-this-test")
    old = service.done("keys", "create", "acme").split()[0]
    service.serve(old)
    say(service, BOTH)
    new = service.done("keys", "create", "acme").split()[0]
    service.serve(new)
    states = [each["record"]["key"] for each in service.exported("acme") if each["kind"] == "state"]
    assert len([each for each in states if ":k" in each and not each.endswith(":h")]) == 2
    assert service.done("forget", "acme", "--yes").splitlines()[-1].startswith("erased_")
    assert {str(each["place"]).split()[0] for each in service.exported("acme")} == {"file", "journal"}
