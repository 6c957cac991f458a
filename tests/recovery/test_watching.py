"""A loss of the store's data is found by the canary, and on record before the canary is written again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meter_mw.journal import Position
from meter_mw.recovery.marks import Marks
from meter_mw.recovery.register import Register
from meter_mw.recovery.watching import Canaries, Watcher
from meter_mw.stores.canary import Written
from meter_mw.stores.port import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from meter_mw.stores.redis_protocol import Call

SECOND_US = 1_000_000
AT = Position(1, 10)


class Store:
    """One part that answers as it is told, and takes down what was expected of it."""

    def __init__(self) -> None:
        self.answers: list[object] = []
        self.expected: list[tuple[object, object]] = []

    def parts(self) -> Sequence[str]:
        return ("p",)

    def part_of(self, tag: str) -> str:
        return "p"

    def ask(self, calls: Sequence[Call], *, patience_us: int) -> list[object]:
        (call,) = calls
        self.expected.append((call[6], call[10]))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return [[*answer, call[-1]]]


class Estate:
    """An estate that is settled up to a place, and goes back as it is told."""

    def __init__(self, register: Register) -> None:
        self.canaries = Canaries(register.path.parent, register)
        self.at = Marks(AT, AT, 1)

    def marks(self) -> Marks:
        return self.at

    def go_back(self, marks: Marks) -> None:
        self.at = marks


def fine(at_us: int, run: str = "r", until_us: int = 0) -> list[bytes]:
    return [b"", b"%d|1|10|1|10|1" % at_us, b"%d" % at_us, b"%d" % until_us, run.encode()]


def doubted(status: bytes, said: bytes, now_us: int, run: str = "r") -> list[bytes]:
    return [status, said, b"%d" % now_us, b"0", run.encode()]


@pytest.fixture
def estate(tmp_path: Path) -> Iterator[Estate]:
    register = Register.create(tmp_path)
    yield Estate(register)
    register.disown()


def test_what_was_written_is_expected(estate: Estate) -> None:
    """The first canary is written whatever is there; from then on it has to be found, in the same run."""
    store = Store()
    watcher = Watcher(store, lambda: 0, learns=True)
    store.answers = [fine(5), fine(6)]
    watcher.look([estate])
    watcher.look([estate])
    assert store.expected == [("", ""), ("5", "r")]
    assert estate.at == Marks(AT, AT, 1)
    assert estate.canaries.register.beats() == {"p": Written(6, "r")}


@pytest.mark.parametrize(("age_us", "is_sent_again"), [(0, True), (59_000_000, True), (61_000_000, False)])
def test_what_was_sent_before_the_first_canary_is_sent_again(
    tmp_path: Path, age_us: int, *, is_sent_again: bool
) -> None:
    """A newborn's: a store that went back meanwhile has no canary that would tell."""
    folder = tmp_path / f"p{1_000_000_000:014x}-1-0123abcd"
    folder.mkdir()
    born = Estate(Register.create(folder))
    store = Store()
    store.answers = [fine(1_000_000_000 + age_us), fine(1_000_000_000 + age_us + 1)]
    watcher = Watcher(store, lambda: 0, learns=True)
    watcher.look([born])
    assert born.at == (Marks(Position(0, 0), AT, 1) if is_sent_again else Marks(AT, AT, 1))
    born.at = Marks(AT, AT, 1)
    watcher.look([born])
    assert born.at == Marks(AT, AT, 1)
    born.canaries.register.disown()


def test_a_loss_goes_back_to_what_the_canary_says(estate: Estate) -> None:
    """Not by the time at which a closing was made, but by how far they were settled then."""
    store = Store()
    watcher = Watcher(store, lambda: 0, learns=True)
    last, found = 100 * SECOND_US, 98 * SECOND_US
    estate.canaries.last = {"p": Written(last, "r")}
    store.answers = [doubted(b"lost", b"%d|1|4|1|7|3" % found, last + 1), fine(last + 2, until_us=last + 5)]
    watcher.look([estate])
    assert estate.at == Marks(Position(1, 4), Position(1, 4), None, last, 3)
    assert store.expected[1] == (str(found), "r")
    assert watcher.learning


def test_nothing_found_is_the_beginning(estate: Estate) -> None:
    """All that there is goes out again, however old: nothing of it can be there."""
    store = Store()
    watcher = Watcher(store, lambda: 0, learns=False)
    estate.canaries.last = {"p": Written(100, "r")}
    store.answers = [doubted(b"lost", b"", 101), fine(102)]
    watcher.look([estate])
    assert estate.at == Marks(Position(0, 0), Position(0, 0), None, 0, 0)
    assert not watcher.learning


def test_a_new_run_is_told_again_what_came_after_the_canary(estate: Estate) -> None:
    """It may have all of it, so what is sent again is sent with care; caps go on."""
    store = Store()
    watcher = Watcher(store, lambda: 0, learns=True)
    estate.canaries.last = {"p": Written(100, "r")}
    store.answers = [doubted(b"restarted", b"100|1|4|1|7|90", 150, "s"), fine(151, "s")]
    watcher.look([estate])
    assert estate.at == Marks(Position(1, 4), AT, 90)
    assert not watcher.learning
    assert estate.canaries.last == {"p": Written(151, "s")}


@pytest.mark.parametrize("status", [b"lost", b"restarted"])
def test_a_second_loss_is_found_before_the_first_is_over(status: bytes, estate: Estate) -> None:
    """Where the canary could not be written after a loss, what was found is what has to be found again."""
    store = Store()
    watcher = Watcher(store, lambda: 0, learns=True)
    estate.canaries.last = {"p": Written(100, "r")}
    store.answers = [doubted(status, b"90|1|4|1|7|3", 101, "s"), StoreUnavailable("killed again")]
    with pytest.raises(StoreUnavailable):
        watcher.look([estate])
    store.answers = [doubted(b"lost", b"80|1|2|1|2|3", 120, "t"), fine(121, "t")]
    watcher.look([estate])
    assert store.expected[2] == ("90", "s")
    assert estate.at.settled == Position(1, 2)
