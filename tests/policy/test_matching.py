"""The matcher: the first that matches, as a plain loop would find it, in bounded steps."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from django.urls.resolvers import _route_to_regex
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.routing import compile_path
from werkzeug.exceptions import NotFound
from werkzeug.routing import Map, RequestRedirect, Rule

from meter_mw.policy import matching
from meter_mw.policy.matching import Matcher, OddPath, Template, TemplateError, canonical, routed_path
from meter_mw.policy.templates import Kind, Parameter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

Entry = tuple[Template, "frozenset[str] | None", int]

SEGMENTS = ["a", "b", "ab", "1", "12", "a.b", "a-b", "a-b-a", "-a", "a--b", ".b", "1.5", "\u0663", "v1"]
PLAIN = st.lists(st.sampled_from(SEGMENTS), max_size=5).map(lambda parts: "/" + "/".join(parts))
SPELT = st.lists(st.sampled_from([*SEGMENTS, "", "", ".", ".."]), max_size=6).map(lambda p: "/" + "/".join(p))
METHODS = st.sampled_from(["GET", "HEAD", "POST", "get", "FOO"])
HOLES = [
    "{}",
    "{:int}",
    "{:float}",
    "{:slug}",
    "v{:int}",
    "{}.b",
    "a{}",
    "{}-{}",
    "{}-{}-{}",
    "{:path}",
    "{:path}.b",
]


@st.composite
def templates(draw: st.DrawFn, holes: list[str] = HOLES) -> Template:
    """Templates of literals and holes over the alphabet of SEGMENTS, at most one of them a path."""
    parts = draw(st.lists(st.sampled_from([*SEGMENTS, *holes, *holes]), max_size=4))
    while sum("path" in part for part in parts) > 1:
        parts.remove(next(part for part in parts if "path" in part))
    names = iter("abcdefghijklmnopqrst")
    return Template.parse("/" + re.sub(r"\{", lambda _: "{" + next(names), "/".join(parts)))


ENTRIES = st.lists(
    st.tuples(templates(), st.none() | st.frozensets(st.sampled_from(["GET", "POST", "HEAD"]), min_size=1)),
    max_size=12,
).map(lambda pairs: [(template, methods, i) for i, (template, methods) in enumerate(pairs)])


def matcher(*texts: str) -> Matcher[str]:
    """Compile templates for any method, each its own value."""
    return Matcher((Template.parse(text), None, text) for text in texts)


REGEX = {
    Kind.STR: "[^/]+",
    Kind.INT: r"\d+",
    Kind.FLOAT: r"\d+(\.\d+)?",
    Kind.SLUG: "[-a-zA-Z0-9_]+",
    Kind.UUID: "[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}",
    Kind.PATH: ".*",
}


def takes(template: Template, path: str) -> bool:
    """Say by one regular expression whether a template takes a path: the reference."""
    regex = ""
    for pieces in template.segments:
        head = pieces[0]
        if isinstance(head, Parameter) and head.kind is Kind.PATH and len(pieces) == 1:
            regex += "(/.*)?"
            continue
        regex += "/" + "".join(re.escape(p) if isinstance(p, str) else REGEX[p.kind] for p in pieces)
    return re.fullmatch(regex, "" if path == "/" else path, re.DOTALL) is not None


def first(entries: list[Entry], method: str, path: str) -> int | None:
    """Find the first entry by asking each in order: the reference."""
    method = method.upper()
    for template, methods, value in entries:
        implied = method == "HEAD" and methods is not None and "GET" in methods
        if (methods is None or method in methods or implied) and takes(template, path):
            return value
    return None


@given(ENTRIES, METHODS, PLAIN)
@example([(Template.parse("/{p:path}/a"), None, 0)], "GET", "/a")
@example([(Template.parse("/a/{p:path}.b"), None, 0)], "GET", "/a/.b")
@settings(deadline=None, max_examples=200)
def test_same_as_a_plain_loop(entries: list[Entry], method: str, path: str) -> None:
    """The trie answers as a loop over regular expressions does."""
    compiled = Matcher(entries)
    assert compiled.match(method, path) == first(entries, method, path)
    assert compiled.resolve(method, path) == first(entries, method, path)


@given(ENTRIES, METHODS, PLAIN)
@settings(deadline=None, max_examples=200)
def test_unreachable_never_matches(entries: list[Entry], method: str, path: str) -> None:
    """An entry that is called unreachable is never the answer; the one that covers it stands before it."""
    compiled = Matcher(entries)
    hidden = dict(compiled.unreachable())
    assert compiled.match(method, path) not in hidden
    assert all(cover < value for value, cover in hidden.items())


STARLETTE_HOLES = ["{}", "{:int}", "{:float}", "{:uuid}", "v{:int}", "{}.b", "{}-{}", "{:path}", "{:path}.b"]


def reaches_starlette(template: Template, path: str) -> bool:
    """Say whether Starlette's router would run the template's handler."""
    return compile_path(str(template))[0].match(path) is not None


def reaches_django(template: Template, path: str) -> bool:
    """Say whether Django's resolver would run the template's view."""
    spelt = re.sub(r"\{(\w+):(\w+)\}", r"<\2:\1>", str(template)[1:]).replace("{", "<").replace("}", ">")
    return re.search(_route_to_regex(spelt, is_endpoint=True)[0], path[1:]) is not None


def reaches_flask(template: Template, path: str) -> bool:
    """Say whether Werkzeug's router would run the template's view."""
    spelt = re.sub(r"\{(\w+):(\w+)\}", r"<\2:\1>", str(template)).replace("{", "<").replace("}", ">")
    try:
        Map([Rule(spelt, endpoint="x")]).bind("example.com").match(path)
    except (NotFound, RequestRedirect):
        return False
    return True


@pytest.mark.parametrize(
    ("reaches", "unknown"),
    [(reaches_starlette, []), (reaches_django, ["{:float}"]), (reaches_flask, [])],
    ids=["starlette", "django", "flask"],
)
def test_no_spelling_escapes(reaches: Any, unknown: list[str]) -> None:
    """Whatever path leads a router to a handler is matched by its template, or refused."""
    holes = [hole for hole in STARLETTE_HOLES if hole not in unknown]

    @given(templates(holes), SPELT)
    @example(Template.parse("/a/{p:path}/b"), "/a//b")
    @example(Template.parse("/a/{p:path}"), "/a/")
    @example(Template.parse("/a/{p:int}"), "/a/\u0663")
    @example(Template.parse("/a/{p}"), "/a/..")
    @example(Template.parse("/a/{p:path}"), "//a/b")
    @settings(deadline=None, max_examples=200)
    def check(template: Template, path: str) -> None:
        compiled = Matcher([(template, None, "route")])
        if reaches(template, path):
            try:
                assert compiled.resolve("GET", path) == "route"
            except OddPath:
                assert {".", ".."} & set(path.split("/"))

    check()


@pytest.mark.parametrize(
    ("template", "path", "expected"),
    [
        ("/", "/", True),
        ("/", "/a", False),
        ("/{rest:path}", "/", True),
        ("/{rest:path}", "/a/b/c", True),
        ("/files/{rest:path}", "/files", True),
        ("/files/{rest:path}", "/filesx", False),
        ("/items/{id}", "/items", False),
        ("/items/{id}", "/items/a/b", False),
        ("/items/{id:int}", "/items/12", True),
        ("/items/{id:int}", "/items/-12", False),
        ("/items/{id:int}", "/items/12x", False),
        ("/x/{f:float}", "/x/1.5", True),
        ("/x/{f:float}", "/x/1.", False),
        ("/x/{s:slug}", "/x/a-b_9", True),
        ("/x/{s:slug}", "/x/a.b", False),
        ("/x/{u:uuid}", "/x/0F8fad5b-d9cb-469f-a165-70867728950e", True),
        ("/x/{u:uuid}", "/x/0f8fad5bd9cb469fa16570867728950e", True),
        ("/x/{u:uuid}", "/x/0f8fad5b-d9cb-469f-a165-70867728950", False),
        ("/v{version:int}/x", "/v2/x", True),
        ("/v{version:int}/x", "/v/x", False),
        ("/v{version:int}/x", "/w2/x", False),
        ("/f/{n:int}.json", "/f/1.json", True),
        ("/f/{n:int}.json", "/f/a.json", False),
        ("/f/{name}.json", "/f/a.json.json", True),
        ("/f/{name}.json", "/f/.json", False),
        ("/aa{x}aa", "/aaa", False),
        ("/{a}--{b}", "/x---y", True),
        ("/{a}--{b}", "/x--", False),
        ("/{a}-{b}-{c}", "/x-y", False),
        ("/{a}-{b}-{c}", "/x--y", False),
        ("/{a}-{b}", "/-y", False),
        ("/Items", "/items", False),
        ("/a.c", "/abc", False),
    ],
)
def test_templates_take(template: str, path: str, *, expected: bool) -> None:
    """Each kind of segment takes what it says and no more."""
    assert (matcher(template).match("GET", path) is not None) is expected


def test_order_decides() -> None:
    """The first in order wins over the more literal."""
    compiled = matcher("/a/{x}", "/a/b", "/{rest:path}", "/c")
    assert compiled.match("GET", "/a/b") == "/a/{x}"
    assert compiled.match("GET", "/c") == "/{rest:path}"


def test_methods() -> None:
    """GET includes HEAD, another method passes on, None takes any, and case hides nothing."""
    path = Template.parse("/a")
    compiled = Matcher([(path, frozenset({"GET"}), 1), (path, frozenset({"post"}), 2), (path, None, 3)])
    answers = [compiled.match(method, "/a") for method in ("GET", "HEAD", "get", "POST", "PUT", "FOO")]
    assert answers == [1, 1, 1, 2, 3, 3]
    assert Matcher([(path, frozenset({"HEAD"}), 1)]).match("GET", "/a") is None
    with pytest.raises(ValueError, match="no method"):
        Matcher([(path, frozenset(), 1)])


def test_nothing_matches_nothing() -> None:
    """Without entries there is no answer."""
    assert Matcher[int]([]).match("GET", "/") is None
    assert Matcher[int]([]).resolve("GET", "//a/../b") is None


@pytest.mark.parametrize("path", ["//free", "/free/", "free", "/free//", "http://host/free"])
def test_resolve_spellings(path: str) -> None:
    """A spelling that names one route alone is that route."""
    assert matcher("/free", "/{rest:path}").resolve("GET", path) == "/free"


@pytest.mark.parametrize("path", ["/files/../files/a", "/files/./a/", "/files/a/.."])
def test_resolve_dots_within_a_route(path: str) -> None:
    """Dot segments that stay on their route are no reason to refuse."""
    route = "/files/{rest:path}"
    assert matcher(route, "/{rest:path}").resolve("GET", path) == route


@pytest.mark.parametrize(
    "path", ["/paid/../free", "/paid/x/../../free", "/free/../paid/a", "/paid/./../free/."]
)
def test_dots_cannot_change_the_route(path: str) -> None:
    """A path that runs one route unresolved, and names another resolved, is refused."""
    with pytest.raises(OddPath, match="dot segments"):
        matcher("/free", "/paid/{rest:path}").resolve("GET", path)


def test_resolve_refuses_odd_characters() -> None:
    """The line feed that a router's `$` lets pass is refused before it."""
    with pytest.raises(OddPath):
        matcher("/v1/chat").resolve("GET", "/v1/chat\n")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["/a", "/b"], []),
        (["/a", "/a/"], [("/a/", "/a")]),
        (["/{x}", "/{y:str}"], [("/{y:str}", "/{x}")]),
        (["/{rest:path}", "/a", "/"], [("/a", "/{rest:path}"), ("/", "/{rest:path}")]),
        (["/a/{rest:path}", "/a", "/a/{p:path}/b", "/b"], [("/a", 0), ("/a/{p:path}/b", 0)]),
        (["/{x}", "/a", "/{n:int}", "/v{n:int}"], [("/a", 0), ("/{n:int}", 0), ("/v{n:int}", 0)]),
        (["/{n:int}", "/7", "/{x}"], [("/7", 0)]),
        (["/{p:path}/z", "/a/z", "/a/{q:path}/z", "/{q:path}/z", "/a"], [(1, 0), (2, 0), (3, 0)]),
        (["/{p:path}.b", "/a.b", "/x/{q:path}.b", "/{x}.b"], [(1, 0), (2, 0)]),
        (["/a", "/{x}", "/{rest:path}"], []),
        (["/z", "/{x}/z", "/{p:path}/z"], []),
    ],
)
def test_unreachable(texts: list[str], expected: list[tuple[Any, Any]]) -> None:
    """What an earlier entry covers is found, with the one that covers it."""
    name = lambda at: texts[at] if isinstance(at, int) else at  # noqa: E731
    assert matcher(*texts).unreachable() == tuple((name(value), name(cover)) for value, cover in expected)


