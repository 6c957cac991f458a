"""How the items that a destination refuses are found among those that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from meter_mw.sinks import Delivered, Duplicate, Permanent, Retry, Unknown
from meter_mw.sinks.answers import Answer
from meter_mw.sinks.sifting import sift

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meter_mw.sinks.base import Outcome

OK = Answer(200, None, b"")
REFUSED = Answer(422, None, b"")


def halving(answer: Answer, items: Sequence[int]) -> Mapping[int, Outcome]:
    """Say nothing of several that are refused."""
    if answer is OK:
        return dict.fromkeys(range(len(items)), Delivered())
    return {} if len(items) > 1 else {0: Permanent("bad")}


@given(st.integers(0, 130), st.sets(st.integers(0, 129)))
def test_each_of_the_bad_is_found_and_each_of_the_good_sent_once(count: int, bad: set[int]) -> None:
    """Whatever is refused, the rest arrives once and in order."""
    taken: list[int] = []

    def attempt(items: Sequence[int]) -> Answer:
        if bad.intersection(items):
            return REFUSED
        taken.extend(items)
        return OK

    outcomes = sift(range(count), attempt, halving)
    assert outcomes == [Permanent("bad") if item in bad else Delivered() for item in range(count)]
    assert taken == [item for item in range(count) if item not in bad]


@given(st.sets(st.integers(0, 99)))
def test_what_an_answer_leaves_out_is_sent_again_at_once(known: set[int]) -> None:
    """A hundred duplicates named in one answer cost one more request, not a hundred."""
    sent: list[list[int]] = []

    def attempt(items: Sequence[int]) -> Answer:
        sent.append(list(items))
        return REFUSED if known.intersection(items) else OK

    def read(answer: Answer, items: Sequence[int]) -> Mapping[int, Outcome]:
        if answer is OK:
            return dict.fromkeys(range(len(items)), Delivered())
        return {place: Duplicate() for place, item in enumerate(items) if item in known}

    outcomes = sift(range(100), attempt, read)
    assert outcomes == [Duplicate() if item in known else Delivered() for item in range(100)]
    assert len(sent) <= 2


def test_nothing_more_is_sent_after_a_failure() -> None:
    """What was not sent waits as long as what failed was told to."""
    answers = iter([REFUSED, OK, Unknown("gone", 7.0)])
    outcomes = sift(range(8), lambda items: next(answers), halving)
    assert outcomes[:4] == [Delivered()] * 4
    assert outcomes[4:] == [Unknown("gone", 7.0)] * 4
    answers = iter([REFUSED, Retry(3.0, "busy")])
    outcomes = sift(range(4), lambda items: next(answers), halving)
    assert outcomes == [Retry(3.0, "busy")] * 2 + [Retry(3.0, "not sent: the attempt before it failed")] * 2


def test_an_answer_that_never_says_anything_is_no_endless_loop() -> None:
    """Each event is then unknown, after its turn alone."""
    outcomes = sift(range(2), lambda items: REFUSED, lambda answer, items: {})
    assert [type(outcome) for outcome in outcomes] == [Unknown, Retry]
