"""One command charges several holders, all or nothing, and their names never collide."""
# ruff: noqa: S101  -- these are tests, for whoever writes a store

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from meter_mw.periods import Period
from meter_mw.quota import Cap, Slots
from meter_mw.stores.port import Booking, Outcome, Settle, Verdict
from meter_mw.testing.stores.bench import (
    FIVE_A_MINUTE,
    HUNDRED_A_DAY,
    LEASE_US,
    TEN_A_SECOND,
    Bench,
    Laws,
    settlement,
)

if TYPE_CHECKING:
    from meter_mw.stores.port import Charge


def _five(at: Bench, room: int = 100) -> tuple[Charge, ...]:
    """Ask of a subject, its key, its account, its route, and everyone; the last has only so much room."""
    return (
        at.charge("subject", HUNDRED_A_DAY),
        at.charge("key", TEN_A_SECOND, holder=f"{at.tag}:k1"),
        at.charge("account", HUNDRED_A_DAY, 1, 3, held=True, holder=f"{at.tag[:20]}_account"),
        at.charge("route", Slots(4), holder=f"{at.tag}:route-2"),
        at.charge("everyone", Cap(room, Period.DAY), holder=f"{at.tag[:20]}_everyone"),
    )


class HolderLaws(Laws):
    """Shared pools."""

    def test_holders_are_charged_together(self) -> None:
        """Subject, key, account, route and everyone: all of them, or none."""
        at = self.bench()
        before = [each.state for each in at.peek(*_five(at))]
        assert not at.admits(*_five(at, 0))
        assert [each.state for each in at.peek(*_five(at))] == before
        command = at.command(*_five(at))
        tally = at.send(command)
        assert tally.verdict is Verdict.ADMITTED
        assert at.send(command) == tally
        assert [at.remaining(each) for each in _five(at)] == [99, 4, 97, 3, 99]
        assert at.settle(command, tally, 1, 1, 2, 1, 1) is Outcome.APPLIED
        assert [at.remaining(each) for each in _five(at)] == [99, 4, 98, 4, 99]

    def test_holders_are_given_back_together(self) -> None:
        """A cancelled command leaves every holder as it was."""
        at = self.bench()
        command = at.command(*_five(at))
        at.send(command)
        assert at.cancel(command) is Outcome.APPLIED
        assert [at.remaining(each) for each in _five(at)] == [100, 5, 100, 4, 100]

    def test_the_holder_of_a_tag_is_the_subject(self) -> None:
        """No name and the subject's own tag are the same holder."""
        at = self.bench()
        named = at.charge("c", FIVE_A_MINUTE, 3, holder=at.tag)
        assert at.admits(named)
        assert at.used(at.charge("c", FIVE_A_MINUTE)) == 3
        assert at.admits(at.charge("c", FIVE_A_MINUTE, 1), replace(named, id="c:d"))
        assert at.used(named) == 4

    def test_names_never_collide(self) -> None:
        """A tag with a suffix is no other tag, nor the same tag with another suffix, nor the tag itself."""
        at = self.bench()
        tag = at.tag[:20]
        names = [
            tag,
            f"{tag}k1",
            f"{tag}_k1",
            f"{tag}-k1",
            f"k1{tag}",
            f"{tag}:k1",
            f"{tag}:k2",
            f"{tag}:k1k1",
        ]
        names += [f"{tag}:hh", f"{tag}:h-h", f"{tag}_:k1", f"{tag}k1:k1", f"{tag}:rids", f"{tag}:h29453760"]
        for used, name in enumerate(names, 1):
            charge = at.charge("c", HUNDRED_A_DAY, used, holder=name)
            assert at.used(charge) == 0
            assert at.admits(charge, at.charge("s", Slots(1), holder=name), at.charge("d", HUNDRED_A_DAY))
        for used, name in enumerate(names, 1):
            assert at.used(at.charge("c", HUNDRED_A_DAY, holder=name)) == used
            assert at.used(at.charge("s", Slots(1), holder=name)) == 1

    def test_a_pool_is_shared_by_two_subjects(self) -> None:
        """What one uses the other has not; each gives back and settles its own."""
        at = self.bench()
        pool, other = at.charge("c", FIVE_A_MINUTE, holder=f"{at.tag[:20]}_pool"), at.tag[:-1] + "_"
        mine, theirs = at.command(replace(pool, need=3, take=3)), at.command(pool, tag=other)
        tallies = at.send(mine), at.send(theirs)
        assert at.used(pool) == 4
        full = replace(pool, need=2, take=2)
        assert not at.admits(full)
        assert at.send(at.command(full, tag=other)).verdict is Verdict.DENIED
        assert at.settle(mine, tallies[0], 1) is Outcome.APPLIED
        assert at.used(pool) == 2
        assert at.close(settlement(theirs, tallies[1], 4)) is Outcome.APPLIED
        assert at.used(pool) == 5
        assert not at.admits(pool)

    def test_a_hold_of_a_pool_comes_back(self) -> None:
        """By itself, when its lease is over, whoever asks next; and a slot of a pool with it."""
        at = self.bench()
        pool = f"{at.tag[:20]}_pool"
        held = at.charge("c", FIVE_A_MINUTE, 5, held=True, holder=pool), at.charge("s", Slots(1), holder=pool)
        assert at.admits(*held)
        for each in held:
            denied = at.send(at.command(each, tag=at.tag[:-1] + "_"))
            assert denied.verdict is Verdict.DENIED
        at.clock.move(LEASE_US)
        again = (at.charge("c", FIVE_A_MINUTE, 5, held=True, holder=pool), held[1])
        assert at.send(at.command(*again, tag=at.tag[:-1] + "_")).verdict is Verdict.ADMITTED

    def test_a_pool_is_topped_up(self) -> None:
        """A top-up may hold of several holders, all or nothing."""
        at = self.bench()
        pool = f"{at.tag[:20]}_pool"

        def held(units: int) -> tuple[Charge, Charge]:
            return (
                at.charge("c", HUNDRED_A_DAY, units, held=True),
                at.charge("d", FIVE_A_MINUTE, units, held=True, holder=pool),
            )

        command = at.command(*held(2))
        tally = at.send(command)
        assert at.top_up(command, *held(6)).verdict is Verdict.DENIED
        assert [at.used(each) for each in held(1)] == [2, 2]
        assert at.top_up(command, *held(5)).verdict is Verdict.ADMITTED
        assert [at.used(each) for each in held(1)] == [5, 5]
        assert at.settle(command, tally, 3, 3) is Outcome.APPLIED
        assert [at.used(each) for each in held(1)] == [3, 3]

    def test_a_lost_charge_of_a_pool_is_booked_there(self) -> None:
        """A settlement says itself whose state it is about (Rule 5)."""
        at = self.bench()
        pool = at.charge("c", HUNDRED_A_DAY, 1, holder=f"{at.tag[:20]}_pool")
        opening = at.windows(Period.DAY)[1]
        lost = Settle(at.command().rid, at.tag, (Booking(pool, 7, opening),))
        assert at.close(lost) is Outcome.RECOVERED
        assert (at.used(pool), at.used(at.charge("c", HUNDRED_A_DAY))) == (7, 0)
