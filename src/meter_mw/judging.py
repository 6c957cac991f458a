"""What a store's answer means: whether a request is served, and how its caller stands with each limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meter_mw.admission import Admission, Answer, Reached, Standing
from meter_mw.quota import Cap, Rate, Slots
from meter_mw.stores.port import Verdict

if TYPE_CHECKING:
    from meter_mw.policy.terms import Line
    from meter_mw.stores.port import Charge, Reading, Tally

_SLOT_WAIT_US = 1_000_000
"""When to come back for a slot: nobody knows how long those in flight take."""


def judged(asked: Admission, charges: tuple[Charge, ...], tally: Tally) -> Admission:
    """Give the answer to what was asked, as the store says how its charges stand."""
    standings, windows, granted = [], [], []
    unfit, overage = [], []
    found: list[Reached] = []
    for line, charge, reading in zip(asked.lines, charges, tally.readings, strict=True):
        how = standing(line, charge, reading, tally.now_us)
        standings.append(how)
        windows.append(how.start_us)
        granted.append(reading.granted if how.used is not None else charge.take)
        if how.wait_us != 0:
            unfit.append(how)
        if reading.overage and not line.limit.shadow:
            overage.append((line.limit.name, reading.overage))
        if reading.warned[1]:
            found += reached(line, reading.warned, reading)
    return Admission(
        Answer.DENIED if tally.verdict is Verdict.DENIED else Answer.ALLOWED,
        asked.rid,
        tally.now_us,
        asked.route,
        asked.caller,
        asked.lines,
        charges,
        tuple(windows),
        tuple(granted),
        tuple(standings),
        denied_by=tuple(each for each in unfit if not each.line.limit.shadow),
        would_deny=tuple(each for each in unfit if each.line.limit.shadow),
        overage=tuple(overage),
        reached=tuple(found),
        first=asked.first,
        part=asked.part,
        sized=asked.sized,
        asked_us=tally.now_us if tally.verdict is Verdict.ADMITTED else 0,
    )


def reached(line: Line, warned: tuple[int, int], reading: Reading) -> tuple[Reached, ...]:
    """Give the thresholds that a count has reached just now."""
    quota = line.limit.quota
    if warned[0] >= warned[1] or not isinstance(quota, Cap) or line.limit.shadow:
        return ()
    found = (each for each in quota.warn if warned[0] < each <= warned[1])
    return tuple(Reached(line, each, reading.state.whole) for each in found)


def standing(line: Line, charge: Charge, reading: Reading, now_us: int) -> Standing:
    """Say in units and waits what a reading means to the caller."""
    quota = charge.quota
    if isinstance(quota, Rate):
        wait_us = 0 if reading.fits else quota.wait_us(reading.state, now_us, charge.need)
        return Standing(
            line, quota.remaining(reading.state, now_us), quota.reset_us(reading.state, now_us), wait_us
        )
    used = reading.state.part
    if isinstance(quota, Slots):
        wait = 0 if reading.fits else _SLOT_WAIT_US if charge.need <= quota.units else None
        return Standing(line, quota.remaining(used), None, wait, used)
    reset_us = max(0, reading.until_us - now_us)
    wait = 0 if reading.fits else reset_us if charge.need <= quota.most else None
    return Standing(line, quota.remaining(used), reset_us, wait, used, reading.state.whole)
