"""The dashboard as an ASGI app, by itself or mounted in another: its pages by their paths."""

from __future__ import annotations

import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from meter_mw.dashboard.access import Door
from meter_mw.dashboard.crowds import SORTS, crowd
from meter_mw.dashboard.deliveries import delivery
from meter_mw.dashboard.features import features
from meter_mw.dashboard.guarding import Guard
from meter_mw.dashboard.overviews import overview
from meter_mw.dashboard.periods import CHOICES, days_asked
from meter_mw.dashboard.rendering import Renderer
from meter_mw.dashboard.singles import single
from meter_mw.dashboard.sources import NoLedger, Sources
from meter_mw.ledger.database import WrongVersion
from meter_mw.ledger.faults import fault_of
from meter_mw.ledger.retention import Purged
from meter_mw.policy.loader import load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response

    from meter_mw.policy.policy import Policy

TOKEN = "METER_DASHBOARD_TOKEN"  # noqa: S105 - the name of a variable
"""The environment variable that may hold the token."""

_LONGEST_NUMBER = 16


def app(
    policy: str | Path | Mapping[str, object] | Policy,
    *,
    ledger: str | None = None,
    token: str | None = None,
    clock: Callable[[], int] = time.time_ns,
) -> Starlette:
    """Make the dashboard of a policy, from the ledger of its first sink of kind sql or from another.

    Without a token, here or in METER_DASHBOARD_TOKEN, it answers this machine alone. Raises PolicyError,
    and MeterError for a ledger or a token that cannot be.
    """
    rules = load(policy)
    door = Door(token or os.environ.get(TOKEN) or None)
    renderer = Renderer(rules.service)
    pages = _Pages(Sources(rules, ledger, clock), renderer)

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        yield
        pages.sources.close()

    return Starlette(
        routes=[
            Route("/", pages.overview),
            Route("/customers", pages.customers),
            Route("/customer", pages.customer),
            Route("/features", pages.features),
            Route("/delivery", pages.delivery),
        ],
        middleware=[Middleware(Guard, door=door, renderer=renderer, clock=clock)],
        exception_handlers={
            HTTPException: pages.missing,
            NoLedger: pages.no_ledger,
            Purged: pages.failed,
            WrongVersion: pages.failed,
            SQLAlchemyError: pages.failed,
        },
        lifespan=life,
    )


class _Pages:
    """Answers by page; each is asked in a thread of its own, as the ledger blocks."""

    def __init__(self, sources: Sources, renderer: Renderer) -> None:
        self.sources = sources
        self._renderer = renderer

    def overview(self, request: Request) -> Response:
        """Answer with the first page."""
        told = overview(self.sources, _days(request))
        return self._page(request, "overview", it=told)

    def customers(self, request: Request) -> Response:
        """Answer with a sheet of customers."""
        asked = request.query_params
        sort = asked.get("sort", "requests")
        sort = sort if sort in SORTS else "requests"
        sheet = _whole(asked.get("sheet")) or 1
        told = crowd(self.sources, _days(request), asked.get("q", "").strip(), sort, sheet)
        return self._page(request, "customers", it=told, sorts=SORTS)

    def customer(self, request: Request) -> Response:
        """Answer with the page of one customer; 404 where nobody knows it."""
        asked = request.query_params
        subject = asked.get("subject", "")
        before_us = _whole(asked.get("before"))
        told = single(self.sources, subject, _days(request), before_us)
        if told is None:
            why = f"Found {subject!r}; expected a customer that the policy lists or that the ledger has."
            return self._renderer.page(request, "fault", 404, title="No such customer", why=why)
        return self._page(request, "customer", it=told, subject=subject, before_us=before_us)

    def features(self, request: Request) -> Response:
        """Answer with the features' page."""
        return self._page(request, "features", it=features(self.sources, _days(request)))

    def delivery(self, request: Request) -> Response:
        """Answer with the delivery page."""
        return self._page(request, "delivery", it=delivery(self.sources))

    def missing(self, request: Request, error: Exception) -> Response:
        """Say that there is no such page."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        why = f"Found {request.url.path}; expected one of the pages above."
        return self._renderer.page(request, "fault", status, title="No such page", why=why)

    def no_ledger(self, request: Request, error: Exception) -> Response:
        """Say that there is nothing to show yet."""
        return self._renderer.page(request, "fault", 503, title="Nothing yet", why=f"{error}.")

    def failed(self, request: Request, error: Exception) -> Response:
        """Say what the ledger says, without the data of any event."""
        why = fault_of(error)[1] if isinstance(error, SQLAlchemyError) else str(error)
        return self._renderer.page(request, "fault", 503, title="The ledger does not answer", why=why)

    def _page(self, request: Request, name: str, **told: Any) -> Response:
        many = _days(request)
        return self._renderer.page(
            request, name, many=many, choices=CHOICES, now_us=self.sources.now_us, **told
        )


def _days(request: Request) -> int:
    return days_asked(request.query_params.get("days"))


def _whole(text: str | None) -> int | None:
    """Give a whole number that a reader asks by; None where it is none."""
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > _LONGEST_NUMBER:
        return None
    return int(text)
