"""A network delay before a Redis: a proxy in a process of its own that hands on what it gets a little later.

Half of the delay is added on each way, to every piece by itself: pieces that come together also arrive
together, as they would over a longer line.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import subprocess
import sys
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.redis_server import free_port, stop, wait_for
from bench.workload import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE = 65_536


async def _late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Hand on each piece when its time has come."""
    loop = asyncio.get_running_loop()
    due: deque[bytes] = deque()

    def hand_on() -> None:
        writer.write(due.popleft())

    while piece := await reader.read(_PIECE):
        due.append(piece)
        loop.call_later(delay_s, hand_on)
    loop.call_later(delay_s, writer.close)


async def _serve(port: int, behind: int, delay_s: float) -> None:
    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            to_server = await asyncio.open_connection(HOST, behind)
            await asyncio.gather(
                _late(reader, to_server[1], delay_s / 2), _late(to_server[0], writer, delay_s / 2)
            )

    async with await asyncio.start_server(meet, HOST, port) as server:
        await server.serve_forever()


@contextmanager
def delayed(behind: int, delay_s: float) -> Iterator[int]:
    """Run the proxy before what listens on the port `behind`; give the port of its own."""
    port = free_port()
    command = [sys.executable, "-m", __name__, str(port), str(behind), str(delay_s)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1])
    try:
        wait_for(port, process)
        yield port
    finally:
        stop(process)


def main() -> None:
    port, behind, delay_s = sys.argv[1:]
    # epoll rounds a wait up to whole milliseconds; select takes it as it is
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    loop.run_until_complete(_serve(int(port), int(behind), float(delay_s)))


if __name__ == "__main__":
    main()
