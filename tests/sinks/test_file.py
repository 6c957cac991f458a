"""The file sink."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meter_mw.sinks import Delivered, FileSink, Retry
from meter_mw.sinks.file import line, lines
from meter_mw.testing.sinks import SinkConformance, event


class FileRig:
    secrets = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sink = FileSink(path)

    def received(self) -> list[dict[str, object]]:
        return (
            [json.loads(line) for line in self.path.read_bytes().splitlines()] if self.path.exists() else []
        )

    def fail(self) -> None:
        if self.path.exists():
            self.path.rename(self.path.with_suffix(".away"))
        self.path.mkdir()

    def recover(self) -> None:
        self.path.rmdir()
        self.path.with_suffix(".away").rename(self.path)


class TestFileSink(SinkConformance):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> FileRig:
        return FileRig(tmp_path / "usage.jsonl")


@given(st.lists(st.text('{}":,\r\n', min_size=1).map(str.encode), min_size=1))
def test_a_batch_is_its_lines(batch: list[bytes]) -> None:
    """Each on a line of its own, whatever line ends are within."""
    assert lines(batch) == b"".join(map(line, batch))


def test_a_torn_line_spoils_only_itself(tmp_path: Path) -> None:
    """What a crashed writer left is ended before the next line."""
    path = tmp_path / "usage.jsonl"
    path.write_bytes(event(1) + b"\n" + event(2)[:20])
    assert list(FileSink(path).send([event(3)])) == [Delivered()]
    assert path.read_bytes().splitlines() == [event(1), event(2)[:20], event(3)]


def test_processes_share_a_file(tmp_path: Path) -> None:
    """Four processes that write at once leave every line whole."""
    path = tmp_path / "usage.jsonl"
    code = (
        "import sys; from pathlib import Path; from meter_mw.sinks import FileSink;"
        "from meter_mw.testing.sinks import event;"
        "sink = FileSink(Path(sys.argv[1])); n = int(sys.argv[2]);"
        "[sink.send([event(n + 10 * i + j, 'x' * 3000) for j in range(10)]) for i in range(20)]"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, path, str(1000 * n)]) for n in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    ids = [json.loads(line)["id"] for line in path.read_bytes().splitlines()]
    assert sorted(ids) == sorted(f"event-{1000 * n + i}" for n in range(4) for i in range(200))


def test_rotation_needs_no_signal(tmp_path: Path) -> None:
    """After the file was moved away, the next batch begins a new one."""
    path = tmp_path / "usage.jsonl"
    sink = FileSink(path)
    sink.send([event(1)])
    path.rename(tmp_path / "usage.jsonl.1")
    sink.send([event(2)])
    assert path.read_bytes() == event(2) + b"\n"


def test_only_the_owner_reads(tmp_path: Path) -> None:
    """The file is created with mode 0600."""
    FileSink(tmp_path / "usage.jsonl").send([event(1)])
    assert (tmp_path / "usage.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_full_disk_leaves_no_half_batch(tmp_path: Path) -> None:
    """A write that was cut short is taken back, and the batch is delivered once there is space."""
    path = tmp_path / "usage.jsonl"
    sink = FileSink(path)
    sink.send([event(1)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 50, hard))
        failed = sink.send([event(2), event(3)])
        clean = path.read_bytes() == event(1) + b"\n"
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        os._exit(0 if clean and all(isinstance(outcome, Retry) for outcome in failed) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(sink.send([event(2), event(3)])) == [Delivered()] * 2
    assert path.read_bytes().splitlines() == [event(1), event(2), event(3)]


def test_writes_to_a_device(tmp_path: Path) -> None:
    """A path that is no regular file is written to as it is."""
    assert list(FileSink(Path("/dev/null")).send([event(1)])) == [Delivered()]
    assert isinstance(FileSink(Path("/dev/full")).send([event(1)])[0], Retry)
