"""Books as servers tell them: pages, refusals, several keys, answers that are none; and balances that a run notes."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from batchflux.billing import asking
from batchflux.billing.balances import spans
from batchflux.billing.comparing import Wanted, compare
from batchflux.billing.exported import HowToRead
from batchflux.charges.books import Balance
from batchflux.engine.executors.local import LocalExecutor
from batchflux.engine.settings import keys_of
from batchflux.errors import UsageError
from batchflux.ledger.books.balances import balances
from batchflux.ledger.connection import beside
from batchflux.output.image_store import ImageStore
from batchflux.planner import load_manifest
from batchflux.transport import Transport, TransportOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batchflux.billing.comparing import Compared
    from tests.billing.conftest import Folder

KEYS = {"STUDIO_KEY": "sk-secret-1", "OTHER_KEY": "sk-secret-2"}
TIME = "2026-11-18T11:07:45Z"
Answer = tuple[int, Any]


@dataclass
class Server:
    """A server on loopback: `answers` by path, each a status and JSON, or what makes one of the query and the key."""

    answers: dict[str, Answer | Callable[[dict[str, str], str], Answer]]
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        place = urlsplit(handler.path)
        self.asked.append(place.path)
        found = self.answers.get(place.path, (404, {"error": {"message": "no such path"}}))
        query = {name: values[-1] for name, values in parse_qs(place.query).items()}
        key = (handler.headers.get("Authorization") or handler.headers.get("x-key") or "").rpartition(" ")[2]
        status, body = found(query, key) if callable(found) else found
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)


@contextmanager
def served(**answers: Any) -> Iterator[Server]:
    """Serve these answers below /v1; `__` in a name stands for a slash."""
    server = Server({f"/v1/{name.replace('__', '/')}": answer for name, answer in answers.items()})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{listening.server_address[1]}"
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def event(name: str, cost: float = 0.14, **more: Any) -> dict[str, Any]:
    return {"request_id": name, "endpoint_id": "m", "timestamp": TIME, "cost_total": cost, **more}


def fal(folder: Folder, server: Server, keys: str = "STUDIO_KEY", model: str = "m") -> Compared:
    folder.manifest(f"name: studio, api: fal, base_url: '{server.url}', keys: [{keys}], model: {model}")
    [made] = compare(folder.path, Wanted(), KEYS)
    return made


def task(name: str) -> dict[str, Any]:
    place = f"https://queue.fal.run/m/requests/{name}"
    return {"job": name, "model": "m", "handle": json.dumps({"status": f"{place}/status", "response": place})}


def test_all_pages_are_read(folder: Folder) -> None:
    folder.sends(*(task(f"r{number}") for number in range(5)))

    def page(query: dict[str, str], key: str) -> Answer:
        assert key == KEYS["STUDIO_KEY"]
        first = int(query.get("cursor", 0))
        more = str(first + 2) if first < 4 else None
        return 200, {
            "billing_events": [event(f"r{number}") for number in range(first, min(first + 2, 5))],
            "next_cursor": more,
        }

    with served(**{"models__billing-events": page}) as server:
        made = fal(folder, server)
    assert made.found is not None
    assert (made.agrees, len(made.found.matches), len(server.asked)) == (True, 5, 3)


def test_pages_that_lead_to_themselves_end(folder: Folder) -> None:
    folder.sends(task("r0"))
    with (
        served(**{"models__billing-events": (200, {"billing_events": [], "next_cursor": "x"})}) as server,
        pytest.raises(UsageError, match="The books of studio do not end"),
    ):
        fal(folder, server)


@pytest.mark.parametrize(
    "answer", [(200, {}), (200, []), (200, b"<html>"), (200, {"billing_events": "x"}), (404, {}), (422, {})]
)
def test_books_that_are_none_are_said(folder: Folder, answer: Answer) -> None:
    folder.sends(task("r0"))
    with (
        served(**{"models__billing-events": answer}) as server,
        pytest.raises(UsageError, match=r"The books of studio cannot be read: .*--billing FILE"),
    ):
        fal(folder, server)


def test_what_passes_is_asked_again_and_a_key_that_is_refused_is_not_shown(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "LONGEST_WAIT", 0.01)
    folder.sends(task("r0"))
    answers = iter([(429, {"detail": "slow"}), (503, {"detail": "down"}), (200, {"billing_events": [event("r0")]})])
    with served(**{"models__billing-events": lambda *_: next(answers)}) as server:
        assert fal(folder, server).agrees
    quoting = (401, {"detail": f"the key {KEYS['STUDIO_KEY']} is wrong"})
    paths = ("models__billing-events", "models__pricing", "models__requests__by-endpoint")
    with served(**dict.fromkeys(paths, quoting)) as server, pytest.raises(UsageError, match="cannot be read") as caught:
        fal(folder, server)
    assert KEYS["STUDIO_KEY"] not in str(caught.value)


def test_odd_lines_do_no_harm(folder: Folder) -> None:
    folder.sends(task("r0"))
    odd = [7, None, {}, event("r0", cost_estimate_nano_usd=140_000_000), event("r9", timestamp="soon", cost_total="x")]
    with served(**{"models__billing-events": (200, {"billing_events": odd})}) as server:
        made = fal(folder, server)
    assert made.found is not None
    assert [one.paid for one in made.found.matches] == [Decimal("0.14")]
    assert [(one.receipt, one.amount) for one in made.found.only_theirs] == [(None, None), ("r9", None)]
    assert made.agrees


def test_two_keys_of_one_account_tell_a_line_once_and_a_real_repeat_twice(folder: Folder) -> None:
    folder.sends(task("r0"), task("r1"))
    lines = [event("r0"), event("r1"), event("r1")]
    with served(**{"models__billing-events": (200, {"billing_events": lines})}) as server:
        made = fal(folder, server, keys="STUDIO_KEY, OTHER_KEY")
    assert made.found is not None
    assert (len(made.found.matches), len(made.found.repeated), len(server.asked)) == (2, 1, 2)


def test_a_model_that_is_not_paid_by_the_picture_has_no_amounts(folder: Folder) -> None:
    """Then that a request was made is all that the list tells; a server's own failure costs nothing."""
    folder.sends(task("r0"), {**task("r1"), "end": "refused"}, {**task("r2"), "end": "lost"})
    items = [{"request_id": f"r{number}", "endpoint_id": "m", "sent_at": TIME, "status_code": 200} for number in (0, 2)]
    items.append({"request_id": "r1", "endpoint_id": "m", "sent_at": TIME, "status_code": 500})
    prices = [{"endpoint_id": "m", "unit_price": 0.03, "unit": "megapixels", "currency": "USD"}]
    answers = {
        "models__billing-events": (403, {"detail": "admin"}),
        "models__pricing": (200, {"prices": prices}),
        "models__requests__by-endpoint": (200, {"items": items, "next_cursor": None}),
    }
    with served(**answers) as server:
        made = fal(folder, server)
    assert made.found is not None
    assert [one.paid for one in made.found.matches] == [None, 0, None]
    assert (made.agrees, made.found.decided) == (True, ())


