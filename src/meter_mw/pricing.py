"""The operator's own pricing of a route, asked: its answers checked, its faults said and survived."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from meter_mw.model import LARGEST_COST, Count

if TYPE_CHECKING:
    from meter_mw.policy.policy import Policy
    from meter_mw.talk import Costs, Price

_log = logging.getLogger(__name__)

_PRICED = {Count.REQUESTS: "requests", Count.REPORTED: "reported"}


def price(policy: Policy, command: Price) -> Costs | None:
    """Ask what a request costs; `None`, and a line in the log, where the answer is of no use.

    The request then costs what the policy says: what is served is billed in any case.
    """
    pricing = command.route.pricing
    if pricing is None:
        return None
    try:
        return _costs(policy, command, pricing(command.request))
    except Exception as failure:  # noqa: BLE001 - the operator's code may raise anything
        reason = (
            str(failure) if isinstance(failure, _UnusableAnswer) else f"it raised {type(failure).__name__}"
        )
        _log.error("the cost of a request to %s is the policy's: %s", command.route.name, reason)
        return None


class _UnusableAnswer(ValueError):
    """Says what was found, and what was expected."""


def _costs(policy: Policy, command: Price, answer: object) -> Costs:
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        raise _UnusableAnswer("the pricing is asynchronous, and has to answer at once")
    found = answer if isinstance(answer, Mapping) else {"requests": answer}
    meters = {meter.name: meter.count for meter in policy.meters if meter.count in _PRICED}
    costs = dict(command.route.costs)
    for name, units in found.items():
        if name not in meters:
            raise _UnusableAnswer(f"found the meter {name!r:.80}; expected {', '.join(meters)}")
        if type(units) is not int or not 0 <= units <= LARGEST_COST:
            raise _UnusableAnswer(f"found {units!r:.80}; expected a whole number from 0 to 2^52")
        costs[name] = units
    return tuple(costs.items())
