"""An event loop in a thread of its own, for sinks whose client waits where the courier blocks."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from concurrent.futures import Future

_FAREWELL = 1.0


class PrivateLoop:
    """Runs from the start until `stop`. A child that inherits one leaves it alone."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="meter-mw-nats-loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    def result(self, work: Coroutine[Any, Any, Any], timeout: float) -> Any:
        """Have work done, and give its result or raise what it raised.

        Raises `TimeoutError` when it takes longer, and cancels it; `ConnectionError` when it was given up.
        """
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise
        except CancelledError:
            raise ConnectionError("given up") from None

    def stop(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_FAREWELL)
