"""Events that wait in a Redis stream: the supply of `meter-mw forward --from redis_stream`.

A stream `S` has a consumer group for each sink, under the sink's name. Beside it, in the same slot:

* `{S}:hand:<sink>`, a hash: what is in hand, a field for each consignment (`<consumer>/<first entry>`),
  whose value has the entries, and since when each is in doubt;
* `{S}:alive:<consumer>`, a key with a lease: the process behind a consumer lives.

See docs/decisions/0017.
"""

from __future__ import annotations

from meter_mw.streams.stock import StreamStock

__all__ = ["StreamStock"]
