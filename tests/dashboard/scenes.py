"""A shop with some customers and weeks of usage, for pages to show: always the same."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from meter_mw.sinks.sql import SqlSink
from support.ledgers import HOUR_US, SOURCE, usage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW_US = int(datetime(2026, 11, 21, 15, 30, tzinfo=UTC).timestamp()) * 1_000_000
"""A Saturday afternoon."""

TOKEN = "a-token-of-some-length"
NASTY = "<script>alert('x')</script>&\"/../?#é"
"""A subject that is not a word but an attempt."""

POLICY = """
version: 1
service: orders-api
store: {store}
identity: {{secret: '${{METER_KEY_SECRET}}'}}
routes:
  - {{path: /health, exempt: true, name: health}}
  - {{path: "/v1/items/{{id}}", name: items.read}}
  - {{path: /v1/search, name: search}}
  - {{path: /v1/export, name: export}}
  - {{path: /v1/never, name: never-used}}
keys:
  - {{key: '${{ACME_KEY}}', subject: acme, plan: pro, account: acme-group}}
  - {{key: '${{LATE_KEY}}', subject: late, plan: pro, anchor: 2026-12-24}}
  - {{key: '${{STAFF_KEY}}', subject: staff, exempt: counted}}
plans:
  default:
    limits: [{{rate: 10/second, burst: 20}}, {{cap: 800/month}}]
  pro:
    limits:
      - {{rate: 100/second, burst: 200}}
      - {{cap: 1200/month, overage: bill}}
      - {{name: egress, meter: egress, cap: 40 GB/month}}
      - {{cap: 5000/month, scope: account, name: account}}
      - {{cap: 9000/month, scope: key, name: for-a-key}}
    price:
      base: 49.00
      currency: USD
      charges:
        - {{meter: requests, included: 500, tiers: [{{up_to: 1000, unit: 0.02}}, {{unit: 0.01}}]}}
        - {{meter: egress, per: 1 GB, unit: 0.09}}
meters:
  requests: {{count: requests}}
  egress: {{count: response-bytes}}
events:
  journal: var
  sinks: [sql]
"""

ENVIRON = {
    "METER_KEY_SECRET": "a-secret-of-some-length",
    "ACME_KEY": "sk_acme_0123456789",
    "LATE_KEY": "sk_late_0123456789",
    "STAFF_KEY": "sk_staff_0123456789",
}

_CUSTOMERS = {
    "acme": (34, "pro"),
    "globex": (21, "default"),
    "initech": (12, "default"),
    "umbrella": (9, "default"),
    "hooli": (7, "default"),
    "stark": (4, "default"),
    NASTY: (2, "default"),
}
"""Calls on a working day, and the plan."""
_ROUTES = (("items.read", "GET", 6), ("search", "POST", 3), ("export", "GET", 1))
_DAYS = 58


def written(folder: Path, store: str = "memory://") -> Path:
    """Write the policy, and give its path."""
    path = folder / "meter.yaml"
    path.write_text(POLICY.format(store=store))
    return path


def fill(folder: Path) -> str:
    """Write the ledger at its usual place, and give its address."""
    (folder / "var").mkdir(exist_ok=True)
    address = f"sqlite:///{folder / 'var' / 'ledger.db'}"
    sink = SqlSink(address, SOURCE.replace("shop", "orders-api"))
    sink.send(list(_events()))
    sink.close()
    return address


def _events() -> Iterator[bytes]:
    dice = random.Random(6)
    today_us = NOW_US - NOW_US % (24 * HOUR_US)
    number = 0
    for back in reversed(range(_DAYS)):
        day_us = today_us - back * 24 * HOUR_US
        weekday = datetime.fromtimestamp(day_us // 1_000_000, UTC).weekday()
        for subject, (usual, plan) in _CUSTOMERS.items():
            if subject == "umbrella" and back < 9:
                continue  # it went silent
            calls = round(usual * (0.4 if weekday > 4 else 1.0) * dice.uniform(0.85, 1.15))
            times = 8 if subject == "globex" and back in (2, 3) else 1
            for _ in range(calls * times):
                at_us = day_us + dice.randrange(24 * HOUR_US)
                if at_us < NOW_US:
                    number += 1
                    yield _event(number, subject, plan, at_us, dice)


def _event(number: int, subject: str, plan: str, at_us: int, dice: random.Random) -> bytes:
    route, method, _ = dice.choices(_ROUTES, [weight for *_, weight in _ROUTES])[0]
    limited = subject == "hooli" and route == "search" and dice.random() < 0.5
    status = 429 if limited else dice.choices((200, 404, 500), (95, 4, 1))[0]
    return usage(
        number,
        subject=subject,
        source=SOURCE.replace("shop", "orders-api"),
        time_us=at_us,
        plan=plan,
        route=route,
        method=method,
        status=status,
        key="k_" + "0" * 10,
        duration_us=round(dice.lognormvariate(10, 0.8)),
        request_bytes=dice.randrange(2_000) if method == "POST" else 0,
        response_bytes=dice.randrange(60_000_000),
        **({"limited_by": ["requests-per-second"]} if limited else {}),
    )
