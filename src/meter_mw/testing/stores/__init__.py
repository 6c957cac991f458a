"""The laws of a store, as tests: whoever writes one inherits them.

    class TestMyStore(StoreConformance):
        def make_store(self, clock):
            return MyStore(clock=clock)

pytest then runs every law against it. A store under test decides by the clock that it is handed.
"""

from meter_mw.testing.stores.bench import Bench, Clock, ConformingStore, settlement
from meter_mw.testing.stores.decisions import DecisionLaws
from meter_mw.testing.stores.denials import DenialLaws
from meter_mw.testing.stores.holders import HolderLaws
from meter_mw.testing.stores.holds import HoldLaws
from meter_mw.testing.stores.marks import MarkLaws
from meter_mw.testing.stores.moments import MomentLaws
from meter_mw.testing.stores.repeats import RepeatLaws
from meter_mw.testing.stores.replays import ReplayLaws
from meter_mw.testing.stores.slots import SlotLaws
from meter_mw.testing.stores.topups import TopUpLaws

__all__ = ["Bench", "Clock", "ConformingStore", "StoreConformance", "settlement"]


class StoreConformance(
    DecisionLaws,
    RepeatLaws,
    MomentLaws,
    HoldLaws,
    TopUpLaws,
    SlotLaws,
    HolderLaws,
    DenialLaws,
    MarkLaws,
    ReplayLaws,
):
    """Every law of a store. Say in `make_store` how to open one that decides by `clock`."""
