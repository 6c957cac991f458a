"""The stdout sink."""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING

import pytest

from meter_mw.sinks import Delivered, Retry, StdoutSink
from meter_mw.testing.sinks import SinkConformance, event

if TYPE_CHECKING:
    from collections.abc import Iterator


class PipeRig:
    """Standard output as a pipe that something reads."""

    secrets = ()

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        self._away = -1
        self._chunks: list[bytes] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.sink = StdoutSink(fd=os.dup(self._writing))

    def _read(self) -> None:
        while chunk := os.read(self._reading, 1 << 16):
            self._chunks.append(chunk)

    def received(self) -> list[dict[str, object]]:
        self.close()
        return [json.loads(line) for line in b"".join(self._chunks).splitlines()]

    def fail(self) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        self._away = os.dup(self.sink._fd)
        os.dup2(writing, self.sink._fd)
        os.close(writing)

    def recover(self) -> None:
        os.dup2(self._away, self.sink._fd)
        os.close(self._away)
        self._away = -1

    def close(self) -> None:
        if self._writing >= 0:
            for fd in (self._writing, self.sink._fd, self._away):
                if fd >= 0:
                    os.close(fd)
            self._writing = -1
            self._reader.join()
            os.close(self._reading)


class TestStdoutSink(SinkConformance):
    @pytest.fixture
    def rig(self) -> Iterator[PipeRig]:
        rig = PipeRig()
        yield rig
        rig.close()


def test_a_line_cut_short_is_ended(tmp_path: object) -> None:
    """When the pipe takes half a line, the rest of the batch is retried behind a line end."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    sink = StdoutSink(fd=writing)
    long = event(1, "x" * 200_000)
    first = sink.send([event(0), long])
    assert first[0] == Delivered()
    assert isinstance(first[1], Retry)
    os.set_blocking(reading, False)
    held = os.read(reading, 1 << 20)
    assert list(sink.send([event(2)])) == [Delivered()]
    lines = (held + os.read(reading, 1 << 20)).splitlines()
    assert lines[0] == event(0)
    assert long.startswith(lines[1])
    assert lines[2] == event(2)
    os.close(reading)
    os.close(writing)
