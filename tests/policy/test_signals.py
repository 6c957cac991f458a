"""The section `signals`: what it says holds, what it does not say is as it was, and mistakes are told."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from meter_mw.policy.loader import load
from meter_mw.policy.problems import PolicyError
from meter_mw.policy.sections.signals import settings_of
from meter_mw.policy.signals import Kind, SignalRules

SECRET = {"METER_KEY_SECRET": "a-secret-of-some-length"}


def rules(signals: object) -> SignalRules:
    return load({"version": 1, "service": "shop", "signals": signals}, SECRET).signals


def test_what_is_said_holds() -> None:
    """And the rest is as it is without a section."""
    assert load({"version": 1, "service": "shop"}, SECRET).signals == rules({}) == SignalRules()
    assert rules({"weeks": 6, "least": 10, "deviations": 5, "drop": {"share": "40%", "days": 5}}) == replace(
        SignalRules(), weeks=6, least=10, deviations=5.0, drop_share=0.4, drop_days=5
    )
    assert rules({"new_route": "off", "holidays": ["2026-12-25"]}) == replace(
        SignalRules(), off=frozenset([Kind.NEW_ROUTE]), holidays=frozenset([date(2026, 12, 25)])
    )


def test_every_threshold_can_be_set() -> None:
    """Each field of the rules has a name in the policy."""
    named = {f"{kind.value}_{name}" for kind in Kind for name in settings_of(kind.value)}
    alone = {"weeks", "deviations", "least", "off", "holidays"}
    assert {*SignalRules.__dataclass_fields__} == named | alone


@pytest.mark.parametrize(
    ("signals", "said"),
    [
        ({"weeks": 2}, "signals.weeks: found 2; expected a number of weeks from 3 to 52"),
        ({"drop": 5}, "signals.drop: found 5; expected off, or a mapping of share, days"),
        (
            {"drop": {"share": "101%"}},
            'found "101%", which is more than all; expected a share from 1% to 100%',
        ),
        ({"drop": {"share": "half"}}, 'found "half", which does not read as a percentage'),
        ({"spike": {"tims": 3}}, 'unknown name "tims"; did you mean "times"?'),
        ({"errors": {"times": 1}}, "found 1; expected a number from 1.1 to 1000, such as 3"),
        ({"first_use": {}}, "found a mapping; expected off; first_use has no settings"),
        ({"least": True}, "found true; expected a number of calls from 1 on, such as 50"),
        ({"holidays": ["christmas"]}, 'found "christmas"; expected a day such as 2026-12-25'),
        ({"holidays": ["2026-12-25"] * 401}, "found 401 holidays; expected 400 at most"),
        ({"silense": "off"}, 'unknown name "silense"; did you mean "silence"?'),
        ([], "found a list; expected a mapping"),
    ],
)
def test_a_mistake_is_told(signals: object, said: str) -> None:
    """With what was found, and what was expected."""
    with pytest.raises(PolicyError) as failed:
        rules(signals)
    assert said in str(failed.value)


@pytest.mark.parametrize("change", [{"weeks": 2}, {"drop_share": 0.0}, {"least": 0}, {"spike_times": 1.0}])
def test_rules_that_mean_nothing_cannot_be(change: dict[str, float]) -> None:
    """Whoever makes them without a policy."""
    with pytest.raises(ValueError, match="expected"):
        replace(SignalRules(), **change)
