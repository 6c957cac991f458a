"""The word `exempt`, of routes and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meter_mw.policy.terms import Exemption

if TYPE_CHECKING:
    from meter_mw.policy.reading import Field

_EXPECTED = "true, counted or false"
_WORDS = {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false"}
_WORDS |= {"counted": "counted", "count": "counted"}


def read_exempt(field: Field) -> Exemption:
    """Read whether a route or a key is under limits."""
    before = len(field.document.problems)
    value = field.scalar()
    if isinstance(value, bool):
        return Exemption.FREE if value else Exemption.NONE
    if value == Exemption.COUNTED.value:
        return Exemption.COUNTED
    if len(field.document.problems) == before:
        is_quoted = value in ("true", "false")
        because = "which is a text; write the word without quotes" if is_quoted else ""
        meant = field.suggestion(value, _WORDS) if isinstance(value, str) and not is_quoted else None
        field.reject(_EXPECTED, because=because, meant=_WORDS.get(meant or ""))
    return Exemption.NONE
