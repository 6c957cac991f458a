"""Who sends a request: the API key that it carries, and the pseudonym that stands for it.

Rule 1: a key leaves this module only as an HMAC; no message, repr or pickle holds it.
Rule 2: a key that two readers could read differently is refused, never guessed.
Rule 3: an empty key is no key, so the policy's rule for anonymous requests decides.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NoReturn, TypeAlias, final
from urllib.parse import unquote_to_bytes

from meter_mw.model import MeterError, SubjectId
from meter_mw.policy.addresses import AddressError, TrustedProxies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "AddressError",
    "AmbiguousCredential",
    "BearerKey",
    "Credential",
    "Fault",
    "HeaderKey",
    "KeyPlace",
    "QueryKey",
    "TrustedProxies",
    "anonymous_subject",
    "fault_of",
    "find_credential",
    "pseudonym",
]

LONGEST_KEY = 512
"""Bytes of an API key; longer ones are refused."""

_WHITESPACE = " \t"  # OWS of RFC 9110, section 5.6.3

_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""A token (RFC 9110, section 5.6.2)."""

_BEARER = re.compile(r"bearer(?![!#$%&'*+\-.^_`|~0-9a-z])", re.IGNORECASE | re.ASCII)
"""The scheme, in any case (RFC 9110, section 11.1), and not as the start of another's name."""

_B64TOKEN = re.compile("[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1."""


class Fault(Enum):
    """Why a place has no key that can be trusted."""

    REPEATED = "it has more than one value"
    TOO_LONG = f"it is longer than {LONGEST_KEY} bytes"
    COMMA = "it has a comma, as joined values have"
    CONTROL = "it has a control character"
    NON_ASCII = "it has a character beyond ASCII"
    WHITESPACE = "it has whitespace inside"
    MALFORMED = "it is not the word Bearer, a space and a token (RFC 6750, section 2.1)"


class AmbiguousCredential(MeterError):
    """A place whose key two readers could read differently: the request is answered 400.

    The message names the place and the fault, never the value.
    """

    def __init__(self, place: KeyPlace, fault: Fault) -> None:
        super().__init__(f"the API key in {place} cannot be used: {fault.value}")
        self.place = place
        self.fault = fault


@final
class Credential:
    """A raw API key, which shows itself only to `reveal`. Raises ValueError if it is empty."""

    __slots__ = ("_key",)

    def __init__(self, key: str) -> None:
        if not key:
            raise ValueError("an API key is not empty; a request without one is anonymous")
        self._key = key

    def reveal(self) -> str:
        """Return the key itself; keep it out of every log, event and message."""
        return self._key

    def __repr__(self) -> str:
        return "Credential(<redacted>)"

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Credential):
            return NotImplemented
        return hmac.compare_digest(_encoded(self), _encoded(other))

    __hash__ = None  # type: ignore[assignment]  # a table of keys is a table of pseudonyms

    def __getstate__(self) -> NoReturn:
        # What pickle and copy ask for.
        raise TypeError("a credential is neither pickled nor copied; pass on its pseudonym")


@dataclass(frozen=True, slots=True)
class HeaderKey:
    """The API key is the whole value of a header field. The name is kept in lower case."""

    name: str

    def __post_init__(self) -> None:
        if not _FIELD_NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is not the name of a header field, such as 'X-API-Key'")
        object.__setattr__(self, "name", self.name.lower())

    def __str__(self) -> str:
        return f"the header {self.name}"

    def look(self, headers: Callable[[str], Sequence[str]], query: str) -> Credential | Fault | None:  # noqa: ARG002
        """Return the key, the fault that it has, or None if there is none."""
        values = headers(self.name)
        if len(values) > 1:
            return Fault.REPEATED
        return _judged(values[0].strip(_WHITESPACE)) if values else None


@dataclass(frozen=True, slots=True)
class BearerKey:
    """The API key is the token of `Authorization: Bearer` (RFC 6750, section 2.1)."""

    def __str__(self) -> str:
        return "the header authorization"

    def look(self, headers: Callable[[str], Sequence[str]], query: str) -> Credential | Fault | None:  # noqa: ARG002
        """Return the key, the fault that it has, or None if there is none, or another scheme."""
        values = headers("authorization")
        if len(values) > 1:  # a field of one value (RFC 9110, section 11.6.2)
            return Fault.REPEATED
        value = values[0].strip(_WHITESPACE) if values else ""
        scheme = _BEARER.match(value)
        if scheme is None:
            return None
        rest = value[scheme.end() :]
        found = _judged(rest.strip(" "))
        if isinstance(found, Credential) and not (
            rest.startswith(" ") and _B64TOKEN.fullmatch(found.reveal())
        ):
            return Fault.MALFORMED
        return found


