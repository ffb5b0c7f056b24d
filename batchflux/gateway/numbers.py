"""What a gateway tells Prometheus of itself, beside the numbers of its folder."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

from batchflux.ledger.tables import currency
from batchflux.monitoring.exposition import Family, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web

    from batchflux.gateway.desk import Desk

_ELSEWHERE = "other"  # an address that there is not: whoever asks for many makes no more than one number


class Numbers:
    """Counts answers since the gateway began, by address and status, and asks the desk for the rest."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._answers: Counter[tuple[str, str]] = Counter()

    async def note(self, request: web.Request, response: web.StreamResponse) -> None:
        """Count an answer as its head leaves: a signal of aiohttp's."""
        resource = request.match_info.route.resource
        self._answers[resource.canonical if resource is not None else _ELSEWHERE, str(response.status)] += 1

    def text(self) -> str:
        """Return the numbers as Prometheus reads them."""
        return text_of(self._families())

    def _families(self) -> Iterator[Family]:
        desk = self._desk
        answers = _family("answers_total", "counter", "Answers, by the address asked and the status.")
        for (endpoint, status), count in sorted(self._answers.items()):
            answers.add({"endpoint": endpoint, "status": status}, count)
        spent = _family("client_spent", "gauge", "What each client spent, or possibly did, in this folder.")
        for name, amount in sorted(desk.spent().items()):
            spent.add({"client": name, "currency": desk.currency}, currency(amount))
        joined = _family("joined_total", "counter", "Orders that joined a call, for which nothing was bought.")
        calls = _family("calls", "gauge", "Calls that are being made.")
        waiting = _family("waiting", "gauge", "Clients that wait for one of them.")
        for family, value in ((joined, desk.joined), (calls, desk.making), (waiting, desk.waiting)):
            family.add({}, value)
        yield from (answers, joined, calls, waiting, spent)


def _family(name: str, kind: Literal["gauge", "counter"], says: str) -> Family:
    return Family(name=f"batchflux_gateway_{name}", kind=kind, says=says)
