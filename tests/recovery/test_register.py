"""What a process has on its way outlives it, whole or not at all; who lives keeps its register."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from meter_mw.journal import Position
from meter_mw.model import RequestId
from meter_mw.recovery import register as module
from meter_mw.recovery.marks import Marks
from meter_mw.recovery.register import SLOT, SLOTS, Register
from meter_mw.stores.canary import Written

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KILLED = """
import os, signal, sys
from pathlib import Path
from meter_mw.recovery.marks import Marks
from meter_mw.recovery.register import Register
register = Register.create(Path(sys.argv[1]))
for number in range(3):
    register.open(str(number), b"packed-%d" % number)
register.serve("1", b"facts")
register.passed("1", 7, 8)
register.close("0")
os.kill(os.getpid(), signal.SIGKILL)
"""


def rid(number: int) -> RequestId:
    return RequestId(str(number))


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Register]:
    register = Register.create(tmp_path)
    yield register
    register.disown()


def taken(path: Path) -> Register:
    register = Register.take(path)
    assert register is not None
    return register


def test_what_a_killed_process_leaves(tmp_path: Path) -> None:
    """Entries and what they say are there after kill -9; what was crossed out is not."""
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    register = taken(tmp_path)
    found = {entry.packed: entry for entry in register.entries()}
    assert set(found) == {b"packed-1", b"packed-2"}
    served = found[b"packed-1"]
    assert (served.facts, served.request_bytes, served.response_bytes) == (b"facts", 7, 8)
    assert found[b"packed-2"].facts == b""
    for entry in found.values():
        register.cross_out(entry)
    assert list(register.entries()) == []
    register.disown()


def test_the_living_keep_theirs(register: Register, tmp_path: Path) -> None:
    """A register that is locked is nobody's to take."""
    assert Register.take(tmp_path) is None
    register.disown()
    taken(tmp_path).disown()


def test_a_child_does_not_hold_it(register: Register, tmp_path: Path) -> None:
    """A forked child lets go of its copy, and the parent's lock stays."""
    pid = os.fork()
    if not pid:
        register.disown()
        os._exit(0 if Register.take(tmp_path) is None else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_power_cut_damages_one_entry(register: Register, tmp_path: Path) -> None:
    """An entry whose bytes are not those that were written is passed over; others are read."""
    for number in range(3):
        register.open(rid(number), b"packed-%d" % number)
    register.disown()
    path = tmp_path / module.NAME
    data = bytearray(path.read_bytes())
    at = data.index(b"packed-1")
    data[at] ^= 1
    path.write_bytes(data)
    register = taken(tmp_path)
    assert {entry.packed for entry in register.entries()} == {b"packed-0", b"packed-2"}
    register.disown()


def test_it_grows_and_then_is_full(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than it has room for makes it grow, to a bound; what is not entered is left alone."""
    monkeypatch.setattr(module, "MOST_PARTS", 2)
    for number in range(2 * SLOTS + 1):
        register.open(rid(number), b"x")
    assert len(list(register.entries())) == 2 * SLOTS
    assert rid(2 * SLOTS) not in register
    register.close(rid(2 * SLOTS))
    register.close(rid(5))
    register.open(rid(9999), b"y")
    assert b"y" in {entry.packed for entry in register.entries()}


def test_two_who_find_no_room_at_once_get_places_of_their_own(
    register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes its time to make room; whoever comes meanwhile waits for that."""
    for number in range(SLOTS):
        register.open(rid(number), b"x")
    met = threading.Barrier(2)
    allocate = os.posix_fallocate

    def slow(fd: int, offset: int, length: int) -> None:
        with suppress(threading.BrokenBarrierError):
            met.wait(0.2)
        allocate(fd, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", slow)
    threads = [
        threading.Thread(target=register.open, args=(rid(SLOTS + number), b"%d" % number))
        for number in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(SLOTS + 2, 2 * SLOTS):
        register.open(rid(number), b"x")
    assert len(list(register.entries())) == 2 * SLOTS
    assert {b"0", b"1"} <= {entry.packed for entry in register.entries()}


def test_what_is_too_large_is_not_entered(register: Register) -> None:
    """An entry has a size; facts that do not fit beside it leave it to be given back."""
    register.open(rid(1), b"x" * SLOT)
    assert list(register.entries()) == []
    register.open(rid(2), b"x" * 500)
    register.serve(rid(2), b"y" * 500)
    (entry,) = register.entries()
    assert entry.facts == b""


def test_entering_twice_is_once(register: Register) -> None:
    """A command that is asked again has one entry."""
    register.open(rid(1), b"first")
    register.open(rid(1), b"second")
    assert [entry.packed for entry in register.entries()] == [b"second"]
    register.close(rid(1))
    assert list(register.entries()) == []


def test_marks_and_beats_are_read_back(register: Register, tmp_path: Path) -> None:
    """The last that was written counts; one copy that is torn leaves the one before it."""
    assert register.marks() == Marks()
    for number in range(1, 5):
        register.mark(Marks(Position(1, number), Position(2, number), number, None, number))
        register.beat({"p": Written(number, "run")})
    register.disown()
    register = taken(tmp_path)
    assert register.marks() == Marks(Position(1, 4), Position(2, 4), 4, None, 4)
    assert register.beats() == {"p": Written(4, "run")}
    register.mark(Marks(Position(1, 5)))
    register.disown()
    path = tmp_path / module.NAME
    data = bytearray(path.read_bytes())
    for at in (0, 256):
        if int.from_bytes(data[at + 14 : at + 22], "little") == 5:
            data[at + 8] ^= 1
    path.write_bytes(data)
    register = taken(tmp_path)
    assert register.marks().settled in (Position(1, 4), Position(1, 5))
    register.disown()
