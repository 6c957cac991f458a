"""What a cap says beside its units: grace, overage with its ceiling, and the counts that are announced."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from meter_mw.model import LARGEST_COST
from meter_mw.policy.sections.amounts import is_sized, read_part
from meter_mw.policy.units import in_words
from meter_mw.policy.yaml12 import Scalar
from meter_mw.quota import Cap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meter_mw.model import Meter
    from meter_mw.policy.reading import Field
    from meter_mw.policy.units import PerPeriod

CAP_ALONE = ("warn", "overage", "ceiling", "grace", "on_exhausted")
"""Names of a limit that only a cap has."""


def read_cap(fields: Mapping[str, Field], written: PerPeriod, meter: Meter) -> Cap | None:
    """Read the cap of a limit whose units are read already."""
    bills = "overage" in fields and fields["overage"].choice({"bill": True}) is True
    grace = _grace(fields["grace"], written.units, meter) if "grace" in fields else 0
    if grace is None:
        return None
    ceiling = None
    if "ceiling" in fields:
        if "overage" not in fields:
            fields["ceiling"].complain_of_name("a ceiling is for overage; write overage: bill beside it")
            return None
        ceiling = _ceiling(fields["ceiling"], written.units, written.units + grace, meter)
    if ("ceiling" in fields and ceiling is None) or bills is not ("overage" in fields):
        return None
    cap = Cap(written.units, written.period, grace, bills, ceiling)
    warn = _warn(fields["warn"], cap, meter) if "warn" in fields else ()
    return Cap(written.units, written.period, grace, bills, ceiling, warn)


def _grace(field: Field, units: int, meter: Meter) -> int | None:
    expected = "units that are served beyond the cap as if they belonged to it"
    part = read_part(field, meter, units, expected, example="5%")
    if part is None or part <= LARGEST_COST - units:
        return None if part is None else int(part)
    field.reject("a cap and its grace of at most 2^52 units together")
    return None


def _ceiling(field: Field, units: int, included: int, meter: Meter) -> int | None:
    expected = "the largest count that is served"
    part = read_part(field, meter, units, expected, example="150%")
    if part is None:
        return None
    if part > LARGEST_COST:
        field.reject(f"{expected}, at most 2^52 units")
    elif int(part) < included:
        field.reject(f"at least the cap and its grace, {_in_words(included, meter)}", because="which is less")
    else:
        return int(part)
    return None


def _warn(field: Field, cap: Cap, meter: Meter) -> tuple[int, ...]:
    """Read the thresholds, each rounded up to a count that can be reached."""
    expected = "a list of thresholds: [80%, 100%]"
    if isinstance(field.node, Scalar) and field.node.value is not None:
        field.reject(expected, meant=f"[{field.node.text[:20]}]")
        return ()
    found = set()
    for item in field.items(expected) or ():
        part = read_part(item, meter, cap.units, "a share of the cap, or units of it", example="80%")
        if part is None:
            continue
        count = max(1, ceil(part))
        if count > cap.most:
            most = _in_words(cap.most, meter)
            item.reject(f"at most {most}", because="which is more than the cap ever serves")
        else:
            found.add(count)
    return tuple(sorted(found))


def _in_words(units: int, meter: Meter) -> str:
    return in_words(units, "bytes") if is_sized(meter) else str(units)
