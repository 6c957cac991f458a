"""Who sends a request: one key or none, never a guess, and never a leak."""

from __future__ import annotations

import copy
import hmac
import json
import pickle
import traceback
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meter_mw.model import MeterError
from meter_mw.policy.identity import (
    LONGEST_KEY,
    AmbiguousCredential,
    BearerKey,
    Credential,
    Fault,
    HeaderKey,
    KeyPlace,
    QueryKey,
    TrustedProxies,
    anonymous_subject,
    fault_of,
    find_credential,
    pseudonym,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CANARY = "sk_canary_5f1d7c"
SECRET = b"0123456789abcdef"
HEADER, BEARER, QUERY = HeaderKey("X-API-Key"), BearerKey(), QueryKey("api_key")

KEYS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=","), min_size=1)


def fields(**values: list[str]) -> Callable[[str], Sequence[str]]:
    """Make the look-up of header fields; underscores stand for hyphens."""
    table = {name.replace("_", "-"): tuple(each) for name, each in values.items()}
    return lambda name: table.get(name, ())


def find(*places: KeyPlace, query: str = "", **values: list[str]) -> str | None:
    """Find a key and reveal it."""
    credential = find_credential(places, fields(**values), query)
    return None if credential is None else credential.reveal()


def fault(*places: KeyPlace, query: str = "", **values: list[str]) -> Fault:
    """Find the fault of a key."""
    with pytest.raises(AmbiguousCredential) as caught:
        find_credential(places, fields(**values), query)
    assert isinstance(caught.value, MeterError)
    assert caught.value.place is places[-1]
    assert str(places[-1]) in str(caught.value)
    assert caught.value.fault.value in str(caught.value)
    return caught.value.fault


# --- credentials -------------------------------------------------------------------------------


def test_credential_reveals_only_on_demand() -> None:
    """Nothing but `reveal` shows the key."""
    credential = Credential(CANARY)
    shown = f"{credential} {credential!r} {credential!s} {credential:>40} {[credential]} " + "%s %r" % (  # noqa: UP031
        credential,
        credential,
    )
    assert CANARY not in shown
    assert credential.reveal() == CANARY


@pytest.mark.parametrize(
    "take",
    [
        pickle.dumps,
        copy.copy,
        copy.deepcopy,
        json.dumps,
        hash,
        vars,
        Credential.__getstate__,
        lambda credential: credential.__reduce__(),
        *(lambda credential, protocol=protocol: pickle.dumps(credential, protocol) for protocol in range(6)),
    ],
)
def test_credential_does_not_travel(take: Callable[[Credential], object]) -> None:
    """It is neither pickled, copied, hashed nor turned into JSON, and the refusal does not hold the key."""
    with pytest.raises(TypeError) as caught:
        take(Credential(CANARY))
    assert CANARY not in str(caught.value)


def test_credential_is_not_empty() -> None:
    """An empty key cannot be built."""
    with pytest.raises(ValueError, match="not empty"):
        Credential("")


