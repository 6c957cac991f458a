"""What the pages show: the figures of the ledger, to be seen, heard and walked through by keys."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from dashboard.browsing import Page
from dashboard.scenes import NASTY, NOW_US, fill, written
from meter_mw.charging import charges_of
from meter_mw.dashboard import app
from meter_mw.journal.parked import park
from meter_mw.ledger.records import DAY_US
from meter_mw.meter import open_stores
from meter_mw.model import MeterError
from meter_mw.policy.loader import load
from meter_mw.policy.policy import NO_ROUTE
from meter_mw.rids import new_rid
from meter_mw.sinks.sql import SqlSink
from meter_mw.stores.port import Admit
from support.ledgers import usage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dashboard.browsing import Reader

    Opens = Callable[..., Reader]

PAGES = (
    "/",
    "/customers",
    "/customer?subject=acme",
    "/customer?subject=globex",
    "/customer?subject=late",
    "/customer?subject=staff",
    f"/customer?subject={quote(NASTY)}",
    "/features",
    "/delivery",
)


def asked(shop: Path, query: str) -> list[tuple[int, ...]]:
    """Ask the ledger itself."""
    with sqlite3.connect(shop / "var" / "ledger.db") as connection:
        found = connection.execute(query).fetchall()
    connection.close()
    return found


SINCE_US = NOW_US - NOW_US % DAY_US - 29 * DAY_US


def test_the_first_page_adds_up_to_the_events(shop: Path, reader: Reader) -> None:
    """Of thirty days, by today's clock."""
    count = f"SELECT count(*), count(DISTINCT subject) FROM meter_events WHERE time_us >= {SINCE_US}"
    ((answers, customers),) = asked(shop, count)
    text = reader.page("/").text
    assert f"Requests {answers:,} Customers {customers}" in text
    assert "umbrella Went silent" in text
    assert "globex Usage jumped" in text
    table = reader.page("/").html.partition("by day</caption>")[2].partition("</table>")[0]
    assert answers == sum(int(each.replace(",", "")) for each in re.findall(r'"number">([\d,]+)<', table))


@pytest.mark.parametrize("days", [7, 30, 90])
def test_a_reader_chooses_how_many_days(reader: Reader, days: int) -> None:
    """And the choice goes along to the next page."""
    page = reader.page(f"/?days={days}")
    assert f"Of the last {days} days" in page.text
    assert f"/customer?subject=acme&days={days}" in page.links
    chosen = [each["href"] for each in page.all("a") if each.get("aria-current") == "true"]
    assert chosen == [f"/?days={days}"]


@pytest.mark.parametrize("days", ["", "0", "-1", "31", "abc", "9" * 400])
def test_days_that_are_no_choice_are_the_usual_ones(reader: Reader, days: str) -> None:
    """Nobody has the ledger read for a thousand years."""
    assert "Of the last 30 days" in reader.page(f"/?days={days}").text


def test_customers_are_found_and_sorted(reader: Reader) -> None:
    """Those who are listed and have used nothing are there too."""

    def names(query: str) -> list[str]:
        page = reader.page(f"/customers?{query}")
        return [each.partition("subject=")[2] for each in page.links if "/customer?" in each]

    by_requests = [each.partition("&")[0] for each in names("")]
    assert by_requests[:3] == ["acme", "globex", "initech"]
    assert by_requests[-2:] == ["late", "staff"]
    assert names("sort=limited")[0].startswith("hooli")
    assert [each.partition("&")[0] for each in names("q=LO")] == ["globex"]
    assert names("q=no-such") == []
    assert "9 customers" in reader.page("/customers?sort=nonsense&sheet=77").text


def test_a_customer_has_limits_a_bill_and_events(shop: Path, reader: Reader) -> None:
    """Without a store, caps are as the ledger counts them."""
    month = "SELECT sum(requests) FROM meter_events WHERE subject = 'acme' AND time_us >= 1793491200000000"
    ((used,),) = asked(shop, month)
    text = reader.page("/customer?subject=acme").text
    assert f"requests-month 1,200 per month {used}" in text
    assert f"{1200 - used} of 1,200 left" in text
    assert "At this pace" in text
    assert "base fee 49.00 USD 49.00" in text
    assert "So far" in text
    assert "Expected" in text
    assert "account acme-group" in text
    newest = "SELECT id FROM meter_events WHERE subject = 'acme' ORDER BY time_us DESC, id DESC LIMIT 50"
    for (each,) in asked(shop, newest):
        assert f" {each}" in text


def test_a_cap_that_will_be_used_up_says_when(reader: Reader) -> None:
    """Globex has jumped."""
    text = reader.page("/customer?subject=globex").text
    assert re.search(r"At this pace it is used up on 2026-11-\d\d", text)


