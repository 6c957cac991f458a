"""The thread that works shortly after a nudge."""

from __future__ import annotations

import threading

from meter_mw.journal.pulse import Pulse


def test_close_is_never_overlooked() -> None:
    """Whatever the thread is about when it is told to end, it ends."""
    for turn in range(300):
        pulse = Pulse(lambda: None, turn % 10 / 10_000)
        pulse.nudge()
        assert pulse.close(10)


def test_a_failure_does_not_end_it() -> None:
    """After a beat that raised comes the next."""
    beats = threading.Semaphore(0)

    def beat() -> None:
        beats.release()
        raise RuntimeError("once")

    pulse = Pulse(beat, 0.0)
    for _ in range(3):
        pulse.nudge()
        assert beats.acquire(timeout=10)
    assert pulse.close(10)


def test_nudges_of_one_interval_share_a_beat() -> None:
    """A thousand nudges before the interval is over are one beat."""
    counted: list[int] = []
    beaten = threading.Event()

    def beat() -> None:
        counted.append(1)
        beaten.set()

    pulse = Pulse(beat, 0.2)
    for _ in range(1000):
        pulse.nudge()
    assert beaten.wait(10)
    assert pulse.close(10)
    assert len(counted) <= 2
