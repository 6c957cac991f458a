"""Does a contender count at all? Asked before it is timed, so that nobody is quick by being wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bench.drive import driver
from bench.workload import Limit

if TYPE_CHECKING:
    from bench.contenders import Contender
    from bench.workload import Setting

_MOST = 5
_TRIES = 5
_ROOMY = 1_000_000_000
_PERIODS = (
    ("hour", 1), ("minute", 1), ("day", 1), ("hour", 2), ("hour", 3), ("hour", 6), ("hour", 8), ("hour", 12)
)  # fmt: skip

_PLAIN = str.maketrans(" ,*'", "----")


class WrongError(Exception):
    """A contender that does not do what it is timed for."""


async def probe(contender: Contender, setting: Setting) -> None:
    """Hold each limit of the setting in turn against its own: 5 requests pass, the next one does not.

    Another key passes still, and the answers carry fields where they should. Keys are the probe's own.
    """
    if contender.bare or not contender.fits(setting):
        return
    number = 1 if contender.floor else len(setting.limits)
    for tight in range(1 if contender.rising else number):
        limits = _rising(number) if contender.rising else _one_tight(number, tight)
        for attempt in range(_TRIES):
            key = f"probe-{contender.title}-{setting.title}-{tight}-{attempt}".translate(_PLAIN)
            if await _holds(contender, replace(setting, limits=limits), key):
                break
        else:
            raise WrongError(f"{contender.title} found its store too slow, {_TRIES} times")


def _rising(number: int) -> tuple[Limit, ...]:
    periods = sorted(_PERIODS[:number], key=lambda each: Limit(1, *each).seconds)
    return tuple(Limit(_MOST + extra, *period) for extra, period in enumerate(periods))


def _one_tight(number: int, tight: int) -> tuple[Limit, ...]:
    return tuple(
        Limit(_MOST if place == tight else _ROOMY, *period) for place, period in enumerate(_PERIODS[:number])
    )


async def _holds(contender: Contender, setting: Setting, key: str) -> bool:
    """Say whether it counts, or raise; `False` where a busy machine kept it from asking its store."""
    app = contender.build(setting)
    drive = driver(contender, app)
    try:
        for each in [key] * (_MOST + 1) + [f"{key}-other"]:
            await drive.one(each)
        statuses = [status for status, _ in drive.answered]
        if 503 in statuses:
            return False
        if statuses != [200] * _MOST + [429, 200]:
            told = f"{contender.title} does not count: {setting.limits} gave {statuses}"
            raise WrongError(told)
        if drive.answered[-1][1] != contender.fields:
            told = f"{contender.title}: fields are {'missing' if contender.fields else 'unexpected'}"
            raise WrongError(told)
        return True
    finally:
        leave = contender.hook("leave")(app)
        if leave is not None:
            await leave
        contender.hook("close")(app)
