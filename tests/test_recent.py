"""A memory with a bound: what was used lately stays, and the rest goes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meter_mw.recent import Recent


@given(st.lists(st.integers(0, 30)), st.integers(1, 8))
def test_the_last_that_were_used_are_kept_and_never_twice_as_many(keys: list[int], most: int) -> None:
    """Whatever comes in whatever order."""
    recent: Recent[int, str] = Recent(most)
    for place, key in enumerate(keys):
        if recent.get(key) is None:
            recent.put(key, str(key))
        assert len(recent) <= 2 * most
        lately = list(dict.fromkeys(reversed(keys[: place + 1])))[:most]
        assert [recent.get(each) for each in reversed(lately)] == [str(each) for each in reversed(lately)]


def test_what_is_new_takes_the_place_of_what_was() -> None:
    """The same key has one value."""
    recent: Recent[str, int] = Recent(4)
    recent.put("a", 1)
    recent.put("a", 2)
    assert (recent.get("a"), len(recent)) == (2, 1)
