"""A vendor's HTTP API with a bearer token: what its sinks and their settings have in common."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from meter_mw.sinks.answers import Answer
from meter_mw.sinks.base import Outcome, Retry, Unknown
from meter_mw.sinks.kinds import Form, Option
from meter_mw.sinks.poster import Poster

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_Document = TypeVar("_Document", bound=msgspec.Struct)

JSON = "application/json"
_BAD_REQUEST = frozenset({400, 412, 413, 422})


class Api:
    """The API below a base URL; paths are appended to it. Raises `ValueError` for a URL that is none."""

    def __init__(self, url: str, token: str | None, *, timeout: float = 10.0) -> None:
        self._poster = Poster(url, timeout=timeout)
        self._base = self._poster.target.rstrip("/")
        self._fields = {"Authorization": f"Bearer {token}"} if token else {}
        self.origin = self._poster.origin

    def __repr__(self) -> str:
        return f"Api({self.origin + '/…'!r})"

    @property
    def name(self) -> str:
        """A name for the base URL, the same after a restart."""
        return self._poster.name

    def post(self, path: str, body: bytes, content_type: str = JSON) -> Answer | Retry | Unknown:
        """Post a body, and give what came of it."""
        fields = {"Content-Type": content_type, "Accept": JSON, **self._fields}
        return self._poster.post(body, fields, target=self._base + path)

    def ask(
        self, kind: type[_Document], path: str, query: Sequence[tuple[str, str]] = (), body: object = None
    ) -> _Document | None:
        """Get a JSON document of a kind, posting a question where there is a body; None for a 404.

        Raises `ConnectionError` for anything else than such a document, with what was said.
        """
        target = self._base + path + ("?" + urlencode(query) if query else "")
        fields = {"Accept": JSON, **self._fields}
        if body is None:
            answer = self._poster.request("GET", target, None, fields)
        else:
            fields["Content-Type"] = JSON
            answer = self._poster.request("POST", target, msgspec.json.encode(body), fields)
        if not isinstance(answer, Answer):
            raise ConnectionError(f"{self.origin}: {answer.reason}")
        if answer.status == 404:
            return None
        if not answer.accepts:
            raise ConnectionError(f"{self.origin}{path}: {answer.reason}")
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConnectionError(f"{self.origin}{path}: the answer cannot be read: {error!s:.200}") from None

    def close(self) -> None:
        """Close the connection."""
        self._poster.close()


def is_refusal(answer: Answer) -> bool:
    """Whether something that was sent is refused for good."""
    return answer.status in _BAD_REQUEST


def failure(answer: Answer, after: float | None = None) -> Outcome:
    """Give what a failure means for an event: after a 5xx it may have arrived all the same."""
    after = answer.retry_after if answer.retry_after is not None else after
    return Unknown(answer.reason, after) if answer.status >= 500 else Retry(after, answer.reason)


def moment(time_us: int) -> str:
    """Give a time in µs since 1970 as RFC 3339, to the ms."""
    text = datetime.fromtimestamp(time_us // 1000 / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def number(value: float | str | None) -> Decimal:
    """Give a number of an answer; raises `ConnectionError` for what is none."""
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite():
        raise ConnectionError(f"an answer has {value!r:.50}; expected a number")
    return found


def segment(name: str) -> str:
    """Give a name as one segment of a path."""
    return quote(name, safe="")


def base_url(example: str) -> Option:
    """Give the option for the base URL of an API."""
    return Option(Form.URL, f"a URL such as {example}", needed=True, fault=_fault_of_base)


def token(example: str, *, needed: bool) -> Option:
    """Give the option for a bearer token."""
    expected = f"a token by reference: ${{{example}}}"
    return Option(Form.SECRET, expected, needed=needed, fault=_fault_of_token)


CUSTOMERS = Option(Form.TABLE, "subjects and their ids at the backend, such as {acme: customer-17}")


METERS = Option(Form.TABLE, "fields and what sums them at the backend, such as {requests: api_requests}")


def metered(meters: Mapping[str, str], fields: Sequence[str]) -> Mapping[str, str]:
    """Give what sums each field: all under their own names where nothing is said.

    Raises `ValueError` for a field that no event has.
    """
    for field in meters:
        if field not in fields:
            raise ValueError(f"meters: events have no {field}; expected one of {', '.join(fields)}")
    return meters or {field: field for field in fields}


def apart(customers: Mapping[str, str]) -> Mapping[str, str]:
    """Give the table of customers; raises `ValueError` for two subjects of one customer.

    What such a customer has could be compared with neither subject's usage.
    """
    owners: dict[str, str] = {}
    for subject, customer in customers.items():
        if customer in owners:
            pair = f"{owners[customer]} and {subject}"
            raise ValueError(f"customers: {pair} are both {customer}; give their keys one subject")
        owners[customer] = subject
    return customers


def _fault_of_base(url: str) -> str | None:
    return "the URL has a query; expected the base of the API" if "?" in url else None


def _fault_of_token(text: str) -> str | None:
    # RFC 6750, 2.1: what an Authorization field can hold.
    sound = text.isascii() and text.isprintable() and " " not in text
    return None if sound and text else "the token is empty, or has a space or a character beyond ASCII"