def test_unreachable_by_method() -> None:
    """An entry is unreachable if each of its methods is taken, by whichever entry."""
    path, other = Template.parse("/a"), Template.parse("/{x}")
    get, post, both = frozenset({"GET"}), frozenset({"POST"}), frozenset({"GET", "POST"})
    entries = [(path, get, "get"), (other, post, "post"), (path, both, "both"), (path, None, "any")]
    assert Matcher(entries).unreachable() == (("both", "get"),)
    assert Matcher([(path, get, 0), (path, frozenset({"HEAD"}), 1)]).unreachable() == ((1, 0),)
    assert Matcher([(path, frozenset({"HEAD"}), 0), (path, get, 1)]).unreachable() == ()


@contextmanager
def counted_lines() -> Iterator[list[int]]:
    """Count the lines of the matcher that are executed: a clock that no load disturbs."""
    count = [0]

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename != matching.__file__:
            return None
        count[0] += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)


def steps(compiled: Matcher[Any], path: str) -> int:
    """Return how many lines one match takes."""
    with counted_lines() as count:
        compiled.match("GET", path)
    return count[0]


@pytest.mark.parametrize("prefix", ["", "/v1", "/{tenant}", "/v{n:int}"])
def test_steps_do_not_grow_with_routes(prefix: str) -> None:
    """Ten routes and a thousand, under a prefix or under none, take the same steps."""
    path = prefix.replace("{tenant}", "acme").replace("{n:int}", "2") + "/r7/42"
    few, many = (
        matcher(*[f"{prefix}/r{i}/{{id:int}}" for i in range(size)], "/{rest:path}") for size in (10, 1000)
    )
    assert few.match("GET", path) == f"{prefix}/r7/{{id:int}}" == many.match("GET", path)
    assert steps(many, path) == steps(few, path) < 100


