"""The registry as a worker asks it: blocking or awaited, within the policy's deadline, and not each time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from meter_mw.model import MeterError
from meter_mw.registry.calls import find_call, found
from meter_mw.registry.recall import STALE_S, Known, Recall
from meter_mw.registry.records import entry, read_key, read_terms
from meter_mw.stores.outage import Outage
from meter_mw.stores.port import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.policy.policy import Policy
    from meter_mw.registry.calls import Asker, AsyncAsker


class Ended(MeterError):
    """The key is known, and no longer good."""


class Lookup:
    """Says whose a key is. A key ends on time; what else is done to it acts when its answer is asked anew.

    Raises StoreUnavailable where Redis is away and nothing is remembered, Ended for a key that was revoked
    or has expired, GarbledRecord for a record that cannot be used.
    """

    def __init__(self, policy: Policy, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.recall = Recall()
        self._policy = policy
        self._clock = clock
        self._outage = Outage("keys of the registry are served for a minute by what was last said of them")

    def ask(self, key: str, store: Asker, others: tuple[str, ...] = ()) -> Known | None:
        """Ask and wait; `others` are what else the key may be known by."""
        kept = self.recall.find(key, self._clock())
        if kept is None:
            names = (key, *others)
            calls = [find_call(self._policy.service, name) for name in names]
            try:
                replies = store.ask(calls, patience_us=self._policy.deadline_us)
            except StoreUnavailable as failure:
                kept = self._remembered(key, failure)
            else:
                kept = self._learned(names, replies)
        return _judged(kept[0], store.now_us())

    async def aask(self, key: str, store: AsyncAsker, others: tuple[str, ...] = ()) -> Known | None:
        """Ask without holding up the event loop; see `ask`."""
        kept = self.recall.find(key, self._clock())
        if kept is None:
            names = (key, *others)
            calls = [find_call(self._policy.service, name) for name in names]
            try:
                replies = await store.ask(calls, patience_us=self._policy.deadline_us)
            except StoreUnavailable as failure:
                kept = self._remembered(key, failure)
            else:
                kept = self._learned(names, replies)
        return _judged(kept[0], store.now_us())

    def _learned(self, names: Sequence[str], replies: Sequence[object]) -> tuple[Known | None]:
        """Read what is known under the first of several names that anything is known by."""
        self._outage.is_over()
        known = None
        for name, records in zip(names, map(found, replies), strict=True):
            if records is not None:
                of_key = read_key(name, records[0])
                terms = read_terms(of_key.subject, records[1])
                known = Known(of_key, entry(of_key.subject, terms, self._policy))
                break
        self.recall.keep(names[0], known, self._clock())
        return (known,)

    def _remembered(self, key: str, failure: StoreUnavailable) -> tuple[Known | None]:
        self._outage.goes_on(failure)
        kept = self.recall.find(key, self._clock(), STALE_S)
        if kept is None:
            raise failure
        return kept


def _judged(known: Known | None, now_us: int) -> Known | None:
    if known is None:
        return None
    how = known.key.ended(now_us)
    if how is not None:
        raise Ended(f"the key {'was revoked' if how == 'revoked' else 'has expired'}")
    return known