def test_events_go_back_sheet_by_sheet(shop: Path, reader: Reader) -> None:
    """Each event once, down to the first."""
    ((count,),) = asked(shop, "SELECT count(*) FROM meter_events WHERE subject = 'stark'")
    path, seen = "/customer?subject=stark", list[str]()
    while path:
        page = reader.page(path)
        seen += re.findall(r"event-\d+", page.text)
        path = next((each for each in page.links if "before=" in each), "")
    assert len(seen) == len(set(seen)) == count > 50


def test_terms_without_usage_are_shown(reader: Reader) -> None:
    """Who is exempt, and whose first period is still to come."""
    assert "It is under no limit." in reader.page("/customer?subject=staff").text
    assert "The first period begins on 2026-12-24." in reader.page("/customer?subject=late").text
    assert "The ledger has no events of it." in reader.page("/customer?subject=late").text


def test_nobody_is_made_up(reader: Reader) -> None:
    """Who is neither listed nor in the ledger has no page."""
    for path in ("/customer", "/customer?subject=no-such", "/customer?subject=<b>x</b>", "/nowhere"):
        answer = reader.ask(path)
        assert answer.status_code == 404
        assert "<b>x" not in answer.text


def test_routes_show_reach_speed_and_trouble(shop: Path, reader: Reader) -> None:
    """An exempt route is not called unused."""
    text = reader.page("/features").text
    ((searches,),) = asked(
        shop, f"SELECT count(*) FROM meter_events WHERE route = 'search' AND time_us >= {SINCE_US}"
    )
    assert f"search {searches:,} 7" in text
    assert re.search(r"hooli search \d+ [\d.]+ %", text)
    assert "Routes of the policy that nobody was answered on: never-used." in text


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Give a folder of the test's own, with a policy and no ledger."""
    (tmp_path / "var").mkdir()
    written(tmp_path)
    return tmp_path


def test_limits_are_those_of_the_store_where_it_answers(tmp_path: Path, redis_url: str, opens: Opens) -> None:
    """Rates and shared caps too; looking takes nothing, and without the store there are still pages."""
    fill(tmp_path)
    rules = load(written(tmp_path, redis_url))
    store, _ = open_stores(rules.store)
    caller = next(each for each in map(rules.listed, rules.keys) if each and each.subject == "acme")
    now_us = store.now_us()
    charges = charges_of(rules, rules.lines(NO_ROUTE, caller, now_us), caller, now_us)
    for _ in range(3):
        rid = new_rid(store.now_us())
        store.admit(Admit(rid, caller.tag, now_us + 60_000_000, charges, 60_000_000), patience_us=5_000_000)
    pages = opens(rules, clock=time.time_ns)
    for _ in range(2):
        text = pages.page("/customer?subject=acme").text
        assert "As the store has them now" in text
        assert "requests-month 1,200 per month 3 " in text
        assert "account 5,000 per month 3 " in text
        assert "for-a-key" not in text
    store.close()


def test_a_store_that_is_away_is_no_reason_to_show_nothing(tmp_path: Path, opens: Opens) -> None:
    """The ledger tells what it can."""
    fill(tmp_path)
    pages = opens(written(tmp_path, "redis://127.0.0.1:1/0"))
    assert "As far as the ledger tells" in pages.page("/customer?subject=acme").text


def test_to_look_makes_no_ledger(own: Path, opens: Opens) -> None:
    """Where there is none yet, that is said."""
    reader = opens(own / "meter.yaml")
    for path in ("/", "/customers", "/customer?subject=acme", "/features"):
        answer = reader.ask(path)
        assert answer.status_code == 503
        assert "there is no ledger yet" in answer.text
    assert reader.ask("/delivery").status_code == 200
    assert not (own / "var" / "ledger.db").exists()


def test_an_empty_ledger_has_pages(own: Path, opens: Opens) -> None:
    """With nothing on them."""
    sqlite3.connect(own / "var" / "ledger.db").close()
    reader = opens(own / "meter.yaml")
    assert "Nothing was answered in these days." in reader.page("/").text
    assert "late" in reader.page("/customers").text
    assert "Nothing was answered" in reader.page("/features").text
    assert "The ledger has no events of it." in reader.page("/customer?subject=late").text


def test_a_ledger_that_does_not_answer_is_told_of(own: Path, opens: Opens) -> None:
    """In the words of the database, and with none of the data."""
    (own / "var" / "ledger.db").write_bytes(b"this is no database" * 100)
    answer = opens(own / "meter.yaml").ask("/")
    assert answer.status_code == 503
    assert "The ledger does not answer" in answer.text
    assert "SQLITE_NOTADB" in answer.text


def test_delivery_shows_what_is_parked(own: Path, opens: Opens) -> None:
    """Newest first, with the reason, and never what is in the event."""
    park(own / "var", "webhook", "400 <bad> request", b'{"id": "secret-of-the-event"}')
    text = opens(own / "meter.yaml").page("/delivery").text
    assert "1 parked." in text
    assert "webhook 0 1" in text
    assert "400 <bad> request" in text
    assert "secret-of-the-event" not in text