@dataclass(frozen=True, slots=True)
class QueryKey:
    """The API key is a parameter of the query; URLs are logged everywhere, so prefer a header."""

    name: str

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a query parameter needs a name, such as 'api_key'")

    def __str__(self) -> str:
        return f"the query parameter {self.name}"

    def look(self, headers: Callable[[str], Sequence[str]], query: str) -> Credential | Fault | None:  # noqa: ARG002
        """Return the key, the fault that it has, or None if there is none."""
        name = self.name.encode()
        values = []
        for parameter in query.split("&"):
            key, _, value = parameter.partition("=")
            if _decoded(key) == name:
                values.append(value)
        if len(values) > 1:
            return Fault.REPEATED
        return _judged(_decoded(values[0]).decode("latin-1")) if values else None


KeyPlace: TypeAlias = HeaderKey | BearerKey | QueryKey


def find_credential(
    places: Iterable[KeyPlace], headers: Callable[[str], Sequence[str]], query: str
) -> Credential | None:
    """Return the key from the first place that has one, or None.

    `headers` gives every value of a field by its lower-case name, in order, as latin-1 text;
    `query` is the raw query string. Raises AmbiguousCredential, from a frame that holds no key of
    a header: reporters print the locals of frames.
    """
    for place in places:
        found = place.look(headers, query)
        if isinstance(found, Credential):
            return found
        if found is not None:
            raise AmbiguousCredential(place, found)
    return None


def fault_of(key: str) -> Fault | None:
    """Return why a request could not carry this key in a header, or None. It says nothing of the key."""
    if len(key) > LONGEST_KEY:
        return Fault.TOO_LONG
    if not key.isascii():
        return Fault.NON_ASCII
    if "," in key:
        return Fault.COMMA
    if any(character < " " and character != "\t" for character in key) or "\x7f" in key:
        return Fault.CONTROL
    return Fault.WHITESPACE if " " in key or "\t" in key else None


_PSEUDONYM = re.compile(r"k[1-9][0-9]?_")
_OURS = re.compile(r"(?:k[1-9][0-9]?|anon|erased)_")

PSEUDONYMS = "k1_ to k99_, anon_ or erased_"
"""What the names begin with that are made here, for people to read."""


def is_pseudonym(name: str) -> bool:
    """Say whether a name begins like the pseudonym of a key."""
    return _PSEUDONYM.match(name) is not None


def is_made_here(name: str) -> bool:
    """Say whether a name begins like one that is made here; no operator's subject may."""
    return _OURS.match(name) is not None


def pseudonym(secret: bytes, credential: Credential, version: str = "k1") -> str:
    """Return the name that stands for a key outside this process: `k1_` and 128 bits of its HMAC-SHA256.

    `version` is the id of the secret.
    """
    return f"{version}_{_digest(secret, b'key', _encoded(credential))}"


def anonymous_subject(secret: bytes, prefix: str) -> SubjectId:
    """Return the subject of a request without a key, by the prefix of its address: `anon_` and 128 bits."""
    return SubjectId(f"anon_{_digest(secret, b'anon', prefix.encode())}")


def _digest(secret: bytes, domain: bytes, text: bytes) -> str:
    # No domain holds NUL, so no two pairs of domain and text are one message.
    return hmac.digest(secret, domain + b"\0" + text, "sha256")[:16].hex()


def _encoded(credential: Credential) -> bytes:
    # A UnicodeEncodeError would carry the key.
    return credential.reveal().encode("utf-8", "surrogatepass")


def _judged(key: str) -> Credential | Fault | None:
    if not key.strip(_WHITESPACE):
        return None
    return fault_of(key) or Credential(key)


def _decoded(text: str) -> bytes:
    """Decode a part of application/x-www-form-urlencoded (URL Standard, section 5.1)."""
    return unquote_to_bytes(text.replace("+", " ").encode("utf-8", "surrogatepass"))
