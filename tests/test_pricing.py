"""The operator's own pricing: its answers checked, and its faults survived."""

from __future__ import annotations

import pytest

from meter_mw.model import LARGEST_COST
from meter_mw.pricing import price
from meter_mw.talk import Price
from support.policies import policy, request, route


def priced(answer: object, **costs: int) -> tuple[tuple[str, int], ...] | None:
    """Ask a pricing that answers, or raises, as it is told."""

    def pricing(asked: object) -> object:
        if isinstance(answer, type) and issubclass(answer, BaseException):
            raise answer("canary")
        return answer

    where = route("/x", pricing=pricing, costs=costs)
    return price(policy(routes=[where]), Price(where, request("/x")))


def test_a_number_is_what_requests_cost() -> None:
    """A whole number, 0 included."""
    assert priced(7) == (("requests", 7),)
    assert priced(0) == (("requests", 0),)
    assert priced(LARGEST_COST) == (("requests", LARGEST_COST),)


def test_a_mapping_says_it_of_each_meter() -> None:
    """What it leaves out costs what the route says; a reported meter is estimated."""
    assert priced({"tokens": 500}, requests=3) == (("requests", 3), ("tokens", 500))
    assert priced({"requests": 1}, requests=3) == (("requests", 1),)
    assert priced({}) == ()


async def later() -> int:
    """Answer as an asynchronous pricing would."""
    return 7


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (-1, "found -1; expected a whole number"),
        (1.5, "found 1.5"),
        ("7", "found '7'"),
        (True, "found True"),
        (None, "found None"),
        (LARGEST_COST + 1, "expected a whole number from 0 to 2^52"),
        ({"tokns": 7}, "found the meter 'tokns'; expected requests, tokens"),
        ({"egress": 7}, "found the meter 'egress'; expected requests, tokens"),
        ({"tokens": 0.5}, "found 0.5"),
        (KeyError, "it raised KeyError"),
        (StopIteration, "it raised StopIteration"),
    ],
)
def test_an_answer_of_no_use_is_said_and_survived(
    answer: object, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The request costs what the policy says; the log says why, and nothing that the error says."""
    assert priced(answer, requests=3) is None
    (record,) = caplog.records
    assert record.message.startswith("the cost of a request to /x is the policy's: ")
    assert reason in record.message
    assert "canary" not in caplog.text


def test_an_asynchronous_pricing_is_of_no_use(caplog: pytest.LogCaptureFixture) -> None:
    """It has to answer at once; no coroutine is left behind, which would be a warning."""
    assert priced(later()) is None
    assert "the pricing is asynchronous" in caplog.text


def test_a_long_answer_is_cut_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The operator's text is not repeated at length."""
    assert priced({"x" * 1_000: 7}) is None
    assert len(caplog.records[0].message) < 250


def test_a_route_without_a_pricing_has_no_price() -> None:
    """Nobody is asked."""
    assert price(policy(), Price(route("/x"), request("/x"))) is None
