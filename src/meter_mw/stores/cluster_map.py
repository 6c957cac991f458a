"""Which node of a cluster has what, and how calls find it: no I/O, rounds are yielded.

Rule 1: the map is what the cluster said last; a call that comes to the wrong node is told the right one, and
goes there. The map is read anew when a node fails, at most once a second, from another node.
Rule 2: a call to a slot that is on its way waits for it as long as its caller does.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError

from meter_mw.stores.port import StoreUnavailable
from meter_mw.stores.redis_link import REDIRECTIONS, Address, read_url
from meter_mw.stores.redis_protocol import Call, with_script

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SCHEMES = {
    "redis+cluster": "redis",
    "rediss+cluster": "rediss",
    "valkey+cluster": "valkey",
    "valkeys+cluster": "valkeys",
}
"""The schemes of a cluster, and of its nodes."""

PAUSE_S = 0.01
"""How long a call waits for a slot that is on its way before it asks again."""

_QUICK_ROUNDS = 5
_RELOADS_APART_S = 1.0
_KEYED_BY_THIRD = ("EVAL", "EVALSHA")

Place: TypeAlias = tuple[str, int]
"""The host and the port of a node."""


@dataclass(frozen=True, slots=True)
class Seeds:
    """The nodes that a cluster's URL names, and how any of its nodes is entered."""

    places: tuple[Place, ...]
    entrance: Address

    def address(self, place: Place) -> Address:
        """Give the address of a node."""
        host, port = place
        options = self.entrance.options | {"host": host, "port": port}
        return replace(self.entrance, place=f"{host}:{port}", options=options)


def is_cluster(url: str) -> bool:
    """Say whether a URL is of a cluster."""
    return url.partition("://")[0] in SCHEMES


def read_cluster_url(url: str, connections: int | None = None) -> Seeds:
    """Read `redis+cluster://user:password@host:port,host:port?options`."""
    scheme, _, rest = url.partition("://")
    ends = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    authority, tail = rest[:ends], rest[ends:]
    user, at, hosts = authority.rpartition("@")
    addresses = [
        read_url(f"{SCHEMES[scheme]}://{user}{at}{host}{tail}", connections) for host in hosts.split(",")
    ]
    entrance = addresses[0]
    if entrance.options.get("db") or urlsplit(tail).path not in ("", "/", "/0"):
        raise ValueError("a cluster has one database, and its URL names none")
    return Seeds(tuple(_place(each) for each in addresses), entrance)


def _place(address: Address) -> Place:
    host, _, port = address.place.rpartition(":")
    return host, int(port)


class SlotMap:
    """Which node has which slot, as far as the cluster has told."""

    def __init__(self, seeds: Seeds, clock: Callable[[], float] = time.monotonic) -> None:
        self._seeds = seeds.places
        self._clock = clock
        self._owners: list[Place | None] = []
        self._doubted: set[Place] = set()
        self._failing: set[Place] = set()
        self._reload_from = 0.0

    @property
    def is_known(self) -> bool:
        """Whether the cluster has told anything yet."""
        return bool(self._owners)

    def node_of(self, call: Call) -> Place:
        """Give the node that a call belongs to; one without a key belongs to any."""
        place = None
        if len(call) > 1:
            key = call[3] if call[0] in _KEYED_BY_THIRD else call[1]
            place = self._owners[key_slot(key if isinstance(key, bytes) else str(key).encode())]
        return place or self.nodes()[0]

    def nodes(self) -> list[Place]:
        """Give all nodes, those that failed last."""
        known = dict.fromkeys(each for each in self._owners if each is not None) | dict.fromkeys(self._seeds)
        return sorted(known, key=self._doubted.__contains__)

    def masters(self) -> list[Place]:
        """Give the nodes that have slots."""
        return sorted({each for each in self._owners if each is not None})

    def parts(self) -> tuple[str, ...]:
        """Give a hash tag for each node that has slots, the same ones while the slots stay."""
        wanted = self.masters()
        found: dict[Place, str] = {}
        for number in range(SLOTS):
            if len(found) == len(wanted):
                break
            place = self._owners[key_slot(f"canary{number}".encode())]
            if place is not None:
                found.setdefault(place, f"canary{number}")
        return tuple(sorted(found.values()))

    def part_of(self, tag: str) -> str:
        """Give the hash tag that stands for the node of a tag, "" where none does."""
        place = self._owners[key_slot(tag.encode())]
        return next((each for each in self.parts() if self._owners[key_slot(each.encode())] == place), "")

    def move(self, slot: int, place: Place) -> None:
        """Learn that a slot has another node now."""
        self._owners[slot] = place

    def doubt(self, place: Place) -> None:
        """Learn that a node failed: another may have its slots by now."""
        self._doubted.add(place)
        self._failing.add(place)

    def trust(self, place: Place) -> None:
        """Learn that a node answered."""
        if self._failing:
            self._failing.discard(place)

    def fails(self, tag: str) -> bool:
        """Say whether the node of a hash tag failed when it was asked last."""
        return bool(self._failing and self._owners) and self._owners[key_slot(tag.encode())] in self._failing

    def wants_reload(self) -> bool:
        """Say whether the map is to be read anew, to one caller a second."""
        if not self._doubted or self._clock() < self._reload_from:
            return False
        self._reload_from = self._clock() + _RELOADS_APART_S
        return True

    def learn(self, reply: object, asked: Place) -> bool:
        """Take in what a node says of all slots (CLUSTER SLOTS); say whether it was of any use."""
        owners: list[Place | None] = [None] * SLOTS
        match reply:
            case [_, *_]:
                for row in reply:
                    match row:
                        case [int(first), int(last), [host, int(port), *_], *_] if 0 <= first <= last < SLOTS:
                            name = host.decode() if isinstance(host, bytes) else ""
                            place = (asked[0] if name in ("", "?") else name, port)
                            owners[first : last + 1] = [place] * (last + 1 - first)
                        case _:
                            return False
            case _:
                return False
        self._owners = owners
        self._doubted.clear()
        return True