def test_steps_are_bounded() -> None:
    """Templates made to send a matcher back cost segments times nodes at most, here with nothing found."""
    binary = ["/" + "/".join("a" if i >> bit & 1 else f"{{p{bit}}}" for bit in range(6)) for i in range(64)]
    loops = ["/{p:path}" + "/a" * depth + "/z" for depth in range(1, 9)]
    compiled = matcher(*binary, *loops)
    nodes = 2**7 + 2 * 9 * 9
    long = [steps(compiled, "/a" * size) for size in (100, 200, 400)]
    assert max(cost / size for cost, size in zip(long, (100, 200, 400), strict=True)) < 12 * nodes
    assert long[2] - long[1] <= 2.2 * (long[1] - long[0])


@pytest.mark.parametrize(
    "template", ["/{a}-{b}-{c}-{d}-{e}!", "/{a}-a{b}-a{c}-a{d}!", "/{s:slug}!", "/1{n:int}1!"]
)
def test_one_long_segment(template: str) -> None:
    """A segment of 64 KiB that almost matches is refused in one pass: a search each, never their product."""
    compiled = matcher(template)
    assert max(steps(compiled, "/" + "-a" * size + "?") for size in (50, 32_768)) < 60
    assert max(steps(compiled, "/" + "-a" * size + "1!") for size in (50, 32_768)) < 60
    assert steps(compiled, "/" + "1" * 65_536 + "!") < 60


def test_face() -> None:
    """What the matcher speaks of is found beside it."""
    assert (canonical("//a"), routed_path("/m/a", "/m")) == ("/a", "/a")
    assert issubclass(TemplateError, Exception)
