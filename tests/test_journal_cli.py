"""`meter-mw journal`, as it is called."""

from __future__ import annotations

import json
import os
import random
import re
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from journal.conftest import SOURCE, contents, expected, ids
from meter_mw.cli import main
from meter_mw.journal import Journal, Position, read_closings, read_journal
from meter_mw.journal.bookmarks import Bookmark, BookmarkFile
from meter_mw.journal.estates import estate_paths, segment_path
from meter_mw.journal.repairing import ASIDE

if TYPE_CHECKING:
    from pathlib import Path


def event(number: int) -> bytes:
    subject = "acme" if number % 2 else "globex"
    moment = f"2026-11-21T16:{number // 60:02}:{number % 60:02}Z"
    document = {"id": f"event-{number}", "source": SOURCE, "subject": subject, "time": moment}
    return json.dumps({**document, "data": "x" * (number % 300)}).encode()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "var"


@pytest.fixture
def estate(place: Path) -> Path:
    """Give the estate of a process that has ended: 300 events, with closings, in several segments."""
    journal = Journal(place, SOURCE, segment_bytes=1 << 14)
    for number in range(300):
        journal.append(event(number), b"closing-%d" % number)
    journal.close()
    (estate,) = estate_paths(place)
    return estate


def run(command: str, place: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["journal", command, "--dir", str(place), *arguments])


def flip(path: Path, at: int, length: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + length] = bytes(each ^ 0x55 for each in content[at : at + length])
    path.write_bytes(content)


def test_ls(place: Path, estate: Path) -> None:
    """Each estate with who holds it, what is in it, and what each sink does not have."""
    cursor = [found.after for found in contents(place)[0]][199]
    BookmarkFile(estate, "file:usage.jsonl").save(Bookmark(cursor))
    living = Journal(place, SOURCE)
    living.append(event(7))
    lines = run("ls", place, "--json").output.splitlines()
    dead, alive = map(json.loads, lines)
    assert (dead["estate"], dead["held_by"], dead["events"]) == (estate.name, "nobody", 300)
    assert dead["segments"] == len(list(estate.glob("*.seg"))) > 3
    assert (dead["first"], dead["last"]) == ("2026-11-21T16:00:00Z", "2026-11-21T16:04:59Z")
    assert [sink["waiting"] for sink in dead["sinks"].values()] == [100]
    assert (alive["held_by"], alive["pid"], alive["events"]) == ("writer", os.getpid(), 1)
    table = run("ls", place).output
    assert re.search(rf"^{estate.name} +nobody +\d+ +300 .* file_usage.jsonl: 100$", table, re.MULTILINE)
    assert f"its writer, {os.getpid()}" in table
    living.close()


def test_ls_of_an_empty_journal(place: Path) -> None:
    """It says so, where people look."""
    place.mkdir()
    result = run("ls", place)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "the journal is empty" in result.stderr


def test_the_policy_names_the_journal(place: Path, estate: Path, tmp_path: Path) -> None:
    """As for every command."""
    file, secret = tmp_path / "meter.yaml", tmp_path / "secret"
    secret.write_text("a secret of thirty-two characters")
    identity = f"identity: {{secret: '${{file:{secret}}}'}}"
    file.write_text(f"version: 1\nservice: shop\n{identity}\nevents: {{journal: '{place}'}}\n")
    result = CliRunner().invoke(main, ["journal", "ls", "--policy", str(file)])
    assert (result.exit_code, estate.name in result.output) == (0, True)


def test_cat(place: Path, estate: Path) -> None:
    """All events, or those asked for, as they are."""
    lines = run("cat", place).output.encode().splitlines()
    assert lines == [event(number) for number in range(300)]
    of_acme = run("cat", place, "--subject", "acme", "--since", "2026-11-21T16:04:50Z").output
    assert ids(of_acme.encode().splitlines()) == [f"event-{number}" for number in range(291, 300, 2)]
    assert ids(run("cat", place, "--id", "event-7").output.encode().splitlines()) == ["event-7"]
    assert "expected a moment" in run("cat", place, "--since", "yesterday").stderr


def test_cat_of_bytes(place: Path) -> None:
    """What is no line of text is printed in base64, so that a line stays an event."""
    journal = Journal(place, SOURCE)
    journal.append(b"\xff\x00")
    journal.append(b"{\n}")
    journal.close()
    assert [json.loads(line) for line in run("cat", place).output.splitlines()] == [
        {"payload_base64": "/wA="},
        {"payload_base64": "ewp9"},
    ]


