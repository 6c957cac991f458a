"""An admission as HTTP: limit fields, and refusals as problem documents; pure.

The fields follow draft-ietf-httpapi-ratelimit-headers-11, written as RFC 9651 structured fields; problems
follow RFC 9457.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from meter_mw.core import Answer
from meter_mw.model import Count
from meter_mw.policy.identity import BearerKey
from meter_mw.policy.policy import Legacy
from meter_mw.quota import Cap

if TYPE_CHECKING:
    from collections.abc import Callable

    from meter_mw.core import Admission, Standing
    from meter_mw.policy.policy import Line, Policy

Fields: TypeAlias = tuple[tuple[str, str], ...]

_SECOND_US = 1_000_000
_LARGEST_INTEGER = 999_999_999_999_999  # RFC 9651, section 3.3.1
_PROBLEMS = "https://iana.org/assignments/http-problem-types#"
_UNITS = {Count.REQUEST_BYTES: "content-bytes", Count.RESPONSE_BYTES: "content-bytes"}
_RETRY_WHEN_AWAY = 1
_SAFE = frozenset({"cache-control", "content-type", "content-length", "www-authenticate"})
"""Fields of ours that a script can read, or does not need (Fetch, CORS-safelisted response headers)."""


@dataclass(frozen=True, slots=True)
class Refusal:
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
    return "application/problem+json", json.dumps(document).encode()


class Responder:
    """Says admissions in HTTP, with the fields of each route and plan written once."""

    def __init__(self, policy: Policy) -> None:
        self._rules = policy.headers
        self._policies: dict[tuple[str, str], str] = {}
        self._challenge = _challenge(policy)

    def fields(self, admission: Admission) -> Fields:
        """Give the limit fields of an answer; none where the standings are not known."""
        standings = admission.standings
        if not standings or admission.caller is None:
            return ()
        fields: list[tuple[str, str]] = []
        if self._rules.ietf:
            key = (admission.route.name, admission.caller.plan.name)
            policies = self._policies.get(key)
            if policies is None:
                policies = self._policies[key] = ", ".join(_policy_item(line) for line in admission.lines)
            fields.append(("RateLimit-Policy", policies))
            fields.append(("RateLimit", ", ".join(_limit_item(each) for each in standings)))
        if self._rules.legacy is not Legacy.OFF:
            fields += _trio(admission, epoch=self._rules.legacy is Legacy.EPOCH)
        return tuple(fields)

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


def _policy_item(line: Line) -> str:
    """One item of RateLimit-Policy: `q` units per `w` seconds.

    For a rate `q` is the burst and `w` the time in which it comes back, so that q/w is the rate and the
    remaining units never pass `q`; where that is less than the second that `w` can say, `q` is what comes
    in one. For a cap `w` is the period's nominal length, as it has to be stable.
    """
    quota = line.limit.quota
    if isinstance(quota, Cap):
        amount, window = quota.units, quota.period.value
    else:
        amount = max(quota.burst, quota.units * _SECOND_US // quota.period_us)
        window = max(1, _seconds(-(-quota.burst * quota.period_us // quota.units)))
    unit = _UNITS.get(line.limit.meter.count)
    named = f';qu="{unit}"' if unit else ""
    return f'"{line.limit.name}";q={min(amount, _LARGEST_INTEGER)}{named};w={window}'


def _limit_item(standing: Standing) -> str:
    """One item of RateLimit: `r` units now, `t` seconds until more fit (denied) or all do."""
    reset_us = standing.wait_us or standing.reset_us
    return (
        f'"{standing.line.limit.name}";r={min(standing.remaining, _LARGEST_INTEGER)};t={_seconds(reset_us)}'
    )


def _trio(admission: Admission, *, epoch: bool) -> Fields:
    """The legacy fields of the tightest limit: one that denied, or the one with the least left."""
    tightest = min(admission.denied_by or admission.standings, key=_tightness)
    quota = tightest.line.limit.quota
    amount = quota.units if isinstance(quota, Cap) else quota.burst
    reset = _seconds(tightest.wait_us or tightest.reset_us)
    if epoch:
        reset = _seconds(admission.now_us + (tightest.wait_us or tightest.reset_us))
    return (
        ("X-RateLimit-Limit", str(amount)),
        ("X-RateLimit-Remaining", str(tightest.remaining)),
        ("X-RateLimit-Reset", str(reset)),
    )


def _tightness(standing: Standing) -> tuple[float, int]:
    quota = standing.line.limit.quota
    amount = quota.units if isinstance(quota, Cap) else quota.burst
    return standing.remaining / max(1, amount), -(standing.wait_us or standing.reset_us)


def _challenge(policy: Policy) -> str:
    schemes = ["Bearer" if isinstance(each, BearerKey) else "ApiKey" for each in policy.identity.places]
    return ", ".join(f'{scheme} realm="{policy.service}"' for scheme in dict.fromkeys(schemes))


def _denied(admission: Admission) -> Refusal:
    wait_us = admission.retry_after_us
    names = tuple(each.line.limit.name for each in admission.denied_by)
    if wait_us is None:
        never = next(each for each in admission.denied_by if each.wait_us is None)
        quota = never.line.limit.quota
        most = quota.units if isinstance(quota, Cap) else quota.burst
        detail = (
            f"This request needs {never.line.need} units of {never.line.limit.meter.name}, and "
            f"{never.line.limit.name} never allows more than {most}; do not retry it."
        )
    else:
        seconds = max(1, _seconds(wait_us))
        detail = f"The limit {', '.join(names)} is used up; retry after {seconds} s."
    return Refusal(
        status=429,
        title="Request cannot be satisfied as assigned quota has been exceeded",
        detail=detail,
        type=_PROBLEMS + "quota-exceeded",
        retry_after=None if wait_us is None else max(1, _seconds(wait_us)),
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
