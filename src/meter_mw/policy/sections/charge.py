"""The section `charge`, of the policy or of a route: which requests are charged for."""

from __future__ import annotations

from dataclasses import replace

from meter_mw.policy.reading import Field, Names
from meter_mw.policy.terms import ANY_STATUS, ChargeRules
from meter_mw.policy.yaml12 import Items, Scalar
from meter_mw.quota import OnDeny

_CHARGE = Names(("when", "refund_on", "on_deny"))
_CLASSES = {f"{first}xx": frozenset(range(first * 100, first * 100 + 100)) for first in range(1, 6)}
_EXPECTED = "a status such as 404, or a class of them such as 5xx"
_ALWAYS = "always"


def read_charge(field: Field, base: ChargeRules) -> ChargeRules | None:
    """Read what is charged for; what is not said is as in `base`."""
    fields = field.section(_CHARGE)
    if fields is None:
        return None
    problems = field.document.problems
    before = len(problems)
    when = _when(fields["when"]) if "when" in fields else base.when
    refund_on = _statuses(fields["refund_on"]) if "refund_on" in fields else base.refund_on
    on_deny = fields["on_deny"].choice({each.value: each for each in OnDeny}) if "on_deny" in fields else None
    if len(problems) > before:
        return None
    if not when - refund_on:
        field.complain("no request would ever be charged for: every status of when is in refund_on")
        return None
    return replace(base, when=when, refund_on=refund_on, on_deny=on_deny or base.on_deny)


def _when(field: Field) -> frozenset[int]:
    if isinstance(field.node, Scalar) and field.node.value == _ALWAYS:
        return ANY_STATUS
    if isinstance(field.node, Items) and not field.node.nodes:
        field.complain("found no status; leave when out to charge for every request")
    return _statuses(field, also=f"{_ALWAYS}, ")


def _statuses(field: Field, also: str = "") -> frozenset[int]:
    if isinstance(field.node, Items):
        return frozenset().union(*map(_status, field.items(_EXPECTED) or ()))
    return _status(field, also)


def _status(field: Field, also: str = "") -> frozenset[int]:
    expected = f"{also}{_EXPECTED}"
    value = field.node.value if isinstance(field.node, Scalar) else None
    if isinstance(value, str) and not field.is_hidden and not value.isdigit():
        if value not in _CLASSES:
            known = (*_CLASSES, _ALWAYS) if also else _CLASSES
            field.reject(expected, meant=field.suggestion(value, known))
        return _CLASSES.get(value, frozenset())
    status = field.integer(expected, least=100, most=599)
    return frozenset() if status is None else frozenset([status])
