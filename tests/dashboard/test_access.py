"""Who may see the pages: this machine, or who knows the token; and what a browser may do with them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from dashboard.browsing import Page, Reader
from dashboard.scenes import NOW_US, TOKEN
from meter_mw.dashboard import app
from meter_mw.dashboard.access import COOKIE, COOKIE_S, Access, Door, is_loopback
from meter_mw.model import MeterError

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

PAGES = ("/", "/customers", "/customer?subject=acme", "/features", "/delivery")
NOW_S = NOW_US / 1e6


def locked(shop: Path) -> Reader:
    """Give a reader from elsewhere of pages under a token."""
    pages = app(shop / "meter.yaml", token=TOKEN, clock=lambda: NOW_US * 1000)
    return Reader(pages, client="192.0.2.7", base="https://meters.example")


@pytest.mark.parametrize("path", PAGES)
def test_without_a_token_this_machine_sees_every_page(reader: Reader, path: str) -> None:
    """By any of its own names, with a port or without."""
    assert reader.ask(path).status_code == 200
    for name in ("localhost", "localhost:9310", "127.0.0.1", "[::1]:9310", "LOCALHOST:80"):
        assert reader.ask(path, headers={"Host": name}).status_code == 200


@pytest.mark.parametrize("path", [*PAGES, "/nowhere"])
@pytest.mark.parametrize("client", ["192.0.2.7", "10.0.0.1", "::ffff:192.0.2.7", "testclient"])
def test_without_a_token_nobody_else_sees_any(shop: Path, path: str, client: str) -> None:
    """Whatever name it calls."""
    answer = Reader(app(shop / "meter.yaml"), client=client).ask(path, headers={"Host": "localhost"})
    assert answer.status_code == 403
    assert "nobody but this machine" in answer.text
    assert "acme" not in answer.text


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.example", "[::1", ""]
)
def test_a_name_of_another_site_that_leads_here_is_refused(reader: Reader, host: str) -> None:
    """DNS rebinding: the browser is here, and the page that asks is of somebody else."""
    answer = reader.ask("/", headers={"Host": host})
    assert answer.status_code == 403
    assert "acme" not in answer.text


@pytest.mark.parametrize("field", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "X-Forwarded-Host"])
def test_whom_a_proxy_brings_is_refused_without_a_token(reader: Reader, field: str) -> None:
    """The proxy is at this machine; who asks it may be anywhere."""
    assert reader.ask("/", headers={field: "127.0.0.1"}).status_code == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", PAGES)
def test_nothing_can_be_changed(reader: Reader, path: str, method: str) -> None:
    """What is no GET and no HEAD gets no further, with the token too."""
    answer = reader.ask(path, method)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_with_a_token_other_methods_get_no_further_either(shop: Path) -> None:
    """A form that shows it is all that is taken."""
    reader = locked(shop)
    answer = reader.ask("/", "DELETE", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 405


@pytest.mark.parametrize("path", [*PAGES, "/nowhere"])
def test_who_does_not_know_the_token_is_asked_for_it(shop: Path, path: str) -> None:
    """From this machine too, and by whatever is nearly the token."""
    for reader in (locked(shop), Reader(app(shop / "meter.yaml", token=TOKEN))):
        for shown in (
            None,
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            "Bearer",
            f"Basic {TOKEN}",
            "Bearer é",
        ):
            headers = {} if shown is None else {"Authorization": shown.encode("latin-1")}
            answer = reader.ask(path, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert "acme" not in answer.text
            assert Page(answer.text).all("input") != []


def test_a_bearer_sees_the_pages(shop: Path) -> None:
    """And is given no cookie for it."""
    for scheme in ("Bearer", "bearer"):
        answer = locked(shop).ask("/customers", headers={"Authorization": f"{scheme} {TOKEN}"})
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers


def entered(reader: Reader, path: str = "/", token: str = TOKEN) -> httpx.Response:
    return reader.ask(path, "POST", data={"token": token})


def test_a_browser_gives_the_token_once(shop: Path) -> None:
    """It is sent back to the page that it asked for, with a cookie that scripts and other sites never see."""
    reader = locked(shop)
    answer = entered(reader, "/customer?subject=acme&days=7")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/customer?subject=acme&days=7")
    cookie = answer.headers["Set-Cookie"]
    assert {each.strip() for each in cookie.split(";")[1:]} >= {
        "HttpOnly",
        "SameSite=strict",
        "Secure",
        "Path=/",
    }
    assert TOKEN not in cookie
    assert "acme" in reader.page("/customer?subject=acme").text


def test_a_wrong_token_is_said_to_be_wrong(shop: Path) -> None:
    """And nothing is kept of it."""
    reader = locked(shop)
    answer = entered(reader, token="not-this-one")
    assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
    assert "That is not the token." in answer.text
    assert reader.ask("/").status_code == 401


def test_a_form_is_small(shop: Path) -> None:
    """What is larger than a token is not read to its end."""
    assert locked(shop).ask("/", "POST", content=b"token=" + b"x" * 5000).status_code == 413


@pytest.mark.parametrize("path", ["//evil.example/x", "/\\evil.example", "///evil.example"])
def test_a_form_leads_to_no_other_site(shop: Path, path: str) -> None:
    """Two slashes at the beginning would name one."""
    answer = entered(locked(shop), f"https://meters.example{path}")
    assert re.match(r"/[^/\\]", answer.headers["Location"])


def test_a_cookie_holds_for_a_while_and_for_one_token(shop: Path) -> None:
    """Who changes the token has everybody asked again."""
    door = Door(TOKEN)
    cookie = door.cookie(NOW_S)
    assert door.asked("192.0.2.7", {}, cookie, NOW_S + COOKIE_S - 1) is Access.GRANTED
    assert door.asked("192.0.2.7", {}, cookie, NOW_S + COOKIE_S) is Access.UNKNOWN
    assert Door(TOKEN + "2").asked("192.0.2.7", {}, cookie, NOW_S) is Access.UNKNOWN
    until, _, seal = cookie.partition(".")
    longer = f"{int(until) + 1}.{seal}"
    assert door.asked("192.0.2.7", {}, longer, NOW_S) is Access.UNKNOWN


@given(st.text(max_size=100) | st.from_regex(r"\d{1,12}\.[0-9a-f]{64}", fullmatch=True))
def test_no_cookie_can_be_made_up(text: str) -> None:
    """Whatever it says."""
    assert Door(TOKEN).asked("127.0.0.1", {}, text, NOW_S) is Access.UNKNOWN
    reader_of_none = Door().asked("192.0.2.7", {"host": "localhost"}, text, NOW_S)
    assert reader_of_none is Access.DISTANT


@pytest.mark.parametrize(
    "token", ["", "short", "fifteen-letters", "a-token-with-an-é-in-it", "a token\nof two lines"]
)
def test_a_token_that_can_be_guessed_or_not_be_sent_is_refused(token: str) -> None:
    """And is not in the words that say so."""
    with pytest.raises(MeterError, match=r"expected 16 or more") as raised:
        Door(token)
    assert not token or token not in str(raised.value)
    assert TOKEN not in repr(Door(TOKEN))


def test_the_token_may_stand_in_the_environment(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable is none."""
    monkeypatch.setenv("METER_DASHBOARD_TOKEN", TOKEN)
    assert Reader(app(shop / "meter.yaml")).ask("/").status_code == 401
    monkeypatch.setenv("METER_DASHBOARD_TOKEN", "")
    assert Reader(app(shop / "meter.yaml")).ask("/").status_code == 200


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_addresses_of_this_machine_alone(address: str) -> None:
    """Nobody else can reach them."""
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "meters.example", ""])
def test_addresses_that_lead_here_from_elsewhere(address: str) -> None:
    """All addresses at once are such a one."""
    assert not is_loopback(address)


