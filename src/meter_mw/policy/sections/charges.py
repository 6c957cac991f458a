"""The list `charges` of a price: how the units of each meter are priced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meter_mw.policy.prices import (
    NOTHING,
    Graduated,
    Package,
    Percentage,
    PerUnit,
    Pricing,
    Tariff,
    Tier,
    Volume,
)
from meter_mw.policy.reading import Field, Names
from meter_mw.policy.sections.amounts import read_units
from meter_mw.policy.sections.limits import read_meter
from meter_mw.policy.sections.money import read_decimal
from meter_mw.policy.sections.thresholds import read_unit_thresholds

if TYPE_CHECKING:
    from decimal import Decimal

    from meter_mw.model import Meter
    from meter_mw.policy.currencies import Currency
    from meter_mw.policy.sections.meters import Meters

_CHARGE = Names(
    ("meter", "included", "per", "unit", "tiers", "mode", "package", "percent", "percentile", "warn"),
    needed=("meter",),
)
_TIER = Names(("up_to", "unit", "flat"), needed=("unit",))

_KINDS = ("tiers", "package", "percent")
_MODES: dict[str, type[Graduated | Volume]] = {"graduated": Graduated, "volume": Volume}
_ALONE = {
    "unit": ("tiers", "percent"),
    "per": ("package",),
    "percentile": ("percent",),
}
"""Names, and the kinds of charges that cannot have them."""

_WHY = {
    ("unit", "tiers"): "each tier has its own price",
    ("unit", "percent"): "the price is the percentage",
    ("per", "package"): "the price is for the package",
    ("percentile", "percent"): "a percentage is of what was reported in all",
}
_UNIT = "the price of a unit, such as 0.002"


def read_charges(field: Field, meters: Meters, currency: Currency | None) -> tuple[Tariff, ...]:
    """Read a list of charges, each into the tariff of a meter."""
    items = field.items("a list of charges: [{meter: requests, unit: 0.002}]") or ()
    return tuple(tariff for item in items if (tariff := _charge(item, meters, currency)))


def _charge(field: Field, meters: Meters, currency: Currency | None) -> Tariff | None:
    fields = field.section(_CHARGE)
    if fields is None or "meter" not in fields:
        return None
    problems = field.document.problems
    before = len(problems)
    meter = read_meter(fields["meter"], meters)
    kind = _kind(field, fields)
    if meter is None or kind is None:
        return None
    included = _units(fields, "included", meter, "units that cost nothing", ("10 GB", "1000"), least=0)
    per = _units(fields, "per", meter, "units that the price is for", ("1 GB", "1000"))
    percentile = _percentile(fields["percentile"]) if "percentile" in fields else None
    warn = read_unit_thresholds(fields["warn"], included or 0, meter) if "warn" in fields else ()
    pricing = _pricing(fields, kind, meter, currency)
    if isinstance(pricing, Graduated | Volume) and included:
        _complain_of_included(fields["tiers"], pricing.tiers[0], included)
    if pricing is None or len(problems) > before:
        return None
    return Tariff(meter, pricing, included or 0, per or 1, percentile, field.path, warn)


def _kind(field: Field, fields: dict[str, Field]) -> str | None:
    """Give what makes a charge what it is, and note the names that do not go with it."""
    given = [name for name in _KINDS if name in fields]
    if len(given) > 1:
        field.complain(f"found both {' and '.join(given)}; write a charge for each")
        return None
    kind = given[0] if given else "unit"
    if kind in ("unit", "package") and "unit" not in fields:
        if not field.has_others(_CHARGE.known):
            field.lacks("unit", f"unit is missing; expected {_UNIT}, or tiers, or percent")
        return None
    for name, others in _ALONE.items():
        if name in fields and kind in others:
            fields[name].complain_of_name(f"found {name} beside {kind}; {_WHY[name, kind]}")
    if "mode" in fields and kind != "tiers":
        fields["mode"].complain_of_name("found mode without tiers, which are graduated or volume")
    return kind


def _pricing(fields: dict[str, Field], kind: str, meter: Meter, currency: Currency | None) -> Pricing | None:
    if kind == "tiers":
        mode = fields["mode"].choice(_MODES) if "mode" in fields else Graduated
        tiers = _tiers(fields["tiers"], meter, currency)
        return mode(tiers) if mode and tiers else None
    if kind == "percent":
        percent = read_decimal(fields["percent"], "a number of per cent, such as 1.2")
        return None if percent is None else Percentage(percent)
    unit = read_decimal(fields["unit"], _UNIT)
    if kind == "unit":
        return None if unit is None else PerUnit(unit)
    size = _units(fields, "package", meter, "units of a package", ("1 GB", "1000"))
    return None if unit is None or size is None else Package(size, unit)


def _tiers(field: Field, meter: Meter, currency: Currency | None) -> tuple[Tier, ...] | None:
    """Read tiers whose edges grow; the last has none."""
    items = field.items("a list of tiers: [{up_to: 1000, unit: 0.01}, {unit: 0.008}]")
    if not items:
        if items is not None:
            field.reject("a tier at least: [{unit: 0.01}]")
        return None
    read = [_tier(item, meter, currency) for item in items]
    tiers = [each for each in read if each is not None]
    if len(tiers) < len(read):
        return None
    edge = 0
    for item, tier in zip(items, tiers, strict=True):
        is_last = item is items[-1]
        if tier.up_to is None:
            if not is_last:
                item.lacks("up_to", "up_to is missing; only the last tier has no edge")
                return None
        elif is_last:
            item.complain(
                f"found up_to {tier.up_to} in the last tier; expected none, so that all units have a price"
            )
            return None
        elif tier.up_to <= edge:
            item.complain(f"found up_to {tier.up_to} after {edge}; the edges of tiers grow")
            return None
        else:
            edge = tier.up_to
    return tuple(tiers)


def _tier(field: Field, meter: Meter, currency: Currency | None) -> Tier | None:
    fields = field.section(_TIER)
    if fields is None or "unit" not in fields:
        return None
    up_to = _units(fields, "up_to", meter, "the last unit of the tier", ("10 GB", "1000"))
    unit = read_decimal(fields["unit"], _UNIT)
    flat: Decimal | None = NOTHING
    if "flat" in fields and currency is not None:
        expected = "what the tier costs beside its units, such as 10"
        flat = read_decimal(fields["flat"], expected, decimals=currency.decimals, of=currency.code)
    if unit is None or flat is None or ("up_to" in fields and up_to is None):
        return None
    return Tier(up_to, unit, flat)


def _complain_of_included(field: Field, first: Tier, included: int) -> None:
    if first.up_to is not None and first.up_to <= included:
        field.complain(
            f"found a first tier up to {first.up_to}, all of it within the {included} included units;"
            " tiers count from the first unit, included ones among them"
        )


def _units(
    fields: dict[str, Field], name: str, meter: Meter, what: str, example: tuple[str, str], *, least: int = 1
) -> int | None:
    return read_units(fields[name], meter, what, example=example, least=least) if name in fields else None


def _percentile(field: Field) -> Decimal | None:
    expected = "a percentile of five-minute samples above 0 and at most 100, such as 95"
    percentile = read_decimal(field, expected)
    if percentile is not None and not 0 < percentile <= 100:
        field.reject(expected)
        return None
    return percentile