def relay(folder: Folder, server: Server, how: HowToRead | None = None) -> Compared:
    folder.manifest(f"name: studio, base_url: '{server.url}', keys: [STUDIO_KEY]")
    [made] = compare(folder.path, Wanted(how=how), KEYS)
    return made


@pytest.mark.parametrize(
    ("used", "limit", "agrees"),
    [(28.0, 5, True), (500, 100_000_000, True), (27.9, 5, False)],
)
def test_what_a_relays_key_has_used_is_at_least_what_the_folder_has(
    folder: Folder, used: float, limit: float, *, agrees: bool
) -> None:
    """Its unit of money is not told: the folder's is assumed, and said, unless another is named."""
    folder.sends({"job": "a"}, {"job": "b"})
    answers = {
        "dashboard__billing__usage": (200, {"object": "list", "total_usage": used}),
        "dashboard__billing__subscription": (200, {"hard_limit_usd": limit}),
    }
    with served(**answers) as server:
        made = relay(folder, server)
    assert (made.agrees, [one.spent for one in made.spans]) == (agrees, [Decimal(str(used)) / 100])
    assert [one.amount for one in made.left] == ([] if limit > 5 else [5 - Decimal(str(used)) / 100])
    assert made.assumed == {"currency": "USD, as the folder's: the API does not tell it"}
    with served(**answers) as server, pytest.raises(UsageError, match="tells nothing that could be compared"):
        relay(folder, server, how=HowToRead(currency="CNY"))