def test_credentials_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal keys are equal, and the comparison is the one that takes as long for each."""
    asked = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: asked.append((a, b)) or real(a, b))
    assert Credential(CANARY) == Credential(CANARY)
    assert Credential(CANARY) != Credential(CANARY + "x")
    assert Credential("\udc80") != Credential("\u00e9")
    assert Credential(CANARY) != CANARY
    assert len(asked) == 3


# --- places ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (CANARY, CANARY),
        (f"  {CANARY}\t ", CANARY),
        ("", None),
        (" \t", None),
        ("a" * LONGEST_KEY, "a" * LONGEST_KEY),
        (" " * 600 + "a", "a"),
        ("!\"#$%&'()*+-./:;<=>?@[\\]^_`{|}~", "!\"#$%&'()*+-./:;<=>?@[\\]^_`{|}~"),
    ],
)
def test_header_key(value: str, expected: str | None) -> None:
    """The whole value is the key, without the whitespace around it; a blank one is none."""
    assert find(HEADER, x_api_key=[value]) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", "b"], Fault.REPEATED),
        (["a", "a"], Fault.REPEATED),
        (["", "a"], Fault.REPEATED),
        (["a", ""], Fault.REPEATED),
        (["", ""], Fault.REPEATED),
        (["a,b"], Fault.COMMA),
        (["a, b"], Fault.COMMA),
        ([","], Fault.COMMA),
        (["a\x00"], Fault.CONTROL),
        (["a\nb"], Fault.CONTROL),
        (["\x0ba"], Fault.CONTROL),
        (["a\x7f"], Fault.CONTROL),
        (["a b"], Fault.WHITESPACE),
        (["a\tb"], Fault.WHITESPACE),
        (["caf\u00e9"], Fault.NON_ASCII),
        (["\u00a0"], Fault.NON_ASCII),
        (["a\u0085"], Fault.NON_ASCII),
        (["a" * (LONGEST_KEY + 1)], Fault.TOO_LONG),
    ],
)
def test_header_key_ambiguous(values: list[str], expected: Fault) -> None:
    """What two readers could read differently is refused."""
    assert fault(HEADER, x_api_key=values) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (f"Bearer {CANARY}", CANARY),
        (f" bEARER   {CANARY}  ", CANARY),
        ("Bearer a-._~+/Z9==", "a-._~+/Z9=="),
        ("Bearer", None),
        ("Bearer  ", None),
        ("Bearer \t", None),
        ("", None),
        ("Basic dXNlcjpwYXNz", None),
        ('Digest username="a", realm="b"', None),
        (f"BearerX {CANARY}", None),
        (f"Bearer-Token {CANARY}", None),
        (CANARY, None),
    ],
)
def test_bearer_key(value: str, expected: str | None) -> None:
    """The token is the key; another scheme, or none, is no bearer key."""
    assert find(BEARER, authorization=[value]) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["Bearer a", "Bearer b"], Fault.REPEATED),
        (["Basic a", "Bearer b"], Fault.REPEATED),
        (["Bearer a,Bearer b"], Fault.COMMA),
        (["Bearer a b"], Fault.WHITESPACE),
        (["Bearer\ta"], Fault.WHITESPACE),
        (["Bearer  \ta"], Fault.WHITESPACE),
        (["Bearer:a"], Fault.MALFORMED),
        (["Bearer=a"], Fault.MALFORMED),
        (["Bearer/a"], Fault.MALFORMED),
        (["Bearer sk:a"], Fault.MALFORMED),
        (["Bearer a=b"], Fault.MALFORMED),
        (["Bearer =="], Fault.MALFORMED),
        (['Bearer "a"'], Fault.MALFORMED),
        (["Bearer a\x01"], Fault.CONTROL),
        (["Bearer \u00e9"], Fault.NON_ASCII),
        (["Bearer " + "a" * 513], Fault.TOO_LONG),
    ],
)
def test_bearer_key_ambiguous(values: list[str], expected: Fault) -> None:
    """A bearer key that is not one token in one field is refused."""
    assert fault(BEARER, authorization=values) is expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (f"api_key={CANARY}", CANARY),
        (f"a=1&api_key={CANARY}&b=2", CANARY),
        (f"api%5Fkey={CANARY}", CANARY),
        ("api_key=a%2Fb%3D", "a/b="),
        ("api_key=a=b", "a=b"),
        ("api_key=a%zz", "a%zz"),
        ("api_key=", None),
        ("api_key", None),
        ("api_key=%20+", None),
        ("API_KEY=a", None),
        ("x_api_key=a", None),
        ("a=1;api_key=b", None),
        ("", None),
        ("&&=&", None),
    ],
)
def test_query_key(query: str, expected: str | None) -> None:
    """The decoded parameter is the key; a blank one is none."""
    assert find(QUERY, query=query) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("api_key=a&api_key=b", Fault.REPEATED),
        ("api_key=a&api_key=a", Fault.REPEATED),
        ("api_key&api%5fkey=a", Fault.REPEATED),
        ("api_key=a%2Cb", Fault.COMMA),
        ("api_key=a,b", Fault.COMMA),
        ("api_key=a%00", Fault.CONTROL),
        ("api_key=a%0A", Fault.CONTROL),
        ("api_key=a+b", Fault.WHITESPACE),
        ("api_key=%20a", Fault.WHITESPACE),
        ("api_key=%C3%A9", Fault.NON_ASCII),
        ("api_key=\u00e9", Fault.NON_ASCII),
        ("api_key=\ud800", Fault.NON_ASCII),
        ("api_key=" + "%61" * 513, Fault.TOO_LONG),
    ],
)
def test_query_key_ambiguous(query: str, expected: Fault) -> None:
    """The decoded parameter is held to the rules of a header's key, and stands once."""
    assert fault(QUERY, query=query) is expected


@given(KEYS.filter(lambda key: len(key) <= LONGEST_KEY))
@example("+%2B&=")
@settings(deadline=None)
def test_usable_keys_are_found_everywhere(key: str) -> None:
    """A key that has no fault is read back whole from a header and from a query."""
    assert fault_of(key) is None
    assert find(HEADER, x_api_key=[f" {key} "]) == key
    assert find(QUERY, query=f"a&api_key={quote(key, safe='')}") == key


def test_first_place_wins() -> None:
    """The first place that has a key is believed, and one that has none passes on."""
    both = {"x_api_key": ["one"], "authorization": ["Bearer two"]}
    assert find(HEADER, BEARER, query="", **both) == "one"
    assert find(BEARER, HEADER, query="", **both) == "two"
    assert find(HEADER, BEARER, x_api_key=[" "], authorization=["Bearer two"]) == "two"
    assert find(BEARER, QUERY, authorization=["Basic eDp5"], query="api_key=three") == "three"
    assert find(HEADER, BEARER, QUERY) is None
    assert find() is None


