"""Where `meter-mw forward --from redis_stream` takes events from: the stream that the policy itself names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meter_mw.cli.policies import refuse
from meter_mw.streams import StreamStock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meter_mw.policy.delivery import EventRules, SinkRule

STREAM = "redis_stream"


def origin_of(events: EventRules) -> SinkRule:
    """Give the sink that is to be the origin; refuse a policy without one, or with none beside it."""
    streams = [rule for rule in events.sinks if rule.kind.word == STREAM]
    if len(streams) != 1:
        refuse(f"events.sinks: found {len(streams)} of {STREAM}; expected one, which events come from")
    if len(events.sinks) == 1:
        refuse(f"events.sinks: found none beside {STREAM}; expected one at least, which events go to")
    return streams[0]


def stream_of(origin: SinkRule, events: EventRules, sinks: Sequence[str]) -> StreamStock:
    """Give the stream as a stock for sinks, by their names; see to the folder for what is parked."""
    try:
        events.journal.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        refuse(f"events.journal: {events.journal}: {error.strerror}; parked events are kept there")
    settings = origin.settings
    url, stream = settings.text(STREAM), settings.text("stream")
    return StreamStock(url, stream, sinks, timeout=settings.seconds("timeout"))
