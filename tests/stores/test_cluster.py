"""The store on a real cluster: every law, and what only several nodes can do wrong."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from meter_mw.periods import Period
from meter_mw.quota import Cap, Slots
from meter_mw.stores.cluster_astore import AsyncClusterStore
from meter_mw.stores.cluster_map import read_cluster_url
from meter_mw.stores.cluster_store import ClusterStore
from meter_mw.stores.port import Outcome, Verdict
from meter_mw.testing.stores import StoreConformance
from meter_mw.testing.stores.bench import HUNDRED_A_DAY, TEN_A_SECOND
from support.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from meter_mw.stores.port import Admit, Charge, Closed, Closing, Tally, TopUp


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Keep one cluster for all tests here."""
    with Cluster() as running:
        yield running


class RunAsync:
    """An async store behind blocking calls."""

    def __init__(self, url: str, clock: Callable[[], int]) -> None:
        self._runner = asyncio.Runner()
        self._store = AsyncClusterStore(read_cluster_url(url), clock=clock)
        self.now_us = self._store.now_us

    def admit(self, command: Admit | TopUp, *, patience_us: int) -> Tally:
        return self._runner.run(self._store.admit(command, patience_us=patience_us))

    def peek(self, tag: str, charges: tuple[Charge, ...]) -> Tally:
        return self._runner.run(self._store.peek(tag, charges))

    def settle(self, closings: Sequence[Closing]) -> Sequence[Closed]:
        return self._runner.run(self._store.settle(closings))

    def close(self) -> None:
        self._runner.run(self._store.aclose())
        self._runner.close()


class _OnCluster(StoreConformance):
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Cluster) -> None:
        self.seeds = read_cluster_url(cluster.url)
        self.url = cluster.url

    def test_holders_are_charged_together(self) -> None:
        """As on one node, but that slots that were taken and given back remember until when."""
        at = self.bench()

        def five(room: int = 100) -> tuple[Charge, ...]:
            return (
                at.charge("subject", HUNDRED_A_DAY),
                at.charge("key", TEN_A_SECOND, holder=f"{at.tag}:k1"),
                at.charge("account", HUNDRED_A_DAY, 1, 3, held=True, holder=f"{at.tag[:20]}_account"),
                at.charge("route", Slots(4), holder=f"{at.tag}:route-2"),
                at.charge("everyone", Cap(room, Period.DAY), holder=f"{at.tag[:20]}_everyone"),
            )

        before = [each.state for each in at.peek(*five())]
        denied = at.admit(*five(0))
        assert (denied.verdict, [each.fits for each in denied.readings]) == (
            Verdict.DENIED,
            [True, True, True, True, False],
        )
        assert [each.state for each in denied.readings] == before
        assert [each.state for each in at.peek(*five())] == before
        command = at.command(*five())
        tally = at.send(command)
        assert tally.verdict is Verdict.ADMITTED
        assert at.send(command) == tally
        assert [at.remaining(each) for each in five()] == [99, 4, 97, 3, 99]
        assert at.settle(command, tally, 1, 1, 2, 1, 1) is Outcome.APPLIED
        assert [at.remaining(each) for each in five()] == [99, 4, 98, 4, 99]


class TestClusterStore(_OnCluster):
    def make_store(self, clock: Callable[[], int]) -> ClusterStore:
        return ClusterStore(self.seeds, clock=clock)


class TestAsyncClusterStore(_OnCluster):
    def make_store(self, clock: Callable[[], int]) -> RunAsync:
        return RunAsync(self.url, clock)
