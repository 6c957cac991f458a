"""The scenarios: the same for every framework and server; those of what can be spent are in `spending`."""

from __future__ import annotations

import re

from spending import SPENDING
from steps import ITEM, KEY, PROBLEM, Scenario, Step, denied

ONE_LEFT = Step(
    "/v1/items/1", content=b"item 1", answer={"RateLimit": '"tight";r=1;t=1'}, event={"route": "items"}
)
ORIGIN = ("Origin", "https://shop.example")
PREFLIGHT = (ORIGIN, ("Access-Control-Request-Method", "GET"), *KEY)
DENIED = {
    "Content-Type": PROBLEM,
    "Cache-Control": "no-store",
    "RateLimit": '"tight";r=0;t=1',
    "Retry-After": "1",
}


def refused(status: int, fields: tuple[tuple[str, str], ...], **changes: object) -> Step:
    """Give a refusal of what a request says of itself."""
    answer = {"Content-Type": PROBLEM, "RateLimit": None, "Retry-After": None}
    step: dict[str, object] = {"status": status, "fields": fields, "event": None, "answer": answer}
    return Step(**({"target": "/v1/items/1"} | step | changes))  # type: ignore[arg-type]


def tokens(target: str, amount: int, content: bytes) -> Step:
    return Step(target, content=content, event={"route": "v1", "tokens": amount})