@dataclass(frozen=True, slots=True)
class Round:
    """Calls to be made at the same time, by node, within a `share` of the time that is left.

    With `pause`, after a moment.
    """

    calls: dict[Place, tuple[Call, ...]]
    pause: bool = False
    share: float = 1.0


Routing: TypeAlias = Generator[
    Round, "dict[Place, list[object] | StoreUnavailable]", "list[object | StoreUnavailable]"
]
"""Yields rounds; is sent what each node replied, or why it did not."""


def routed(calls: Sequence[Call], slots: SlotMap) -> Routing:
    """Have each call answered by the node that it belongs to; give StoreUnavailable in place of a reply."""
    if not slots.is_known or slots.wants_reload():
        failure = yield from _reloaded(slots)
        if not slots.is_known:
            return [failure or StoreUnavailable("the cluster says nothing of its slots")] * len(calls)
    replies: list[object | StoreUnavailable] = [None] * len(calls)
    waiting = {index: (slots.node_of(call), False) for index, call in enumerate(calls)}
    rounds, pause = 0, False
    while waiting:
        trip, answers = waiting, (yield Round(_by_node(calls, waiting), pause or rounds >= _QUICK_ROUNDS))
        waiting, pause, rounds = {}, False, rounds + 1
        left = {place: iter(said) for place, said in answers.items() if isinstance(said, list)}
        for place in left:
            slots.trust(place)
        for index, (place, asking) in trip.items():
            failed = answers[place]
            if isinstance(failed, StoreUnavailable):
                slots.doubt(place)
                replies[index] = failed
                continue
            if asking:
                next(left[place])
            reply = replies[index] = next(left[place])
            if isinstance(reply, REDIRECTIONS):
                waiting[index] = _redirected(reply, calls[index], place, slots)
                pause = pause or not isinstance(reply, AskError)
    return replies


def _reloaded(
    slots: SlotMap,
) -> Generator[Round, dict[Place, list[object] | StoreUnavailable], StoreUnavailable | None]:
    """Read the map from the first node that gives it; give the failure of the last where none did."""
    failure = None
    for place in slots.nodes():
        answers = yield Round({place: (("CLUSTER", "SLOTS"),)}, share=0.5)
        said = answers[place]
        if isinstance(said, StoreUnavailable):
            failure = said
            slots.doubt(place)
        elif slots.learn(said[0], place):
            return None
    return failure


def _by_node(calls: Sequence[Call], waiting: dict[int, tuple[Place, bool]]) -> dict[Place, tuple[Call, ...]]:
    sent: dict[Place, list[Call]] = {}
    for index, (place, asking) in waiting.items():
        call = calls[index]
        if asking:
            # The permission is for the next call alone, and so that has to bring its script along.
            call = with_script(call) if call[0] == "EVALSHA" else call
            sent.setdefault(place, []).append(("ASKING",))
        sent.setdefault(place, []).append(call)
    return {place: tuple(several) for place, several in sent.items()}


def _redirected(reply: object, call: Call, place: Place, slots: SlotMap) -> tuple[Place, bool]:
    """Give where a call goes next, and whether it has to ask for permission there."""
    if not isinstance(reply, AskError):
        return slots.node_of(call), False
    target = (reply.host or place[0], reply.port)
    if isinstance(reply, MovedError):
        slots.move(reply.slot_id, target)
        return target, False
    return target, True
