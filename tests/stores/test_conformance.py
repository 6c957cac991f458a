"""Every store keeps the laws."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meter_mw.stores.memory import MemoryStore
from meter_mw.testing.stores import StoreConformance

if TYPE_CHECKING:
    from collections.abc import Callable


class TestMemoryStore(StoreConformance):
    def make_store(self, clock: Callable[[], int]) -> MemoryStore:
        return MemoryStore(clock)
