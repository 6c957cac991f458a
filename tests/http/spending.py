"""Scenarios of everything that a key can spend: bytes, periods, slots, reported units, pools, overage."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from steps import ITEM, Between, Scenario, Step, denied

SETTLED = 0.25
"""Seconds in which what was settled is in the store."""

STREAMING = ("asgi", "wsgi", "adjango")
"""The edges that read a chunked request: Django under WSGI never does."""


def sized(size: int, got: int | None = None, **changes: object) -> Step:
    """Ask for so many bytes, of which `got` come."""
    step: dict[str, object] = {"event": {"route": "v1"}, "size": size if got is None else got}
    if got is not None:
        step |= {"whole": False, "event": {"route": "v1", "limited_by": ["egress"]}}
    return Step(f"/v1/sized?size={size}", **(step | changes))  # type: ignore[arg-type]


def sent(size: int, **changes: object) -> Step:
    """Send so many bytes, whose length is declared."""
    step: dict[str, object] = {"content": b"%d" % size, "event": {"route": "v1"}}
    return Step("/v1/drain", "POST", body=b"u" * size, **(step | changes))  # type: ignore[arg-type]


def chunked(*sizes: int, **changes: object) -> Step:
    """Send chunks, whose lengths nobody declares."""
    step: dict[str, object] = {"content": b"%d" % sum(sizes), "event": {"route": "v1"}}
    body = tuple(b"u" * size for size in sizes)
    return Step("/v1/drain", "POST", body=body, **(step | changes))  # type: ignore[arg-type]


def too_large(name: str, step: Step) -> Step:
    """Give the same step as it is refused for good: its body never fits."""
    content = re.compile(
        rb'\{"type":"about:blank","title":"Content Too Large","status":413,.*'
        rb'"violated-policies":\["' + name.encode() + rb'"\]\}'
    )
    return replace(step, status=413, content=content, answer={"Retry-After": None}, event=None)


def stopped(step: Step, limit: str, most: int) -> Step:
    """Give what is recorded of an upload that was stopped on its way, when at most `most` had passed."""
    event = {
        "route": "v1",
        "requests": 0,
        "charged": False,
        "limited_by": [limit],
        "request_bytes": Between(0, most),
        "response_bytes": 0,
    }
    return replace(step, event=event)


def limit(name: str, left: int) -> re.Pattern[str]:
    return re.compile(rf'"{name}";r={left};t=\d+')


def left(name: str, units: int, **changes: object) -> Step:
    """Ask for an item, and read what is left of a limit."""
    return replace(ITEM, answer={"RateLimit": limit(name, units)}, **changes)  # type: ignore[arg-type]


def until_month_ends(value: str) -> bool:
    """Whether `t` is the seconds until the first of the next month, in UTC."""
    now = datetime.now(UTC)
    first = (now.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0)
    said = int(value.rpartition("t=")[2])
    return abs((first.replace(microsecond=0) - now).total_seconds() - said) < 3


def denied_until_month_ends(name: str, **changes: object) -> Step:
    answer = {"RateLimit": until_month_ends, "Retry-After": re.compile(r"[1-9]\d*")}
    return denied(name, **({"answer": answer} | changes))


def status(code: int, path: str = "status", **changes: object) -> Step:
    return Step(f"/v1/{path}/{code}", status=code, **({"event": {"route": path}} | changes))  # type: ignore[arg-type]


def free(code: int, path: str = "status", **changes: object) -> Step:
    """Ask for an answer that is not charged for."""
    return status(code, path, event={"route": path, "requests": 0, "charged": False}, **changes)


BYTES = (
    Scenario(
        "a response that has begun ends beyond its cap, and the debt waits",
        (
            sized(900, answer={"RateLimit-Policy": re.compile(r'"egress";q=1000;qu="content-bytes";w=\d+')}),
            sized(300, pause=SETTLED),
            denied_until_month_ends("egress", pause=SETTLED),
            denied_until_month_ends("egress"),
        ),
        plan="finish",
    ),
    Scenario(
        "a response is cut at its cap to the byte",
        (sized(900), sized(300, 100, pause=SETTLED), denied_until_month_ends("egress", pause=SETTLED)),
        plan="cut",
    ),
    Scenario(
        "a stream without a length is cut at its cap to the byte",
        (
            Step("/v1/stream?count=30&size=30", size=900, event={"route": "v1"}),
            Step(
                "/v1/stream?count=30&size=30",
                size=100,
                whole=False,
                event={"route": "v1", "limited_by": ["egress"]},
                pause=SETTLED,
            ),
            denied_until_month_ends("egress", pause=SETTLED),
        ),
        plan="cut",
    ),
    Scenario(
        "what is left of a reserve comes back",
        (
            sized(10, answer={"RateLimit": limit("egress", 900)}),
            sized(10, answer={"RateLimit": limit("egress", 890)}, pause=SETTLED),
        ),
        plan="finish",
    ),
    Scenario(
        "HEAD passes where bytes are used up to the last",
        (
            sized(999),
            Step("/v1/sized?size=900", "HEAD", content=b"", event={"route": "v1"}, pause=SETTLED),
            sized(5, 1, pause=SETTLED),
        ),
        plan="cut",
    ),
    Scenario(
        "a rate of bytes is in debt for as long as it takes",
        (
            sized(2000),
            denied("out", answer={"Retry-After": "2", "RateLimit": '"out";r=0;t=2'}, pause=SETTLED),
            sized(10, after_wait=True),
        ),
        plan="debt",
    ),
    Scenario(
        "an upload that does not fit is refused before it is read",
        (
            sent(600, answer={"RateLimit-Policy": re.compile(r'"ingress";q=1000;qu="content-bytes";w=\d+')}),
            denied_until_month_ends(
                "ingress", target="/v1/drain", method="POST", body=b"u" * 600, pause=SETTLED
            ),
            sent(400),
            denied_until_month_ends("ingress", target="/v1/drain", method="POST", body=b"u", pause=SETTLED),
            replace(ITEM, event={"route": "items"}),
        ),
        plan="ingress",
    ),
    Scenario(
        "an upload above its cap is refused for good",
        (too_large("ingress", sent(1001)), sent(1000)),
        plan="ingress",
    ),
    Scenario(
        "an upload above its burst is refused for good, and one above the rate until it fits",
        (
            too_large("in", sent(2001)),
            sent(1500),
            denied("in", target="/v1/drain", method="POST", body=b"u" * 1500, answer={"Retry-After": "1"}),
            sent(1500, after_wait=True),
        ),
        plan="inrate",
    ),
    Scenario(
        "a chunked upload is stopped when it no longer fits",
        (
            chunked(300, 300),
            stopped(
                denied_until_month_ends(
                    "ingress", target="/v1/drain", method="POST", body=(b"u" * 300, b"u" * 300), pause=SETTLED
                ),
                "ingress",
                400,
            ),
            sent(10, pause=SETTLED),
        ),
        plan="ingress",
        edges=STREAMING,
    ),
    Scenario(
        "a chunked upload above its cap is stopped for good",
        (stopped(too_large("ingress", chunked(600, 600)), "ingress", 1000),),
        plan="ingress",
        edges=STREAMING,
    ),
)

UNITS = (
    Scenario(
        "an estimate is held until the app has reported",
        (
            Step("/v1/tokens", answer={"RateLimit": limit("tokens", 10)}, event={"route": "v1", "tokens": 7}),
            Step(
                "/v1/tokens",
                answer={"RateLimit": limit("tokens", 3)},
                event={"route": "v1", "tokens": 7},
                pause=SETTLED,
            ),
            denied_until_month_ends("tokens", target="/v1/tokens", pause=SETTLED),
        ),
        plan="estimate",
    ),
    Scenario(
        "units told by a field are counted, and the field is stripped",
        (
            Step("/v1/pages", content=b"pages", answer={"X-Pages": None}, event={"route": "v1", "pages": 3}),
            Step("/v1/pages?told=2.5", answer={"X-Pages": None}, event={"route": "v1"}, pause=SETTLED),
            Step(
                "/v1/pages",
                answer={"RateLimit": limit("pages", 2)},
                event={"route": "v1", "pages": 3},
                pause=SETTLED,
            ),
            denied_until_month_ends("pages", target="/v1/pages", pause=SETTLED),
        ),
        plan="untold",
    ),
    Scenario(
        "the app prices its requests",
        (
            Step(
                "/v1/priced?units=4",
                answer={"RateLimit": '"ten";r=6;t=1'},
                event={"route": "priced", "requests": 4},
            ),
            Step("/v1/priced?units=nonsense", event={"route": "priced"}),
            Step("/v1/priced?units=-3", event={"route": "priced"}),
            denied(
                "ten",
                target="/v1/priced?units=11",
                answer={"Retry-After": None, "RateLimit": re.compile(r'"ten";r=\d;t=1')},
            ),
        ),
        plan="ten",
    ),
    Scenario(
        "the app estimates what its requests will report",
        (
            Step("/v1/priced?tokens=15", answer={"RateLimit": limit("tokens", 5)}, event={"route": "priced"}),
            Step(
                "/v1/priced?tokens=20",
                answer={"RateLimit": limit("tokens", 0)},
                event={"route": "priced"},
                pause=SETTLED,
            ),
        ),
        plan="estimate",
    ),
)

BUSY = denied(
    "concurrent",
    answer={"RateLimit": '"concurrent";r=0;t=1', "Retry-After": "1", "RateLimit-Policy": re.compile(".+")},
)
SLOW = Step("/v1/stream?count=2&pause=0.6&size=5", size=10, event={"route": "v1"}, takes=1.2)

SLOTS = (
    Scenario(
        "one at a time, and the next at once when it is over",
        (
            replace(
                SLOW,
                answer={
                    "RateLimit-Policy": '"concurrent";q=1;qu="concurrent-requests"',
                    "RateLimit": '"concurrent";r=0',
                },
                during=(BUSY, replace(BUSY, target="/v1/chat")),
            ),
            *(ITEM,) * 5,
            replace(SLOW, during=(BUSY,)),
        ),
        plan="slot",
    ),
    Scenario(
        "a slot is free again after an error, an odd answer and a refusal",
        (
            Step("/v1/crash", status=500, event={"route": "v1"}),
            Step("/v1/empty", status=204, event={"route": "v1"}),
            Step("/v1/sized?size=5", "HEAD", content=b"", event={"route": "v1"}),
            ITEM,
        ),
        plan="slot",
    ),
)

SCOPES = (
    Scenario(
        "a limit of scope key is each key's own",
        (
            *(replace(ITEM, key="{plan}.{name}..one"),) * 2,
            denied_until_month_ends("monthly", key="{plan}.{name}..one"),
            left("monthly", 1, key="{plan}.{name}..two"),
        ),
        plan="perkey",
    ),
    Scenario(
        "a limit of a subject is shared by its keys",
        (
            replace(ITEM, key="{plan}.{name}..one"),
            left("monthly", 0, key="{plan}.{name}..two"),
            denied_until_month_ends("monthly", key="{plan}.{name}..one"),
        ),
        plan="capped",
    ),
    Scenario(
        "a limit of scope account is shared by its subjects",
        (
            replace(ITEM, key="{plan}.{name}-a.{name}"),
            left("pool", 0, key="{plan}.{name}-b.{name}"),
            denied_until_month_ends("pool", key="{plan}.{name}-a.{name}"),
            denied_until_month_ends("pool", key="{plan}.{name}-c.{name}"),
            left("pool", 1, key="{plan}.{name}-d.{name}-other"),
            left("pool", 1, key="{plan}.{name}-e"),
        ),
        plan="pooled",
    ),
    Scenario(
        "a limit of scope route is shared by all on that route",
        (
            left("each", 0, key="{plan}.{name}-a"),
            denied_until_month_ends("each", key="{plan}.{name}-b"),
            Step("/v1/chat", key="{plan}.{name}-b", content=b"chat", event={"route": "chat"}),
        ),
        plan="perroute",
    ),
    Scenario(
        "a limit of scope everyone is shared by all",
        (
            left("all", 1, key="{plan}.{name}-a"),
            left("all", 0, key="{plan}.{name}-b"),
            denied_until_month_ends("all", key="{plan}.{name}-c", target="/v1/chat"),
        ),
        plan="everyone",
    ),
)

SOFT = (
    Scenario(
        "thresholds are announced once",
        (*(ITEM,) * 4, *(denied_until_month_ends("monthly"),) * 2),
        plan="warned",
        thresholds=(("monthly", 2), ("monthly", 4)),
    ),
    Scenario(
        "beyond cap and grace units are overage, up to the ceiling",
        (
            left("over", 1),
            left("over", 0),
            left("over", 0),
            *(left("over", 0, event={"route": "items", "overage": {"over": 1}}),) * 2,
            denied_until_month_ends("over"),
        ),
        plan="billed",
    ),
    Scenario(
        "a request that straddles the line is split",
        (
            Step(
                "/v1/search",
                "POST",
                body=b"q",
                event={"route": "search", "requests": 5, "overage": {"over": 2}},
            ),
        ),
        plan="straddled",
    ),
    Scenario(
        "bytes beyond the line are overage, said when they are known",
        (
            sized(150, amended={"overage": {"out": 50}}),
            sized(30, amended={"overage": {"out": 30}}, pause=SETTLED),
        ),
        plan="bytes",
    ),
    Scenario(
        "grace is served as if it belonged to the cap",
        (ITEM, ITEM, denied_until_month_ends("monthly")),
        plan="graced",
    ),
    Scenario(
        "a key's own amount takes the place of its plan's until its day",
        (left("monthly", 2), ITEM, ITEM, denied_until_month_ends("monthly")),
        plan="raised",
    ),
    Scenario(
        "a key's own amount is over when its day has come",
        (left("monthly", 0), denied_until_month_ends("monthly")),
        plan="bygone",
    ),
)

CHARGES = (
    Scenario(
        "what the app fails to serve is not charged for",
        (
            *(free(500, pause=SETTLED), free(503)) * 2,
            status(404, pause=SETTLED, answer={"RateLimit": limit("monthly", 1)}),
            status(200),
            denied_until_month_ends("monthly"),
        ),
        plan="capped",
    ),
    Scenario(
        "only what is said is charged for",
        (
            *(free(302, "paid", pause=SETTLED), free(503, "paid")) * 2,
            status(404, "paid", pause=SETTLED),
            status(201, "paid", answer={"RateLimit": limit("monthly", 0)}),
        ),
        plan="capped",
    ),
    Scenario(
        "a rate keeps what the app failed to serve", (free(500), free(500), denied("tight")), plan="tight"
    ),
    Scenario(
        "a refusal costs nothing",
        (
            ITEM,
            denied("hurry", pause=1.1, answer={"RateLimit": '"hurry";r=0;t=1'}),
            replace(ITEM, pause=1.1),
        ),
        plan="hurry",
    ),
    Scenario(
        "where a refusal counts against what had no room, it takes as long again",
        (
            replace(ITEM, target="/v1/strictly", content=b"chat", event={"route": "strictly"}),
            denied(
                "hurry",
                target="/v1/strictly",
                pause=1.2,
                answer={"RateLimit": re.compile(r'"hurry";r=0;t=[12]')},
            ),
            denied("hurry", target="/v1/strictly", pause=1.2, answer={"Retry-After": re.compile("[12]")}),
            replace(
                ITEM, target="/v1/strictly", content=b"chat", event={"route": "strictly"}, after_wait=True
            ),
        ),
        plan="hurry",
    ),
    Scenario(
        "where a refusal counts against all, it counts against those that had room",
        (
            Step(
                "/v1/widely",
                answer={"RateLimit": re.compile(r'"hurry";r=0;t=\d+, "wide";r=4;t=\d+')},
                event={"route": "widely"},
            ),
            denied(
                "hurry",
                target="/v1/widely",
                answer={"RateLimit": re.compile(r'"hurry";r=0;t=\d+, "wide";r=[34];t=\d+')},
            ),
            denied(
                "hurry",
                target="/v1/widely",
                answer={"RateLimit": re.compile(r'"hurry";r=0;t=\d+, "wide";r=[23];t=\d+')},
            ),
            denied("hurry", answer={"RateLimit": re.compile(r'"hurry";r=0;t=\d+, "wide";r=2;t=\d+')}),
        ),
        plan="both",
    ),
    Scenario(
        "a limit in shadow is told to nobody and recorded",
        (
            replace(ITEM, answer={"RateLimit": limit("live", 8)}),
            *(replace(ITEM, event={"route": "items", "would_deny": ["ghost"]}),) * 2,
        ),
        plan="ghost",
    ),
    Scenario(
        "a plan in shadow refuses nobody",
        (
            replace(ITEM, answer={"RateLimit": None}),
            replace(ITEM, event={"route": "items", "would_deny": ["monthly"]}),
        ),
        plan="dream",
    ),
    Scenario(
        "a counted route is recorded and under no limit",
        (Step("/v1/inner", answer={"RateLimit": None}, event={"route": "inner"}),) * 3,
        plan="tight",
    ),
    Scenario(
        "a counted key is recorded and under no limit",
        (replace(ITEM, answer={"RateLimit": None}),) * 3,
        plan="inside",
    ),
)

_ALL = (*BYTES, *UNITS, *SLOTS, *SCOPES, *SOFT, *CHARGES)

SPENDING = (*_ALL, *(replace(each, name=f"{each.name}, in Redis", variant="redis") for each in _ALL))
