"""What a row says of a drift, and whether it is explained."""

from __future__ import annotations

import pytest

from meter_mw.reconciling import rows
from meter_mw.reconciling.rows import Amount, Row

AMOUNT = Amount("acme", "requests")


def row(recorded: int, found: int | None, in_flight: int = 0, parked: int = 0) -> Row:
    return Row(AMOUNT, 0, 60_000_000, "ledger", recorded, found, in_flight, parked)


@pytest.mark.parametrize(
    ("seen", "drift", "unexplained", "cause"),
    [
        (row(10, 10), 0, 0, rows.AGREES),
        (row(10, 8), -2, -2, rows.MISSING),
        (row(10, 12), 2, 2, rows.SURPLUS),
        (row(10, 8, in_flight=2), -2, 0, rows.IN_FLIGHT),
        (row(10, 8, in_flight=5), -2, 0, rows.IN_FLIGHT),
        (row(10, 8, parked=2), -2, 0, rows.PARKED),
        (row(10, 7, in_flight=1, parked=2), -3, 0, rows.BOTH),
        (row(10, 6, in_flight=1, parked=2), -4, -1, rows.MISSING),
        (row(10, 12, in_flight=2), 2, 2, rows.SURPLUS),
        (row(-3, -3), 0, 0, rows.AGREES),
        (row(10, None), 0, 0, rows.SILENT),
    ],
)
def test_a_drift_and_its_cause(seen: Row, drift: int, unexplained: int, cause: str) -> None:
    assert (seen.drift, seen.unexplained, seen.cause) == (drift, unexplained, cause)
    assert seen.agrees == (seen.found is not None and unexplained == 0)


def test_an_amount_that_only_one_side_has_is_compared() -> None:
    other = Amount("acme", "tokens")
    found = list(
        rows.rows(
            "ledger", (0, 1), {AMOUNT: 3}, {other: 4}, in_flight={}, parked={AMOUNT: 3}, late={AMOUNT: 1}
        )
    )
    assert [(each.amount, each.recorded, each.found, each.late) for each in found] == [
        (AMOUNT, 3, 0, 1),
        (other, 0, 4, 0),
    ]
    assert [each.cause for each in found] == [rows.PARKED, rows.SURPLUS]


def test_a_place_that_does_not_answer_says_so() -> None:
    (found,) = rows.silent("ledger", (0, 1), {AMOUNT: 3}, "refused")
    assert found.cause == "did not answer: refused"
    assert not found.agrees