def test_a_relay_that_tells_nothing_says_why(folder: Folder) -> None:
    folder.sends({"job": "a"})
    with served() as server, pytest.raises(UsageError, match=r"studio tells nothing .*STUDIO_KEY cannot be read"):
        relay(folder, server)


def test_a_key_that_is_not_set(folder: Folder) -> None:
    folder.sends({"job": "a"})
    with pytest.raises(UsageError, match="asked with its key, but the environment variable STUDIO_KEY is not set"):
        compare(folder.path, Wanted(), {})


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_balance_that_does_not_come_is_said_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, hangs: bool
) -> None:
    monkeypatch.setattr(asking, "NOTE_SECONDS", 0.2)
    ended, said = threading.Event(), []

    def late(*_: object) -> Answer:
        ended.wait(5 if hangs else 0)
        return (200, {"credits": "many"})

    with served(credits=late) as server:
        provider = f"name: bfl, base_url: '{server.url}', keys: [STUDIO_KEY], price: 0.04"
        (tmp_path / "m.yaml").write_text(f"version: 1\nname: m\nprovider: {{{provider}}}\njobs: [{{prompt: x}}]\n")
        manifest = load_manifest(tmp_path / "m.yaml")
        keys = {"bfl": keys_of(manifest.provider, None, KEYS, {})}
        store = ImageStore(tmp_path, "decode")
        how = TransportOptions(
            base_url=server.url, timeout=9, connections=2, max_bytes=1 << 20, spool_dir=str(tmp_path)
        )
        async with Transport(how) as transport:
            executor = LocalExecutor({("bfl", ""): (transport, server.url)}, store)
            noted = await asking.account_balances(
                manifest, keys, executor, 1.0, lambda name, **more: said.append((name, more["key"]))
            )
        ended.set()
        store.close()
    assert (noted, said) == ([], [("balance_untold", "STUDIO_KEY")])


def test_spans_of_runs(folder: Folder) -> None:
    """Topped up meanwhile: nothing can be said; another currency: neither; a note without its pair is none."""
    folder.sends({"job": "a"}, {"job": "b", "end": "lost"})
    with beside(folder.path / "ledger.db") as connection:
        assert balances(connection) == []
    folder.notes(Balance(left=Decimal(10)), Balance(left=Decimal("9.86")))
    folder.notes(Balance(left=Decimal(10)), Balance(left=Decimal(20)), key_name="OTHER_KEY")
    folder.notes(Balance(used=Decimal(1)), provider="third")
    with served() as server:
        made = relay(folder, server)
    assert [(one.key_name, one.spent, one.certain, one.possible, one.comparable, one.agrees) for one in made.spans] == [
        ("OTHER_KEY", -10, 0, 0, False, True),
        ("STUDIO_KEY", Decimal("0.14"), Decimal("0.14"), Decimal("0.14"), True, True),
    ]
    with beside(folder.path / "ledger.db") as connection:
        noted = balances(connection)
    yuan = [one._replace(balance=Balance(left=one.balance.left, currency="CNY")) for one in noted[:2]]
    assert all(not one.comparable and one.agrees for one in spans(yuan, made.entries))
