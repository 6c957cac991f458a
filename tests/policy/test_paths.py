"""The canonical form of a path, and what a mounted router sees of one."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from starlette._utils import get_route_path

from meter_mw.policy.paths import OddPath, canonical, routed_path, unresolved

ODD = [*map(chr, range(0x20)), "\x7f", "\\", "\ud800", "\udfff", "\udc80"]
PATHS = st.text("ab.:/é%# \u0663\u2028", max_size=20)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "/"),
        ("", "/"),
        ("/v1/chat", "/v1/chat"),
        ("/V1/Chat", "/V1/Chat"),
        ("v1/chat", "/v1/chat"),
        ("/v1/chat/", "/v1/chat"),
        ("/v1/chat//", "/v1/chat"),
        ("//v1/chat", "/v1/chat"),
        ("///v1////chat", "/v1/chat"),
        ("/v1/./chat", "/v1/chat"),
        ("/v1/chat/.", "/v1/chat"),
        ("/v1/x/../chat", "/v1/chat"),
        ("/v1/x//../chat", "/v1/chat"),
        ("/v1/chat/..", "/v1"),
        ("/..", "/"),
        ("/../../v1/chat", "/v1/chat"),
        ("..", "/"),
        ("/.well-known/x", "/.well-known/x"),
        ("/...", "/..."),
        ("/..a/b..", "/..a/b.."),
        ("/v1/chat/..;/x", "/v1/chat/..;/x"),
        ("http://evil/v1/chat", "/v1/chat"),
        ("HTTPS://user@[::1]:80/v1/chat/", "/v1/chat"),
        ("http://evil", "/"),
        ("http:///v1/chat", "/v1/chat"),
        ("/http://evil/v1", "/http:/evil/v1"),
        ("*", "/*"),
        ("/caf\u00e9/\u0663", "/caf\u00e9/\u0663"),
        ("/a b%2F#f?x", "/a b%2F#f?x"),
    ],
)
def test_spellings(path: str, expected: str) -> None:
    """Each spelling has the form that templates are written in."""
    assert canonical(path) == expected


@pytest.mark.parametrize("character", ODD)
@pytest.mark.parametrize("spelling", ["/v1/chat{}", "{}/v1", "//a/{}/../b", "http://h{}/v1", "/{}"])
def test_odd_characters(spelling: str, character: str) -> None:
    """A control character, backslash or lone surrogate is refused wherever it stands."""
    for form in (canonical, unresolved):
        with pytest.raises(OddPath, match=f"U\\+{ord(character):04X} at character"):
            form(spelling.format(character))


def test_odd_message_is_plain() -> None:
    """The message quotes nothing that could forge a line of a log."""
    with pytest.raises(OddPath) as caught:
        canonical("/secret\n2026-01-01 forged")
    assert "secret" not in str(caught.value)
    assert str(caught.value).isprintable()


@given(PATHS)
@settings(deadline=None)
def test_idempotent(path: str) -> None:
    """A canonical path is its own form, and has no other's marks."""
    once = canonical(path)
    assert canonical(once) == once
    assert unresolved(once) == once
    assert once == "/" or not once.endswith("/")
    assert not {"", ".", ".."} & set(once[1:].split("/")) or once == "/"


@given(st.lists(st.text("ab.é", min_size=1, max_size=3), max_size=5))
@settings(deadline=None)
def test_plain_paths_are_kept(segments: list[str]) -> None:
    """A path of plain segments is its own form."""
    assume(not {".", ".."} & set(segments))
    path = "/" + "/".join(segments)
    assert canonical(path) == path


def test_unresolved_keeps_dots() -> None:
    """Without resolution, slashes collapse and dot segments stay."""
    assert unresolved("//files/.././health/") == "/files/.././health"
    assert unresolved("http://h/a/..") == "/a/.."


@given(st.text("ab/", max_size=6), st.text("ab/", max_size=4))
@example("/api", "/api")
@example("/apis", "/api")
@example("/api/v1", "/api")
@example("/api/v1", "/api/")
@example("/v1", "")
@settings(deadline=None)
def test_routed_path_is_starlettes(path: str, root_path: str) -> None:
    """What we match is what Starlette's router matches."""
    scope = {"path": path, "root_path": root_path}
    assert routed_path(path, root_path) == get_route_path(scope)
