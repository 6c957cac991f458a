"""An admission as HTTP: limit fields, and refusals as problem documents; pure.

The fields follow draft-ietf-httpapi-ratelimit-headers-11, written as RFC 9651 structured fields; problems
follow RFC 9457.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec

from meter_mw.admission import Answer
from meter_mw.model import Count
from meter_mw.policy.identity import BearerKey
from meter_mw.policy.policy import Legacy
from meter_mw.quota import Cap, Rate, Slots
from meter_mw.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.admission import Admission, Standing
    from meter_mw.policy.policy import Policy
    from meter_mw.policy.terms import Limit, Line
    from meter_mw.quota import Quota

Fields: TypeAlias = tuple[tuple[str, str], ...]

_SECOND_US = 1_000_000
_LARGEST_INTEGER = 999_999_999_999_999  # RFC 9651, section 3.3.1
_PROBLEMS = "https://iana.org/assignments/http-problem-types#"
_UNITS = {
    Count.REQUEST_BYTES: "content-bytes",
    Count.RESPONSE_BYTES: "content-bytes",
    Count.CONCURRENT: "concurrent-requests",
}
_EXCEEDED = "Request cannot be satisfied as assigned quota has been exceeded"
_RETRY_WHEN_AWAY = 1
_MOST_WRITTEN = 8_192
"""Lists of limits of which is kept what is always written, at least as many as this."""
_SAFE = frozenset({"cache-control", "content-type", "content-length", "www-authenticate"})
"""Fields of ours that a script can read, or does not need (Fetch, CORS-safelisted response headers)."""


class Refusal(NamedTuple):
    """A refusal about to be sent; `admission` tells an app's own body why.

    `retry_after` is in whole seconds, `None` where waiting does not help.
    """

    status: int
    title: str
    detail: str
    type: str
    retry_after: int | None
    violated: tuple[str, ...]
    admission: Admission


Body: TypeAlias = "Callable[[Refusal], tuple[str, bytes]]"
"""An app's own refusal body: the refusal to a media type and the bytes."""


def problem(refusal: Refusal) -> tuple[str, bytes]:
    """Give the refusal as a problem document."""
    document: dict[str, object] = {
        "type": refusal.type,
        "title": refusal.title,
        "status": refusal.status,
        "detail": refusal.detail,
        "instance": f"urn:uuid:{refusal.admission.rid}",
    }
    if refusal.violated:
        document["violated-policies"] = list(refusal.violated)
    return "application/problem+json", msgspec.json.encode(document)


class _Written(NamedTuple):
    """What is always written of limits: RateLimit-Policy, and the beginnings of the items of RateLimit."""

    limits: tuple[Limit, ...]
    policies: str
    heads: tuple[str, ...]


class Responder:
    """Says admissions in HTTP, with the fields of each route and plan written once."""

    def __init__(self, policy: Policy) -> None:
        self._rules = policy.headers
        self._written: Recent[tuple[int, ...], _Written] = Recent(_MOST_WRITTEN)
        self._challenge = _challenge(policy)

    def fields(self, admission: Admission) -> Fields:
        """Give the limit fields of an answer; none where it is not known how its caller stands."""
        lent = admission.lent
        if lent is not None and not admission.lines and self._rules.legacy is Legacy.OFF:
            lent_items = [(left, reset_us) for left, reset_us, _, _ in lent.figures(admission.now_us)]
            return self._ietf(lent.lines, lent_items) if self._rules.ietf else ()
        standings = tuple(each for each in admission.every_standing if not each.line.limit.shadow)
        if not standings or admission.caller is None:
            return ()
        fields: Fields = ()
        if self._rules.ietf:
            items = [(each.remaining, each.wait_us or each.reset_us) for each in standings]
            fields = self._ietf(tuple(each.line for each in standings), items)
        if self._rules.legacy is not Legacy.OFF:
            tightest = min(admission.denied_by or standings, key=_tightness)
            fields += _trio(tightest, admission.now_us, epoch=self._rules.legacy is Legacy.EPOCH)
        return fields

    def _ietf(self, lines: tuple[Line, ...], items: Sequence[tuple[int, int | None]]) -> Fields:
        """Give both fields; `items` are units now, and the µs until more fit (denied) or all do, if known.

        An item of RateLimit has them as `r` units and `t` seconds.
        """
        names = tuple([id(line.limit) for line in lines])
        known = self._written.get(names)
        if known is None:  # it keeps the limits, and so their ids
            of = tuple(line.limit for line in lines)
            known = _Written(of, ", ".join(map(_policy_item, of)), tuple(f'"{each.name}";r=' for each in of))
            self._written.put(names, known)
        limits = [
            f"{head}{min(left, _LARGEST_INTEGER)}{'' if us is None else f';t={-(-us // _SECOND_US)}'}"
            for head, (left, us) in zip(known.heads, items, strict=True)
        ]
        return (("RateLimit-Policy", known.policies), ("RateLimit", ", ".join(limits)))

    def refusal(self, admission: Admission) -> tuple[Refusal, Fields]:
        """Give what to tell a client that is not served, and the fields that go with it."""
        refusal = _REFUSALS[admission.answer](admission)
        fields = [("Cache-Control", "no-store"), *self.fields(admission)]  # RFC 6585, section 4
        if refusal.retry_after is not None:
            fields.append(("Retry-After", str(refusal.retry_after)))
        if refusal.status == 401:
            fields.append(("WWW-Authenticate", self._challenge))  # RFC 9110, section 15.5.2
        return refusal, tuple(fields)


