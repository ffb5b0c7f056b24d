"""Answer what was billed, as the APIs do whose books can be asked for; BFL's credits are in `queues.bfl`.

A relay tells what all its keys have used, in cents; OpenRouter one generation, by its id; fal its prices, and to a key
of an admin (one that begins with `admin`) each charge. The last charges are known, as `journal` keeps them.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from batchflux.simulator.apis import told
from batchflux.simulator.apis.fal import price_of
from batchflux.simulator.endpoint import authorize
from batchflux.simulator.replies import RELAY, Refusal, error_reply, json_reply, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiohttp import web

    from batchflux.simulator.endpoint import Endpoint
    from batchflux.simulator.replies import Api, Reply

    Tell = Callable[[web.Request, str], Reply]

STARTING_CREDITS = 10_000.0  # of BFL, and of a relay's key, at $0.01
_PAGE = 100


class Books:
    """The handlers of the books of one simulator."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def add(self, router: web.UrlDispatcher, served: str | None) -> None:
        """Put the handlers at their paths: those of one API, or of all."""
        for (name, path), (api, tell) in self._places().items():
            if served in (None, name):
                router.add_get(path, partial(self._answer, api=api, tell=tell))

    def _places(self) -> dict[tuple[str, str], tuple[Api, Tell]]:
        """Return each path with the API that it is served for, and what answers there in which API's words."""
        return {
            (RELAY, "/v1/dashboard/billing/usage"): ("standard", self._used),
            (RELAY, "/v1/dashboard/billing/subscription"): ("standard", self._limit),
            ("openrouter", "/openrouter/api/v1/generation"): ("openrouter", self._generation),
            ("openrouter", "/api/v1/generation"): ("openrouter", self._generation),
            ("fal", "/fal/v1/models/pricing"): ("fal", _prices),
            ("fal", "/v1/models/pricing"): ("fal", _prices),
            ("fal", "/fal/v1/models/billing-events"): ("fal", self._events),
            ("fal", "/v1/models/billing-events"): ("fal", self._events),
        }

    async def _answer(self, http: web.Request, api: Api, tell: Tell) -> web.Response:
        try:
            reply = tell(http, authorize(http.headers, api, self._endpoint.options.keys))
        except Refusal as refusal:
            reply = told(refusal.reply, api)
        return whole(reply, {})

    def _used(self, _: web.Request, __: str) -> Reply:
        return json_reply({"object": "list", "total_usage": self._endpoint.journal.credits})

    def _limit(self, _: web.Request, __: str) -> Reply:
        limits = dict.fromkeys(("soft_limit_usd", "hard_limit_usd", "system_hard_limit_usd"), STARTING_CREDITS / 100)
        return json_reply({"object": "billing_subscription", "has_payment_method": True, **limits, "access_until": 0})

    def _generation(self, http: web.Request, _: str) -> Reply:
        name = http.query.get("id", "")
        charges = (one for one in self._endpoint.journal.charges if one["api"] == "openrouter")
        charge = next((one for one in charges if name and one["request"] == name), None)
        if charge is None:
            return json_reply({"error": {"code": 404, "message": f"Generation {name} not found"}}, 404)
        dollars, created = charge["credits"] / 100, _iso(charge["at"])
        said = {"id": name, "model": charge["model"], "created_at": created, "total_cost": dollars, "usage": dollars}
        return json_reply({"data": {**said, "is_byok": False, "cancelled": False}})

    def _events(self, http: web.Request, key: str) -> Reply:
        if not key.partition(":")[0].startswith("admin"):
            raise Refusal(error_reply(403, "This endpoint needs an admin's key.", "invalid_request_error", "forbidden"))
        charges = [one for one in reversed(self._endpoint.journal.charges) if one["api"] == "fal"]
        since, until = http.query.get("start", ""), http.query.get("end", "9")
        wanted = [one for one in charges if since <= _iso(one["at"]) < until]
        size, page = min(int(http.query.get("limit", _PAGE)), _PAGE), _page_of(http.query.get("cursor", ""))
        shown, more = wanted[page * size : (page + 1) * size], len(wanted) > (page + 1) * size
        cursor = base64.b64encode(str(page + 1).encode()).decode() if more else None
        return json_reply({"billing_events": [*map(_event, shown)], "next_cursor": cursor, "has_more": more})


def _event(charge: Mapping[str, Any]) -> dict[str, Any]:
    dollars = charge["credits"] / 100
    named = {"request_id": charge["request"], "endpoint_id": charge["model"], "timestamp": _iso(charge["at"])}
    return {**named, "output_units": 1, "unit_price": dollars, "cost_estimate_nano_usd": round(dollars * 10**9)}


def _prices(http: web.Request, _: str) -> Reply:
    names = [name for text in http.query.getall("endpoint_id", []) for name in text.split(",") if name]
    told_of = {"unit": "image", "currency": "USD"}
    prices = [{"endpoint_id": name, "unit_price": price_of(name) / 100, **told_of} for name in names]
    return json_reply({"prices": prices, "next_cursor": None, "has_more": False})


def _page_of(cursor: str) -> int:
    try:
        return int(base64.b64decode(cursor)) if cursor else 0
    except ValueError as error:
        raise Refusal(error_reply(422, "cursor is none", "invalid_request_error")) from error


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