def test_verify(place: Path, estate: Path) -> None:
    """Every flaw with its place, and the exit status says whether there is one."""
    result = run("verify", place)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "300 events are intact, no flaws" in result.stderr
    flip(segment_path(estate, 2), 5000)
    segment_path(estate, 4).unlink()
    result = run("verify", place)
    assert result.exit_code == 1
    first, second = result.stdout.splitlines()
    assert re.fullmatch(rf"{segment_path(estate, 2)}: bytes \d+ to \d+: a frame is broken", first)
    assert second == f"{segment_path(estate, 5)}: bytes 0 to 0: segments between two others are missing"


def test_verify_beside_a_writer(place: Path) -> None:
    """What is about to be written is no flaw."""
    journal = Journal(place, SOURCE)
    journal.append(event(1))
    (path,) = estate_paths(place)
    segment = segment_path(path, 1)
    content = segment.read_bytes()
    with segment.open("r+b") as file:
        file.seek(len(content.rstrip(b"\0")))
        file.write(b"\xf5ME")
    assert run("verify", place).exit_code == 0
    journal.close()


def test_repair_keeps_what_is_intact_where_it_is(place: Path, estate: Path) -> None:
    """Wherever the damage: no flaw is left, nothing intact has moved, and the old file is there."""
    before = {found.payload: found.position for found in contents(place)[0]}
    dice = random.Random(6)
    for number in (1, 2, 4):
        path = segment_path(estate, number)
        for _ in range(3):
            flip(path, dice.randrange(path.stat().st_size), dice.choice([1, 1000]))
    torn = segment_path(estate, max(int(path.stem) for path in estate.glob("*.seg")))
    torn.write_bytes(torn.read_bytes()[:-5])
    damaged = {path: path.read_bytes() for path in estate.glob("*.seg")}
    intact = contents(place)[0]
    closings = list(read_closings(estate))
    result = run("repair", place)
    assert result.exit_code == 0
    assert "a frame is broken" in result.stdout
    assert "the end is torn" in result.stdout
    entries, damages = contents(place)
    assert damages == []
    assert entries == intact
    assert {entry.payload: entry.position for entry in entries}.items() <= before.items()
    assert list(read_closings(estate)) == closings
    aside = {path.read_bytes() for path in (place / ASIDE / estate.name).iterdir()}
    assert len(aside) == 4
    assert aside < set(damaged.values())
    assert run("verify", place).exit_code == 0
    assert run("repair", place).stdout == ""


def test_repair_hides_no_removal(place: Path, estate: Path) -> None:
    """An event that was cut out cleanly still shows: that is not damage but evidence."""
    gone = contents(place)[0][4]
    path = segment_path(estate, 1)
    content = path.read_bytes()
    path.write_bytes(content[: gone.start] + content[gone.end :])
    assert run("repair", place).exit_code == 0
    assert "the running hash does not follow" in run("verify", place).stdout


def test_repair_leaves_the_living_alone(place: Path, estate: Path) -> None:
    """An estate that a process holds is passed over, and an error where it was named."""
    journal = Journal(place, SOURCE)
    journal.append(event(1))
    (living,) = set(estate_paths(place)) - {estate}
    assert run("repair", place).exit_code == 0
    result = run("repair", place, living.name)
    assert (result.exit_code, "a process holds it" in result.stderr) == (1, True)
    assert "expected one that meter-mw journal ls shows" in run("repair", place, "p0").stderr
    journal.close()


def test_repair_moves_links_aside(place: Path, estate: Path, tmp_path: Path) -> None:
    """A link in place of a segment is not followed, and not left."""
    segment_path(estate, 2).rename(tmp_path / "elsewhere")
    segment_path(estate, 2).symlink_to(tmp_path / "elsewhere")
    assert "not a regular file" in run("repair", place).stdout
    assert (tmp_path / "elsewhere").exists()
    assert not segment_path(estate, 2).is_symlink()


def test_what_is_repaired_can_be_forwarded(place: Path, estate: Path) -> None:
    """Cursors go by places, and these have not moved."""
    flip(segment_path(estate, 1), 3000, 2000)
    kept = [found for found in read_journal(place) if not hasattr(found, "flaw")]
    run("repair", place)
    cursor = kept[100].position
    rest = [found.payload for found in contents(place)[0] if found.position >= cursor]
    assert rest == [found.payload for found in kept[100:]]
    assert Position(1, 0) < cursor
    assert set(ids(rest)) < set(expected(range(300)))
