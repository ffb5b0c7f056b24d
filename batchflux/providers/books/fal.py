"""fal's books: billing events, which an admin's key may see; else the requests themselves, and the price of a picture.

Facts: https://fal.ai/docs/platform-apis/v1/models/billing-events, read in November 2026.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from batchflux.charges.books import Charge, Statement
from batchflux.providers.answers.documents import asking
from batchflux.providers.answers.listed import moment_in, utc
from batchflux.providers.answers.untrusted import told_text
from batchflux.providers.books.base import Books, amount_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchflux.charges.books import Period
    from batchflux.models import HttpRequest, Reply
    from batchflux.providers.answers.documents import DocumentReader

PLACE = "https://api.fal.ai/v1/models"
LIST = f"{PLACE}/requests/by-endpoint"
_LIMIT = ("limit", "100")


class BillingEvents(Books):
    """`endpoints` returns all endpoints at which jobs of a model may have been made; a key is not told what is left."""

    def __init__(self, endpoints: Callable[[str], tuple[str, ...]]) -> None:
        self._endpoints = endpoints

    def statements(self, period: Period) -> tuple[HttpRequest, ...]:
        """Return what asks for the billing events, and for the rest where they may not be seen."""
        times = {"start": utc(period.since), "end": utc(period.until + 1)}
        endpoints = [("endpoint_id", endpoint) for model in period.models for endpoint in self._endpoints(model)]
        requests = f"{LIST}?{urlencode([*endpoints, *times.items(), _LIMIT])}"

        def priced(answer: DocumentReader) -> Reply:
            prices = _prices(answer) if answer.ok else {}
            return Statement(charges=(), more=asking(requests, partial(_requests, requests, prices)))

        events = f"{PLACE}/billing-events?{urlencode([*times.items(), _LIMIT])}"
        instead = asking(f"{PLACE}/pricing?{urlencode(endpoints)}", priced)
        return (asking(events, partial(_events, events, instead)),)

    def balance(self, period: Period) -> HttpRequest | None:
        """Return None."""
        return None


def _events(place: str, instead: HttpRequest, answer: DocumentReader) -> Reply:
    """Return what was billed, each with its cost; where the key may not see it, `instead` is asked."""
    if answer.status in (401, 403):
        return Statement(charges=(), more=instead)
    lines = _lines(answer, "billing_events")
    charges = [
        Charge(
            receipt=told_text(line.get("request_id")),
            at=moment_in(line.get("timestamp")),
            amount=_cost_of(line),
            model=told_text(line.get("endpoint_id")),
        )
        for line in lines
    ]
    return Statement(charges=tuple(charges), more=_next(place, answer, partial(_events, place, instead)))


def _cost_of(line: Mapping[str, Any]) -> Decimal | None:
    nanos = amount_in(line.get("cost_estimate_nano_usd"))
    return amount_in(line.get("cost_total")) if nanos is None else nanos / 10**9


def _requests(place: str, prices: Mapping[str, tuple[Decimal, str]], answer: DocumentReader) -> Reply:
    """Return the requests that were made; what one cost is known where its endpoint is paid by the picture."""
    charges = []
    for line in _lines(answer, "items"):
        endpoint, status = told_text(line.get("endpoint_id")), line.get("status_code")
        price, currency = prices.get(endpoint or "", (None, "USD"))
        failed = isinstance(status, int) and status >= 500  # noqa: PLR2004  HTTP: the server's own, never billed
        charge = Charge(receipt=told_text(line.get("request_id")), at=moment_in(line.get("sent_at")), model=endpoint)
        charges.append(replace(charge, amount=Decimal(0) if failed else price, currency=currency))
    return Statement(charges=tuple(charges), more=_next(place, answer, partial(_requests, place, prices)))


def _prices(answer: DocumentReader) -> dict[str, tuple[Decimal, str]]:
    """Return the price of a picture of each endpoint that is paid so."""
    found = {}
    for line in _lines(answer, "prices"):
        price, endpoint = amount_in(line.get("unit_price")), told_text(line.get("endpoint_id"))
        if price is not None and endpoint and told_text(line.get("unit")) in ("image", "images"):
            found[endpoint] = price, told_text(line.get("currency")) or "USD"
    return found


def _lines(answer: DocumentReader, key: str) -> list[dict[str, Any]]:
    found = answer.document.get(key)
    if not answer.ok or not answer.complete or not isinstance(found, list):
        raise answer.failure()
    return [line for line in found if isinstance(line, dict)]


def _next(place: str, answer: DocumentReader, read: Callable[[DocumentReader], Reply]) -> HttpRequest | None:
    cursor = answer.name("next_cursor")
    return asking(f"{place}&{urlencode({'cursor': cursor})}", read) if cursor else None