@pytest.mark.parametrize("path", [*PAGES, "/nowhere"])
def test_a_page_may_load_and_run_nothing(reader: Reader, path: str) -> None:
    """Its one style sheet is in it, under a nonce that no other page has."""
    answers = [reader.ask(path) for _ in range(2)]
    nonces = set()
    for answer in answers:
        fields, page = answer.headers, Page(answer.text)
        policy = dict(each.strip().split(" ", 1) for each in fields["Content-Security-Policy"].split(";"))
        nonce = re.fullmatch(r"'nonce-([\w-]{16,})'", policy.pop("style-src"))
        assert nonce is not None
        nonces.add(nonce[1])
        assert [each["nonce"] for each in page.all("style")] == [nonce[1]]
        none = dict.fromkeys(("default-src", "base-uri", "frame-ancestors"), "'none'")
        assert policy == {**none, "form-action": "'self'"}
        assert fields["Referrer-Policy"] == "no-referrer"
        assert fields["X-Content-Type-Options"] == "nosniff"
        assert fields["Cache-Control"] == "no-store"
        assert not any("style" in attributes for _, attributes in page.tags)
        assert {"script", "link", "img", "iframe", "object"}.isdisjoint(tag for tag, _ in page.tags)
        assert "//" not in re.sub(r"<[^>]*>", "", page.html.partition("</style>")[2]).replace("script>&", "")
    assert len(nonces) == 2


def test_mounted_in_another_app_it_keeps_to_its_place(shop: Path) -> None:
    """Links and the cookie stay under the prefix."""
    pages = app(shop / "meter.yaml", token=TOKEN, clock=lambda: NOW_US * 1000)
    shop_app = Starlette()
    shop_app.mount("/meter", pages)
    reader = Reader(shop_app, client="192.0.2.7", base="http://shop.example")
    answer = entered(reader, "/meter/customers?days=7")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/meter/customers?days=7")
    assert "Path=/meter" in answer.headers["Set-Cookie"]
    assert "Secure" not in answer.headers["Set-Cookie"]
    page = reader.page("/meter/customers?days=7")
    assert all(each.startswith(("/meter/", "#")) for each in page.links)
    assert [each["action"] for each in page.all("form")] == ["/meter/customers"]
    assert COOKIE in reader.cookies


def test_a_head_has_no_body(reader: Reader) -> None:
    """And the fields of a GET."""
    answer = reader.ask("/", "HEAD")
    assert (answer.status_code, answer.content) == (200, b"")
    assert "Content-Security-Policy" in answer.headers
