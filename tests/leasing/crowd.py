"""Four workers, forked, with 64 clients each, that use up one cap; some of them are killed, at random.

Arguments: the policy, a file for what became of each request, how many kills, a seed. For each request it is
appended when it was decided by the store's time, whether it was admitted, and whether from a lease.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import struct
import sys
import time
import traceback
from pathlib import Path

from meter_mw.admission import Answer
from meter_mw.meter import Meter
from meter_mw.model import Request

WORKERS, CLIENTS = 4, 64
DECISION = struct.Struct("<Q??")


def fields(name: str) -> tuple[str, ...]:
    return ("k",) if name == "x-api-key" else ()


REQUEST = Request("GET", "/hello", "", fields, "192.0.2.1")


async def client(meter: Meter, log: int, chance: random.Random) -> None:
    """Send one request after the other until one is refused."""
    while True:
        admission = await meter.aadmit(REQUEST)
        if admission.answer is not Answer.ALLOWED:
            assert admission.answer is Answer.DENIED, admission
            os.write(log, DECISION.pack(admission.now_us, False, False))
            return
        os.write(log, DECISION.pack(admission.now_us, True, admission.lent is not None))
        exchange = meter.exchange(admission, "GET")
        exchange.begin(200, None)
        await asyncio.sleep(chance.random() * 0.01)
        await meter.aconclude(exchange)


async def work(meter: Meter, log: int, seed: int) -> None:
    """Be a worker until each of its clients was refused."""
    await asyncio.gather(*(client(meter, log, random.Random(seed * 1_000 + n)) for n in range(CLIENTS)))
    await meter.aflush()


def worker(policy: str, log: int, seed: int) -> int:
    """Fork a worker, and give its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        meter = Meter(policy)
        meter.start()
        asyncio.run(work(meter, log, seed))
        meter.close()
        code = 0
    except Exception:  # noqa: BLE001 - a child must not go on as its parent
        traceback.print_exc()
    finally:
        os._exit(code)


def main(policy: str, path: str, kills: int, seed: int) -> None:
    """Run the workers until all have ended by themselves."""
    chance = random.Random(seed)
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    workers = [worker(policy, log, seed + number) for number in range(WORKERS)]
    for number in range(kills):
        enough = Path(path).stat().st_size + (300 + chance.random() * 800) * DECISION.size
        end = time.monotonic() + 20
        while Path(path).stat().st_size < enough:
            assert time.monotonic() < end, "the workers do nothing"
            time.sleep(0.002)
        victim = chance.randrange(WORKERS)
        os.kill(workers[victim], signal.SIGKILL)
        os.waitpid(workers[victim], 0)
        workers[victim] = worker(policy, log, seed + WORKERS + number)
    codes = [os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) for each in workers]
    assert codes == [0] * WORKERS, codes


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