def test_an_ambiguous_place_ends_the_search() -> None:
    """A later place cannot make up for a key that cannot be read."""
    with pytest.raises(AmbiguousCredential):
        find(HEADER, BEARER, x_api_key=["a", "b"], authorization=["Bearer two"])


def test_an_empty_key_is_no_key() -> None:
    """Blank values everywhere leave the request anonymous: no credential could come of them."""
    assert find(HEADER, BEARER, QUERY, x_api_key=["\t"], authorization=["Bearer "], query="api_key=") is None


def test_places_are_checked() -> None:
    """A place names a header field or a parameter; a field's name has no case."""
    assert HeaderKey("X-API-Key") == HeaderKey("x-api-key")
    assert len({HEADER, HeaderKey("x-API-key"), BEARER, BearerKey(), QUERY, QueryKey("api_key")}) == 3
    for name in ("", "x key", "x:key", "x\n"):
        with pytest.raises(ValueError, match="header field"):
            HeaderKey(name)
    with pytest.raises(ValueError, match="needs a name"):
        QueryKey("")


@pytest.mark.parametrize(
    "values",
    [
        {"x_api_key": [CANARY, CANARY]},
        {"x_api_key": [f"{CANARY},{CANARY}"]},
        {"x_api_key": [f"{CANARY} x"]},
        {"x_api_key": [f"{CANARY}\x01"]},
        {"x_api_key": [f"{CANARY}\u00e9"]},
        {"x_api_key": [CANARY * 99]},
        {"authorization": [f"Bearer {CANARY}:"]},
        {"authorization": [f"Bearer:{CANARY}"]},
        {"authorization": [f"Bearer {CANARY}", "Basic x"]},
    ],
)
def test_no_traceback_holds_a_key(values: dict[str, list[str]]) -> None:
    """Not even a reporter that prints the locals of each frame of ours finds the key."""
    headers = fields(**values)
    del values
    with pytest.raises(AmbiguousCredential) as caught:
        find_credential((HEADER, BEARER), headers, "")
    error = caught.value
    assert error.__traceback__ is not None
    ours = traceback.TracebackException(type(error), error, error.__traceback__.tb_next, capture_locals=True)
    text = "".join(ours.format(chain=True)) + repr(error) + str(error) + repr(error.args) + repr(vars(error))
    assert "place" in text
    assert CANARY not in text


@given(st.text(min_size=1, max_size=40), st.lists(st.sampled_from([HEADER, BEARER, QUERY]), min_size=1))
@example("Q\ud800Q", [QUERY])
@settings(deadline=None)
def test_no_message_holds_a_key(key: str, places: list[KeyPlace]) -> None:
    """Whatever the key, no message, repr or format of ours holds it."""
    key = f"\u2603{key}"  # beyond ASCII, and in no message of ours
    shown = repr(Credential(key)) + str(Credential(key)) + f"{Credential(key):^9}"
    headers = fields(x_api_key=[key], authorization=[f"Bearer {key}"])
    with pytest.raises(AmbiguousCredential) as caught:
        find_credential(places, headers, f"api_key={key}")
    shown += "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert "\u2603" not in shown


# --- pseudonyms --------------------------------------------------------------------------------


def test_pseudonym_is_an_hmac() -> None:
    """Anyone with the secret can work out the pseudonym of a key."""
    expected = hmac.new(SECRET, b"key\0" + CANARY.encode(), "sha256").hexdigest()[:32]
    assert pseudonym(SECRET, Credential(CANARY)) == f"k1_{expected}"
    expected = hmac.new(SECRET, b"anon\x00" + b"198.51.100.7", "sha256").hexdigest()[:32]
    assert anonymous_subject(SECRET, "198.51.100.7") == f"anon_{expected}"


TEXTS = st.text(min_size=1)


@given(st.sets(TEXTS, min_size=2, max_size=8))
@example({"a", "a\0", "\0a"})
@example({chr(0xD800), chr(0xDFFF)})
@settings(deadline=None)
def test_distinct_keys_have_distinct_pseudonyms(keys: set[str]) -> None:
    """No two keys, and no key under two secrets, share a pseudonym."""
    names = {pseudonym(secret, Credential(key)) for key in keys for secret in (SECRET, SECRET + b"x")}
    assert len(names) == 2 * len(keys)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
@settings(deadline=None)
def test_domains_are_apart(text: str) -> None:
    """A key that reads like an address is not that address's subject, not even in its digits."""
    key = pseudonym(SECRET, Credential(text)).removeprefix("k1_")
    assert key != anonymous_subject(SECRET, text).removeprefix("anon_")
    assert len(key) == 32


def test_face() -> None:
    """What identity speaks of is found beside it."""
    assert TrustedProxies.parse(["unix"]).unix