def exposed(present: str | None, fields: Fields) -> str | None:
    """Give Access-Control-Expose-Headers with our fields appended, `None` where there is nothing to add."""
    names = [name for name, _ in fields if name.lower() not in _SAFE]
    known = [] if present is None else [name.strip() for name in present.split(",") if name.strip()]
    lowered = {name.lower() for name in known}
    added = [name for name in names if name.lower() not in lowered]
    return None if "*" in lowered or not added else ", ".join(known + added)


def _seconds(us: int) -> int:
    return min(-(-us // _SECOND_US), _LARGEST_INTEGER)


def _policy_item(limit: Limit) -> str:
    """One item of RateLimit-Policy: `q` units per `w` seconds.

    For a rate `q` is the burst and `w` the time in which it comes back, so that q/w is the rate and the
    remaining units never pass `q`; where that is less than the second that `w` can say, `q` is what comes
    in one. For a cap `w` is the period's nominal length, as it has to be stable. Slots have no window.
    """
    quota = limit.quota
    unit = _UNITS.get(limit.meter.count)
    named = f';qu="{unit}"' if unit else ""
    if isinstance(quota, Slots):
        return f'"{limit.name}";q={min(quota.units, _LARGEST_INTEGER)}{named}'
    if isinstance(quota, Cap):
        amount, window = quota.units, quota.period.value
    else:
        amount = max(quota.burst, quota.units * _SECOND_US // quota.period_us)
        window = max(1, _seconds(-(-quota.burst * quota.period_us // quota.units)))
    return f'"{limit.name}";q={min(amount, _LARGEST_INTEGER)}{named};w={window}'


def _trio(tightest: Standing, now_us: int, *, epoch: bool) -> Fields:
    """The legacy fields of the tightest limit: one that denied, or the one with the least left."""
    reset_us = tightest.wait_us or tightest.reset_us or 0
    reset = _seconds(now_us + reset_us) if epoch else _seconds(reset_us)
    return (
        ("X-RateLimit-Limit", str(_most(tightest.line.limit.quota))),
        ("X-RateLimit-Remaining", str(tightest.remaining)),
        ("X-RateLimit-Reset", str(reset)),
    )


def _most(quota: Quota) -> int:
    """Give the units that can fit at most."""
    return quota.burst if isinstance(quota, Rate) else quota.units


def _tightness(standing: Standing) -> tuple[float, int]:
    amount = _most(standing.line.limit.quota)
    return standing.remaining / max(1, amount), -(standing.wait_us or standing.reset_us or 0)


def _challenge(policy: Policy) -> str:
    schemes = ["Bearer" if isinstance(each, BearerKey) else "ApiKey" for each in policy.identity.places]
    return ", ".join(f'{scheme} realm="{policy.service}"' for scheme in dict.fromkeys(schemes))


def _denied(admission: Admission) -> Refusal:
    wait_us = admission.retry_after_us
    names = tuple(each.line.limit.name for each in admission.denied_by)
    if wait_us is None:
        return _never(admission, names)
    seconds = max(1, _seconds(wait_us))
    return Refusal(
        status=429,
        title=_EXCEEDED,
        detail=f"The limit {', '.join(names)} is used up; retry after {seconds} s.",
        type=_PROBLEMS + "quota-exceeded",
        retry_after=seconds,
        violated=names,
        admission=admission,
    )


def _never(admission: Admission, names: tuple[str, ...]) -> Refusal:
    """Say that a request can never fit: a body is too large (RFC 9110, section 15.5.14), or its cost is."""
    line = next(each for each in admission.denied_by if each.wait_us is None).line
    quota = line.limit.quota
    most = quota.most if isinstance(quota, Cap) else _most(quota)
    too_large = line.limit.meter.count is Count.REQUEST_BYTES
    return Refusal(
        status=413 if too_large else 429,
        title="Content Too Large" if too_large else _EXCEEDED,
        detail=f"This request needs {line.need} units of {line.limit.meter.name}, and "
        f"{line.limit.name} never allows more than {most}; do not retry it.",
        type="about:blank" if too_large else _PROBLEMS + "quota-exceeded",
        retry_after=None,
        violated=names,
        admission=admission,
    )


def _unavailable(admission: Admission) -> Refusal:
    return Refusal(
        status=503,
        title="Request cannot be satisfied due to temporary server capacity constraints",
        detail=f"{_sentence(admission.reason)} Retry after {_RETRY_WHEN_AWAY} s.",
        type=_PROBLEMS + "temporary-reduced-capacity",
        retry_after=_RETRY_WHEN_AWAY,
        violated=(),
        admission=admission,
    )


def _unidentified(admission: Admission) -> Refusal:
    return Refusal(401, "Unauthorized", _sentence(admission.reason), "about:blank", None, (), admission)


def _malformed(admission: Admission) -> Refusal:
    return Refusal(400, "Bad Request", _sentence(admission.reason), "about:blank", None, (), admission)


def _sentence(reason: str) -> str:
    return f"{reason[:1].upper()}{reason[1:]}."


_REFUSALS = {
    Answer.DENIED: _denied,
    Answer.UNAVAILABLE: _unavailable,
    Answer.UNIDENTIFIED: _unidentified,
    Answer.AMBIGUOUS: _malformed,
    Answer.ODD_PATH: _malformed,
}
