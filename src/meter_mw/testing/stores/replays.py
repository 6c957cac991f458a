"""What is kept of a closing brings back what a store has lost, to the unit, however often it is sent."""
# ruff: noqa: S101  -- these are tests, for whoever writes a store

from __future__ import annotations

from typing import TYPE_CHECKING

from meter_mw.rids import new_rid
from meter_mw.stores.kept import due, pack, unpack
from meter_mw.stores.port import REMEMBERED_US, Cancel, Outcome, Settle
from meter_mw.testing.stores.bench import (
    FIVE_A_MINUTE,
    HUNDRED_A_DAY,
    SECOND_US,
    Bench,
    Laws,
    settlement,
)

if TYPE_CHECKING:
    from meter_mw.stores.port import Admit


class ReplayLaws(Laws):
    """Closings that come from a journal, to a store that has lost what it was told, or has not."""

    def test_kept_closing_settles_as_the_first_would(self) -> None:
        """What is read back from a journal settles all charges, and a repeat changes nothing."""
        at = self.bench()
        command, truth = _served(at)
        kept = unpack(pack(truth, at.clock(), at.clock())).closing
        assert at.close(kept) is Outcome.APPLIED
        assert at.close(kept) is Outcome.ALREADY
        assert at.close(truth) is Outcome.ALREADY
        assert [at.used(each) for each in command.charges] == [1, 70]

    def test_lost_admission_is_booked_in_full(self) -> None:
        """A store that knows nothing of a request books all of it (Rule 5), once."""
        at = self.bench()
        command, truth = _served(at)
        at.cancel(command)
        lost = truth._replace(rid=new_rid(at.clock()))
        kept = unpack(pack(lost, at.clock(), at.clock())).closing
        assert at.close(kept) is Outcome.RECOVERED
        assert at.close(kept) is Outcome.ALREADY
        assert [at.used(each) for each in command.charges] == [1, 70]

    def test_kept_cancellation_wins_over_a_zombie(self) -> None:
        """Who was killed before the answer came is given back, whether the command came first or not."""
        at = self.bench()
        for comes_first in (True, False):
            command = at.command(at.charge("c", FIVE_A_MINUTE, 2))
            if comes_first:
                at.send(command)
            cancellation = Cancel(command.rid, command.tag, command.charges)
            at.close(unpack(pack(cancellation, at.clock(), at.clock())).closing)
            at.send(command)
            assert at.used(command.charges[0]) == 0

    def test_forgotten_admission_is_not_booked_twice(self) -> None:
        """What was charged for good stays charged once when its rid is forgotten; what was held is booked."""
        at = self.bench()
        command, truth = _served(at)
        kept = unpack(pack(truth, at.clock(), at.clock()))
        at.clock.move(2 * REMEMBERED_US)
        closing = due(kept, at.clock(), tried_us=None)
        assert closing is not None
        at.close(closing)
        assert [at.used(each) for each in command.charges] == [1, 70]

    def test_forgotten_closing_is_not_sent_again(self) -> None:
        """What the store may have, and can no longer tell, is not sent."""
        at = self.bench()
        _, truth = _served(at)
        kept = unpack(pack(truth, at.clock(), at.clock()))
        tried_us = at.clock()
        at.clock.move(REMEMBERED_US - SECOND_US)
        assert due(kept, at.clock(), tried_us=tried_us) is not None
        at.clock.move(SECOND_US)
        assert due(kept, at.clock(), tried_us=tried_us) is None


def _served(at: Bench) -> tuple[Admit, Settle]:
    """Have a request admitted that is charged one unit for good and holds 50, of which it uses 70."""
    command = at.command(at.charge("c", HUNDRED_A_DAY), at.charge("d", HUNDRED_A_DAY, 50, held=True))
    return command, settlement(command, at.send(command), 1, 70)
