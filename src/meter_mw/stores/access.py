"""The ways of one process to its store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meter_mw.stores.port import AsyncStore, Store
    from meter_mw.stores.settler import DirectSettler, Settler


@dataclass(frozen=True, slots=True)
class Stores:
    """The ways of one process to its store: `awaited` is none where the store never makes anyone wait."""

    blocking: Store
    awaited: AsyncStore | None
    settler: Settler | DirectSettler