SCENARIOS = (
    Scenario(
        "an allowed answer carries its limits",
        (
            Step(
                "/v1/items/1",
                content=b"item 1",
                answer={
                    "RateLimit-Policy": '"tight";q=2;w=2',
                    "RateLimit": '"tight";r=1;t=1',
                    "Retry-After": None,
                    "X-RateLimit-Limit": None,
                    "Access-Control-Expose-Headers": None,
                },
                event={"route": "items"},
            ),
        ),
        plan="tight",
    ),
    Scenario(
        "a plan without limits has no fields",
        (
            Step(
                "/v1/items/1", answer={"RateLimit": None, "RateLimit-Policy": None}, event={"route": "items"}
            ),
        ),
    ),
    Scenario(
        "a denied request is served after exactly Retry-After",
        (
            ITEM,
            ITEM,
            denied("tight", answer=DENIED),
            Step("/v1/items/1", event={"route": "items"}, after_wait=True),
        ),
        plan="tight",
    ),
    Scenario(
        "a calendar cap refuses until its period ends",
        (
            Step(
                "/v1/items/1",
                answer={"RateLimit": re.compile(r'"monthly";r=1;t=\d+')},
                event={"route": "items"},
            ),
            ITEM,
            denied(
                "monthly",
                answer={
                    "RateLimit-Policy": re.compile(r'"monthly";q=2;w=\d+'),
                    "RateLimit": re.compile(r'"monthly";r=0;t=[1-9]\d*'),
                    "Retry-After": re.compile(r"[1-9]\d*"),
                },
            ),
        ),
        plan="capped",
    ),
    Scenario(
        "a call that costs five leaves five less",
        (
            Step(
                "/v1/search",
                "POST",
                body=b"q",
                content=b"found",
                answer={"RateLimit": '"ten";r=5;t=1'},
                event={"route": "search", "requests": 5},
            ),
        ),
        plan="ten",
    ),
    Scenario(
        "a call that can never fit is told so",
        (denied("small", target="/v1/search", method="POST", answer={"Retry-After": None}), ITEM),
        plan="small",
    ),
    Scenario(
        "a route's limit stands on top of the plan's",
        (
            Step(
                "/v1/files/a",
                "PUT",
                body=b"12345",
                content=b"5",
                answer={"RateLimit": re.compile(r'"ten";r=9;t=1, "files";r=0;t=1')},
                event={"route": "files"},
            ),
            denied("files", target="/v1/files/b", method="PUT", body=b"1"),
            Step("/v1/files/c", "POST", body=b"123", content=b"3", event={"route": "files"}, after_wait=True),
        ),
        plan="ten",
    ),
    Scenario("an unknown key is its own subject", (Step("/v1/items/1", event={"route": "items"}),), plan=""),
    Scenario(
        "a bearer token is a key",
        (Step("/v1/items/1", fields=(("Authorization", "Bearer {key}"),), event={"route": "items"}),),
    ),
    Scenario(
        "an empty key is none",
        (
            refused(
                401,
                (("X-API-Key", ""),),
                answer={"WWW-Authenticate": 'ApiKey realm="subject-strict", Bearer realm="subject-strict"'},
            ),
        ),
        variant="strict",
    ),
    Scenario(
        "an unknown key is 401 where the policy says so", (refused(401, KEY),), plan="", variant="strict"
    ),
    Scenario("no key is 401 where the policy says so", (refused(401, ()),), variant="strict"),
    Scenario("a known key is served there", (ITEM,), variant="strict"),
    Scenario("two keys are 400", (refused(400, (("X-API-Key", "{key}"), ("X-API-Key", "{key}"))),)),
    Scenario("a key with a comma is 400", (refused(400, (("X-API-Key", "{key},b"),)),)),
    Scenario("a key with a tab inside is 400", (refused(400, (("X-API-Key", "{key}\tb"),)),)),
    Scenario("a key of 513 bytes is 400", (refused(400, (("X-API-Key", "k" * 513),)),)),
    Scenario("a key beyond ASCII is 400", (refused(400, (("X-API-Key", "{key}\xe9"),)),)),
    Scenario("a bearer token in two words is 400", (refused(400, (("Authorization", "Bearer {key} b"),)),)),
    Scenario(
        "a key in the query is no key by default",
        (refused(401, (), target="/v1/items/1?api_key={key}"),),
        variant="strict",
    ),
    Scenario(
        "a key in the query is one where the policy says so",
        (Step("/v1/items/1?api_key={key}", fields=(), content=b"item 1", event={"route": "items"}),),
        variant="query",
    ),
    Scenario(
        "HEAD is a GET without bytes",
        (
            Step("/v1/items/1", "HEAD", content=b"", event={"route": "items", "method": "HEAD"}),
            Step("/v1/items/1", "HEAD", content=b"", event={"route": "items"}),
            denied("tight", method="HEAD", content=b"", answer=DENIED),
        ),
        plan="tight",
    ),
    Scenario(
        "an OPTIONS with a key is no preflight",
        (
            *(Step("/v1/items/1", "OPTIONS", fields=PREFLIGHT, status=0, event={"route": "v1"}),) * 2,
            denied("tight", method="OPTIONS", fields=PREFLIGHT),
        ),
        plan="tight",
    ),
    Scenario(
        "what no route matches is metered all the same",
        (
            Step("/elsewhere", content=b"chat", event={"route": "<unmatched>"}),
            Step("/nowhere", status=404, event={"route": "<unmatched>"}),
        ),
    ),
    Scenario(
        "an exempt route is not counted",
        (Step("/health", content=b"well", answer={"RateLimit": None}, event=None),) * 3,
        plan="tight",
    ),
    Scenario(
        "between two of Starlette's own middlewares all is the same",
        (
            ITEM,
            tokens("/v1/tokens", 7, b"tokens"),
            tokens("/v1/tokens/thread", 3, b"thread"),
            tokens("/v1/tokens/stream", 15, b"abc"),
            Step("/v1/tokens/after", content=b"after", event={"route": "v1"}, amended={"tokens": 6}),
            Step("/v1/echo", "POST", body=(b"one", b"two"), content=b"onetwo", event={"route": "v1"}),
        ),
        variant="base-http",
        edges=("asgi",),
    ),
    Scenario("a handler reports tokens", (tokens("/v1/tokens", 7, b"tokens"),)),
    Scenario("a thread reports tokens", (tokens("/v1/tokens/thread", 3, b"thread"),)),
    Scenario("a task reports tokens", (tokens("/v1/tokens/task", 4, b"task"),)),
    Scenario("a body that has begun reports tokens", (tokens("/v1/tokens/stream", 15, b"abc"),)),
    Scenario(
        "tokens reported after the end amend",
        (Step("/v1/tokens/late", content=b"late", event={"route": "v1"}, amended={"tokens": 11}),),
    ),
    Scenario(
        "a background task reports after the end",
        (Step("/v1/tokens/after", content=b"after", event={"route": "v1"}, amended={"tokens": 6}),),
    ),
    Scenario(
        "a handler reads what is left",
        (
            Step(
                "/v1/who",
                content=re.compile(rb'\{"subject": "s-[0-9a-f]+", "plan": "ten", "remaining": 9\}'),
                event={"route": "v1"},
            ),
        ),
        plan="ten",
    ),
    Scenario(
        "an app that raises is metered",
        (Step("/v1/crash", status=500, answer={"RateLimit": '"ten";r=9;t=1'}, event={"route": "v1"}),),
        plan="ten",
    ),
    Scenario(
        "added as the README says",
        (ITEM, ITEM, denied("tight")),
        plan="tight",
        variant="added",
        edges=("asgi", "wsgi"),
    ),
    Scenario(
        "what Starlette answers outside of an added middleware is metered without its bytes",
        (Step("/v1/crash", status=500, event={"route": "v1", "response_bytes": 0}),),
        variant="added",
        edges=("asgi",),
    ),
    Scenario(
        "shadow mode serves and records",
        (
            ITEM,
            ITEM,
            Step(
                "/v1/items/1",
                content=b"item 1",
                answer={"Retry-After": None},
                event={"route": "items", "would_deny": ["tight"]},
            ),
        ),
        plan="tight",
        variant="shadow",
    ),
    Scenario(
        "without the store an open policy serves, without fields",
        (Step("/v1/items/1", content=b"item 1", answer={"RateLimit": None}, event={"route": "items"}),),
        plan="tight",
        variant="away-open",
    ),
    Scenario(
        "without the store a closed policy is 503",
        (
            Step(
                "/v1/items/1",
                status=503,
                answer={"Retry-After": "1", "Content-Type": PROBLEM, "RateLimit": None},
                content=re.compile(rb'.*#temporary-reduced-capacity".*"status":503.*'),
                event=None,
            ),
        ),
        plan="tight",
        variant="away-closed",
    ),
    Scenario(
        "legacy fields are sent where asked for",
        (
            Step(
                "/v1/items/1",
                answer={
                    "X-RateLimit-Limit": "2",
                    "X-RateLimit-Remaining": "1",
                    "X-RateLimit-Reset": re.compile(r"\d+"),
                    "RateLimit": '"tight";r=1;t=1',
                },
                event={"route": "items"},
            ),
        ),
        plan="tight",
        variant="legacy",
    ),
    Scenario(
        "the app's own fields stay",
        (
            Step(
                "/v1/fields",
                fields=(*KEY, ORIGIN),
                content=b"fields",
                answer={
                    "Set-Cookie": re.compile(r"a=1(; Path=/)?, b=2(; Path=/)?"),
                    "X-App": "own",
                    "RateLimit": '"own";r=1, "tight";r=1;t=1',
                    "Access-Control-Expose-Headers": "X-App, RateLimit-Policy, RateLimit",
                },
                event={"route": "v1"},
            ),
        ),
        plan="tight",
    ),
    Scenario(
        "a refusal can be read from another origin",
        (
            ITEM,
            ITEM,
            denied(
                "tight",
                fields=(*KEY, ORIGIN),
                answer={"Access-Control-Expose-Headers": "RateLimit-Policy, RateLimit, Retry-After"},
            ),
        ),
        plan="tight",
    ),
    Scenario(
        "a refusal passes through CORS middleware outside",
        (
            ITEM,
            ITEM,
            denied(
                "tight",
                fields=(*KEY, ORIGIN),
                answer={"Access-Control-Allow-Origin": "*", "Retry-After": "1"},
            ),
        ),
        plan="tight",
        variant="cors-outside",
        edges=("asgi",),
    ),
    Scenario(
        "the app words its refusals",
        (
            ITEM,
            ITEM,
            denied("tight", content=b"no: 429", answer={"Content-Type": "text/x-own", "Content-Length": "7"}),
        ),
        plan="tight",
        variant="own-body",
    ),
    Scenario(
        "installed twice it counts once", (ONE_LEFT, ITEM, denied("tight")), plan="tight", variant="twice"
    ),
    Scenario(
        "Django's inside another edge's counts once",
        (ONE_LEFT, ITEM, denied("tight")),
        plan="tight",
        variant="nested",
        edges=("django", "adjango"),
    ),
    Scenario(
        "a mounted meter matches what its app sees",
        (Step("/api/v1/items/1", content=b"item 1", event={"route": "items"}),),
        variant="mount-inside",
    ),
    Scenario(
        "a meter around mounts matches what comes in",
        (Step("/api/v1/items/1", content=b"item 1", event={"route": "mounted.items"}),),
        variant="mount-outside",
        edges=("asgi", "wsgi"),
    ),
    Scenario(
        "FORCE_SCRIPT_NAME is no part of the path",
        (Step("/v1/items/1", content=b"item 1", event={"route": "items"}),),
        variant="forced-script-name",
        edges=("django", "adjango"),
    ),
    *SPENDING,
)