def test_a_policy_without_a_ledger_is_refused(tmp_path: Path) -> None:
    """It says what is missing, or that the address cannot be."""
    policy = {"version": 1, "service": "x", "events": {"journal": str(tmp_path), "sinks": ["stdout"]}}
    policy["identity"] = {"secret": "${METER_KEY_SECRET}"}
    with pytest.raises(MeterError, match=r"found no sink of kind sql"):
        app(policy)
    with pytest.raises(MeterError, match=r"expected sqlite, postgresql"):
        app(policy, ledger="mysql://x/y")


@pytest.mark.parametrize("path", PAGES)
def test_every_page_can_be_heard_and_walked_through(reader: Reader, path: str) -> None:
    """Landmarks, one heading of the first level and no level left out, names for all that needs one."""
    page = reader.page(path)
    kinds = [tag for tag, _ in page.tags]
    assert page.all("html") == [{"lang": "en"}]
    assert (kinds.count("main"), kinds.count("h1"), page.html.count("<title>", 0, 500)) == (1, 1, 1)
    assert page.links[0] == "#main"
    levels = [int(tag[1]) for tag in kinds if re.fullmatch(r"h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(each.get("aria-label") for each in page.all("nav"))
    assert kinds.count("table") == kinds.count("caption")
    assert all(each.get("scope") in ("col", "row") for each in page.all("th"))
    pictures = [each for each in page.all("svg") if "aria-hidden" not in each]
    assert all(each["role"] == "img" and each["aria-label"] for each in pictures)
    assert all(each.get("aria-label") for each in page.all("meter"))
    fields = [each["id"] for each in page.all("input") + page.all("select") if each.get("type") != "hidden"]
    assert sorted(fields) == sorted(each["for"] for each in page.all("label"))
    ids = [each["id"] for _, each in page.tags if "id" in each]
    assert len(ids) == len(set(ids))
    scrolled = [each for each in page.all("div") if each.get("class") == "scroll"]
    assert all(each["tabindex"] == "0" and each["aria-label"] for each in scrolled)


def test_every_link_leads_to_a_page(reader: Reader) -> None:
    """From the first page on, wherever one comes to; names that are attempts are names."""
    seen, waiting = set[str](), ["/"]
    while waiting and len(seen) < 30:
        path = waiting.pop(0)
        page = reader.page(path)
        seen.add(path)
        assert "<script" not in page.html
        for link in page.links:
            bare = link.partition("#")[0]
            if bare and bare not in seen and bare not in waiting:
                waiting.append(bare)
    assert {"/features", "/delivery"} <= seen
    assert "alert('x')" in reader.page(f"/customer?subject={quote(NASTY)}").text


def test_no_key_and_no_secret_is_on_a_page(reader: Reader) -> None:
    """Nor the address of the store."""
    for path in PAGES:
        html = reader.page(path).html
        assert "sk_" not in html
        assert "a-secret-of-some-length" not in html


def test_a_hostile_service_or_route_is_written_as_it_is(tmp_path: Path, opens: Opens) -> None:
    """All that comes from a client, in each place where it may stand."""
    (tmp_path / "var").mkdir()
    rules = load(written(tmp_path))
    sink = SqlSink(f"sqlite:///{tmp_path / 'var' / 'ledger.db'}", rules.source)
    nasty = "\"'><svg onload=x>{{7*7}}"
    fields = {"route": nasty, "method": nasty, "plan": nasty, "key": nasty, "account": nasty}
    events = [
        usage(n, subject=nasty, source=rules.source, time_us=NOW_US - n * DAY_US, status=500, **fields)
        for n in range(1, 40)
    ]
    odd = json.loads(events[0]) | {"id": nasty, "type": nasty}
    sink.send([*events, json.dumps(odd).encode()])
    sink.close()
    reader = opens(rules)
    for path in (
        "/",
        "/customers",
        f"/customers?q={quote(nasty)}",
        f"/customer?subject={quote(nasty)}",
        "/features",
    ):
        page = reader.page(path)
        assert "<svg onload" not in page.html
        assert not any("onload" in attributes for _, attributes in page.tags)
        assert "49" not in re.findall(r"svg onload=x>(\w*)", page.text)
        assert nasty in Page(page.html).words


def test_what_was_purged_is_left_out(tmp_path: Path, opens: Opens) -> None:
    """Days that the ledger keeps no more are no days without usage; a bill that needs them says why not."""
    fill(tmp_path)
    since_us = NOW_US - NOW_US % DAY_US - 9 * DAY_US
    connection = sqlite3.connect(tmp_path / "var" / "ledger.db")
    connection.execute(f"UPDATE meter_retained SET since_us = {since_us}")
    connection.commit()
    connection.close()
    reader = opens(written(tmp_path))
    for path in ("/", "/customers", "/features"):
        assert "f the last 10 days" in reader.page(path).text
    text = reader.page("/customer?subject=acme").text
    assert re.search(r"The bill to come It cannot be told: found 2026-\S+; expected 2026-11-12", text)
    assert "What is left of caps" not in text
