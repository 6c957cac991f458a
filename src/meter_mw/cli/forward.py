"""`meter-mw forward`: bring events to the sinks from a process beside the app, or far from it.

It forwards what living processes write, where they leave that to it (`events.forwarder: daemon`), and
what dead ones left; with `--from redis_stream`, what apps whose disks vanish brought to that sink.
SIGTERM or SIGINT delivers what is there within a grace, and ends; a second one ends at once. Whatever
ends it, nothing is lost: the next one goes on where this one stood.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from meter_mw.cli import policies
from meter_mw.cli.health import Bounds, Health, HealthServer
from meter_mw.cli.lines import log_to_stderr
from meter_mw.cli.origin import STREAM, origin_of, stream_of
from meter_mw.cli.policies import refuse
from meter_mw.cli.who import refuse_strangers
from meter_mw.journal.convoy import Convoy
from meter_mw.journal.estates import estate_paths
from meter_mw.journal.forwarder import names_of
from meter_mw.journal.holdings import Holdings
from meter_mw.journal.journal import Journal
from meter_mw.journal.space import Space
from meter_mw.meter import open_sinks
from meter_mw.policy.delivery import Forwarding
from meter_mw.policy.problems import PolicyError, quoted
from meter_mw.policy.units import NotationError, duration_us

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meter_mw.journal.supply import Stock
    from meter_mw.policy.delivery import SinkRule
    from meter_mw.policy.policy import Policy
    from meter_mw.sinks.base import Sink

    Command: TypeAlias = Callable[..., None]

_log = logging.getLogger("meter_mw.forward")

POLL = 0.1
"""Seconds between two looks for events of other processes."""

LOOK = 1.0
"""Seconds between two looks for other processes."""


def _seconds(_: click.Context, param: click.Parameter, text: str) -> float:
    """Read a length of time as the policy writes it."""
    try:
        return duration_us(text) / 1_000_000
    except NotationError:
        what = f"found {quoted(text)}; expected a time such as 500 ms, 30 s or 5 minutes"
        raise click.BadParameter(what, param=param) from None


def _address(_: click.Context, param: click.Parameter, text: str | None) -> tuple[str, int] | None:
    """Read an address to listen at: `127.0.0.1:9300`, `[::1]:9300`."""
    if text is None:
        return None
    host, _colon, port = text.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and int(port[:6]) < 1 << 16):
        what = f"found {quoted(text)}; expected an address such as 127.0.0.1:9300"
        raise click.BadParameter(what, param=param)
    return host.removeprefix("[").removesuffix("]"), int(port)


def _option(name: str, default: object, words: str, **more: Any) -> Callable[[Command], Command]:
    return click.option(name, default=default, show_default=default is not None, help=words, **more)


@click.command()
@policies.option
@click.option(
    "--from",
    "origin",
    type=click.Choice([STREAM]),
    help="Take events from the policy's one sink of this kind.",
)
@click.option("--once", is_flag=True, help="Deliver what is there, and end; 1 if something stays.")
@_option("--grace", "30 s", "The time for what is there, at the end.", callback=_seconds, metavar="TIME")
@_option("--health", None, "Serve /healthz, /readyz and /status.", callback=_address, metavar="HOST:PORT")
@_option("--max-lag", 100_000, "A sink with more events to come is not ready.", metavar="EVENTS")
@_option("--max-age", "5 minutes", "Nor is one with an older event.", callback=_seconds, metavar="TIME")
def forward(
    policy: str,
    *,
    origin: str | None,
    once: bool,
    grace: float,
    health: tuple[str, int] | None,
    max_lag: int,
    max_age: float,
) -> None:
    """Forward usage events to the sinks of the policy, beside the app.

    With --once it ends when all is delivered, or when nothing was for as long as --grace.
    """
    rules = policies.loaded(policy)
    stream = origin_of(rules.events) if origin else None
    sinks = _sinks(rules, stream)
    stock = stream_of(stream, rules.events, names_of(sinks)) if stream else _stock(rules, sinks)
    convoy = Convoy(stock, sinks, rules.events.journal, idle=POLL)
    server = _served(health, Health(convoy, Bounds(max_lag, max_age), rules.events.journal))
    log_to_stderr()
    if stream is None and rules.events.forwarder is Forwarding.THREAD:
        _log.info("the policy has the apps forward (events.forwarder: thread); only what they leave is taken")
    asked = _await_signals()
    if not convoy.start():
        refuse("no thread can be started, so nothing is forwarded")
    _notify(b"READY=1")
    _log.info("forwarding to %s", ", ".join(sink.name for sink in sinks))
    try:
        status = _deliver_once(convoy, asked, grace) if once else _serve(asked)
        _notify(b"STOPPING=1")
        _log.info("ending; what is there is delivered within %g s", grace)
        delivered = status == 0 if once else convoy.flush(grace)
        convoy.stop()
        ended = convoy.ended(grace)
    finally:
        if server is not None:
            server.shutdown()
    if ended:
        stock.release()
    _log.info("all is delivered" if delivered else "what was not delivered waits for the next one")
    sys.exit(status)


def _sinks(rules: Policy, origin: SinkRule | None) -> list[Sink]:
    try:
        opened = zip(open_sinks(rules), rules.events.sinks, strict=True)
        sinks = [sink for sink, rule in opened if rule is not origin]
        names_of(sinks)
    except PolicyError as error:
        refuse(*policies.in_file(error.problems, "the policy"))
    except ValueError as error:
        refuse(f"events.sinks: {error}")
    return sinks


def _stock(rules: Policy, sinks: Sequence[Sink]) -> Stock:
    """Give what is to be forwarded: what the journal's directory holds."""
    events = rules.events
    refuse_strangers(events.journal)
    try:
        estate_paths(events.journal)
    except OSError as error:
        refuse(f"{events.journal}: {error.strerror}")
    space = Space(events.journal, events.max_bytes, time.monotonic)

    def is_pressed() -> bool:
        space.look()
        return space.is_pressed

    return Holdings(
        Journal(events.journal, rules.source, sealing=policies.sealer(rules)),
        names_of(sinks),
        clock=time.monotonic,
        adopt_every=LOOK,
        retention=events.retention_us / 1_000_000,
        living=True,
        pressed=is_pressed,
    )


def _served(address: tuple[str, int] | None, health: Health) -> HealthServer | None:
    if address is None:
        return None
    try:
        server = HealthServer(address, health)
    except OSError as error:
        refuse(f"--health: {address[0]}:{address[1]}: {error.strerror}")
    server.start()
    return server


def _await_signals() -> threading.Event:
    """Give an event that the first SIGTERM or SIGINT sets; a second one ends the process at once."""
    asked = threading.Event()

    def end(number: int, _: object) -> None:
        if asked.is_set():
            os._exit(128 + number)
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    return asked


def _serve(asked: threading.Event) -> int:
    asked.wait()
    return 0


def _deliver_once(convoy: Convoy, asked: threading.Event, grace: float) -> int:
    """Deliver what is there now; return 1 when nothing went on for the grace, or the end was asked for."""
    arrived = convoy.due()
    convoy.hurry()
    done, since = -1, time.monotonic()
    while not arrived(POLL):
        now = sum(report.done for report in convoy.reports())
        if now != done:
            done, since = now, time.monotonic()
        if asked.is_set() or time.monotonic() - since > grace:
            return 1
    return 0


def _notify(state: bytes) -> None:
    """Tell systemd, where it asked to be told (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # A leading @ stands for the abstract namespace.
    name = "\0" + address[1:] if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(name)
        sender.send(state)
