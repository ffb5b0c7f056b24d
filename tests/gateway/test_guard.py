"""Who is let in, as a hostile client finds out: a small application behind the guard, served on loopback."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientConnectionError, ClientSession, ClientTimeout, FormData, web
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.errors import UsageError
from batchflux.gateway import guard as module
from batchflux.gateway import listen
from batchflux.gateway.clients import Client, ClientKeys
from batchflux.gateway.guard import CLIENT, MAX_BODY, Guard, body_of, origins_of
from batchflux.gateway.listen import bind, serve
from batchflux.gateway.new_keys import add_key
from batchflux.gateway.orders import RefusalError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SITE = "https://chat.example.com"
ASK = "/v1/images/generations"
PLACES = ("/v1/models", ASK, "/metrics", "/nowhere", "/v1/broken", "/images/1-x.png", "/health")
BUG = "canary-of-a-bug"


async def _orders(request: web.Request) -> web.Response:
    body = body_of(request)
    return web.json_response({"client": request[CLIENT].name, "bytes": len(body)})


async def _images(_request: web.Request) -> web.Response:
    return web.Response(body=b"\x89PNG", content_type="image/png", headers={"Cache-Control": "private, max-age=60"})


async def _broken(request: web.Request) -> web.Response:
    await request.read()
    raise ValueError(BUG)


async def _half(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"half")
    raise ValueError(BUG)


LEFT = asyncio.Event()


async def _large(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        while True:
            await response.write(bytes(1 << 20))
    finally:
        LEFT.set()


async def _refused(_request: web.Request) -> web.Response:
    raise RefusalError(429, "rate_limit_exceeded", "later", kind="requests", param="x", retry_after=1.2)


async def _redirect(_request: web.Request) -> web.Response:
    raise web.HTTPFound("/health")


@dataclass
class Door:
    """A guarded application that is served, and a client outside."""

    url: str
    host: str
    session: ClientSession
    keys: ClientKeys | None

    async def ask(self, path: str = ASK, method: str = "POST", **more: Any) -> tuple[int, dict[str, Any], Any]:
        """Return status, headers and body of an answer; a POST has a JSON body and says so, unless told otherwise."""
        headers = {"Content-Type": "application/json"} if method == "POST" and "data" not in more else {}
        headers |= more.pop("headers", {})
        sent = {"data": io.BytesIO(b"{}")} | more if method == "POST" else more
        where = self.url + path
        async with self.session.request(method, where, headers=headers, allow_redirects=False, **sent) as answer:
            text = await answer.read()
            with suppress(ValueError):
                return answer.status, dict(answer.headers), json.loads(text)
            return answer.status, dict(answer.headers), text

    async def code(self, path: str = ASK, method: str = "POST", **more: Any) -> tuple[int, str | None]:
        """Return the status of an answer and its code, None where it is no error; every error has OpenAI's shape."""
        status, headers, body = await self.ask(path, method, **more)
        if status < 400:
            return status, None
        assert headers["Content-Type"] == "application/json; charset=utf-8"
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        return status, body["error"]["code"]

    async def raw(self, request: str, *, body: bytes = b"") -> bytes:
        """Send a request as it stands, and return the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.host.rpartition(":")[2]))
        writer.write(request.replace("\n", "\r\n").encode("utf-8", "surrogateescape") + body)
        answer = b""
        with suppress(ConnectionError):
            answer = await asyncio.wait_for(reader.read(), 90)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        return answer


@asynccontextmanager
async def guarded(keys: ClientKeys | None = None, *origins: str) -> AsyncIterator[Door]:
    bound = bind("127.0.0.1", 0, keyed=keys is not None)
    app = Guard(keys, bound.hosts, origins_of(origins)).app()
    app.router.add_post(ASK, _orders)
    app.router.add_get("/v1/models", _orders)
    app.router.add_get("/metrics", _orders)
    app.router.add_get("/images/{name}", _images)
    app.router.add_get("/health", _images)
    app.router.add_get("/v1/broken", _broken)
    app.router.add_post("/v1/broken", _broken)
    app.router.add_get("/v1/half", _half)
    app.router.add_get("/v1/large", _large)
    app.router.add_get("/v1/redirect", _redirect)
    app.router.add_post("/v1/refused", _refused)
    served = await serve(app, bound.socket)
    try:
        async with ClientSession(timeout=ClientTimeout(100)) as session:
            yield Door(bound.url, bound.url.removeprefix("http://"), session, keys)
    finally:
        await served.stop()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """A gateway without client keys."""
    async with guarded() as made:
        yield made


@pytest.fixture
def key(tmp_path: Path) -> str:
    return add_key(tmp_path / "keys.yaml", Client(name="studio"))


@pytest.fixture
async def locked(tmp_path: Path, key: str) -> AsyncIterator[Door]:
    """A gateway with client keys."""
    add_key(tmp_path / "keys.yaml", Client(name="prometheus", metrics=True))
    async with guarded(ClientKeys(tmp_path / "keys.yaml")) as made:
        yield made


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> ClientKeys:
    path = tmp_path_factory.mktemp("known") / "keys.yaml"
    add_key(path, Client(name="studio"))
    return ClientKeys(path)


class TestWithKeys:
    async def test_a_key_says_whose_a_request_is(self, locked: Door, key: str) -> None:
        for headers in (
            {"Authorization": f"Bearer {key}"},
            {"Authorization": f"bearer   {key} "},
            {"x-api-key": key},
            {"Authorization": "Basic YTpi", "x-api-key": key},
        ):
            assert (await locked.ask(headers=headers))[::2] == (200, {"client": "studio", "bytes": 2})

    @pytest.mark.parametrize(
        "sent",
        [
            "",
            "Authorization: {}\n",
            "Authorization: Bearer\n",
            "Authorization: Bearer {}x\n",
            "Authorization: Bearer {} {}\n",
            "Authorization: Token {}\n",
            "Authorization: Bearer wrong\nx-api-key: {}\n",
            "Authorization: Bearer wrong\nAuthorization: Bearer {}\n",
            "Cookie: key={}\n",
            "api-key: {}\n",
            "Authorization: Bearer \udcff\udcfe{}\n",
            "x-api-key: Bearer {}\n",
        ],
    )
    async def test_what_is_no_key_lets_nobody_in(self, locked: Door, key: str, sent: str) -> None:
        for line in (f"GET /v1/models?key={key}&api_key={key} HTTP/1.1", f"POST {ASK} HTTP/1.1"):
            answer = await locked.raw(
                f"{line}\nHost: x\n{sent.replace('{}', key)}Content-Length: 0\nConnection: close\n\n"
            )
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 401 ")
            assert b'WWW-Authenticate: Bearer realm="batchflux"' in head.split(b"\r\n")
            assert json.loads(body)["error"]["code"] == "invalid_api_key"
            assert key.encode() not in answer

    async def test_any_host_and_page_may_bring_a_key_and_none_may_read_without_leave(
        self, locked: Door, key: str
    ) -> None:
        headers = {"Host": "shop.example", "Origin": SITE, "Sec-Fetch-Site": "cross-site"}
        assert (await locked.ask(headers=headers))[0] == 401
        status, answered, _ = await locked.ask(headers={**headers, "Authorization": f"Bearer {key}"})
        assert status == 200
        assert not [name for name in answered if name.lower().startswith("access-control")]

    async def test_metrics_are_for_clients_that_may_read_them(self, locked: Door, key: str, tmp_path: Path) -> None:
        assert await locked.code("/metrics", "GET") == (401, "invalid_api_key")
        assert await locked.code("/metrics", "GET", headers={"x-api-key": key}) == (403, "no_metrics")
        other = add_key(tmp_path / "keys.yaml", Client(name="p2", metrics=True))
        assert locked.keys is not None
        locked.keys.reload()
        assert await locked.code("/metrics", "GET", headers={"x-api-key": other}) == (200, None)

    async def test_pictures_and_health_need_no_key(self, locked: Door) -> None:
        for path in ("/images/1-x.png", "/health"):
            assert await locked.code(path, "GET") == (200, None)
            assert await locked.code(path, "GET", headers={"Sec-Fetch-Site": "cross-site", "Host": "evil"}) == (
                200,
                None,
            )
        for path in ("/images", "/healthy", "/IMAGES/1-x.png", "//images/1-x.png"):
            assert (await locked.raw(f"GET {path} HTTP/1.0\nHost: x\n\n")).split()[1] == b"401", path

    @pytest.mark.parametrize("target", ["/v1/models", "/metrics", "/v1/half"])
    async def test_no_spelling_of_a_path_leads_past_the_guard(self, locked: Door, key: str, target: str) -> None:
        """What the guard takes for a picture or for health must not be routed elsewhere."""
        name = target[1:]
        for path in (
            *(f"/images/..{target}", f"/images/%2e%2e{target}", f"/images/..%2f{name}", f"/images/x/../..{target}"),
            *(
                f"/health/..{target}",
                f"/health{target}",
                f"/health%00{target}",
                f"/images/{target}",
                f"//images/..{target}",
            ),
            *(
                f"/images/;{target}",
                f"/images/#{target}",
                f"/images/?{target}",
                f"/health#{target}",
                f"/./images/..{target}",
            ),
            *(f"{target}?x=/images/", f"{target}#/images/", f"{target}/../images/x", f"http://x/images/..{target}"),
            *(target.replace("m", "%6d"), target.replace("/", "//", 1), target + "%20", target + "/", target + "?"),
        ):
            plain = f"GET {path} HTTP/1.1\nHost: x\nConnection: close\n"
            for head in (plain, f"{plain}X-Original-URL: /health\nX-Rewrite-URL: /health\n"):
                answer = await locked.raw(f"{head}\n")
                assert b'"client"' not in answer, path
                assert b"half" not in answer, path
            if target == "/metrics":
                assert b'"client"' not in await locked.raw(f"{plain}x-api-key: {key}\n\n"), path

    async def test_a_flood_of_wrong_keys_is_refused_and_the_right_one_still_let_in(
        self, locked: Door, key: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        for start in range(0, 300, 30):
            wrong = [{"Authorization": f"Bearer {key[:-4]}{n:04d}"} for n in range(start, start + 30)]
            assert {await locked.code(headers=one) for one in wrong} == {(401, "invalid_api_key")}
        assert (await locked.code(headers={"x-api-key": key}))[0] == 200
        assert "sk-batchflux" not in caplog.text

    async def test_nothing_of_a_refused_body_is_kept(self, locked: Door, monkeypatch: pytest.MonkeyPatch) -> None:
        read: list[int] = []
        monkeypatch.setattr(module, "_read", read.append)
        assert await locked.code(data=io.BytesIO(bytes(1 << 20))) == (401, "invalid_api_key")
        assert read == []


class TestOnLoopback:
    @pytest.mark.parametrize("sent", [{}, {"Authorization": "Bearer whatever"}, {"x-api-key": "é"}])
    async def test_any_key_or_none_is_local(self, door: Door, sent: dict[str, str]) -> None:
        assert (await door.ask(headers=sent))[::2] == (200, {"client": "local", "bytes": 2})
        assert (await door.ask("/metrics", "GET", headers=sent))[0] == 200

    @pytest.mark.parametrize(
        "host",
        ["evil.example", "evil.example:{port}", "localhost", "127.0.0.1", "127.0.0.1:1", "", "localhost.:{port}"],
    )
    async def test_a_name_made_to_point_here_is_refused(self, door: Door, host: str) -> None:
        """DNS rebinding: the browser takes the page's own site for ours, and says so in Host."""
        said = host.format(port=door.host.rpartition(":")[2])
        for line in ("GET /v1/models", "GET /metrics", f"POST {ASK}"):
            answer = await door.raw(
                f"{line} HTTP/1.1\nHost: {said}\nOrigin: http://{said}\nContent-Length: 0\nConnection: close\n\n"
            )
            assert answer.startswith(b"HTTP/1.1 403 ")
            assert b'"code": "unknown_host"' in answer

    @pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LocalHost", "[::1]"])
    async def test_our_own_names(self, door: Door, name: str) -> None:
        host = f"{name}:{door.host.rpartition(':')[2]}"
        sent = {"Host": host, "Origin": f"http://{host.lower()}", "Sec-Fetch-Site": "same-origin"}
        assert (await door.code(headers=sent))[0] == 200
        assert (await door.code(headers={"Host": host}))[0] == 200

    @pytest.mark.parametrize(
        "sent",
        [
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": ""},
            {"Origin": "file://"},
            {"Origin": "https://{host}"},
            {"Origin": "http://{host}.evil.example"},
            {"Origin": "http://{host}", "Sec-Fetch-Site": "cross-site"},
        ],
    )
    async def test_another_sites_page_is_refused_whatever_it_sends(self, door: Door, sent: dict[str, str]) -> None:
        headers = {name: value.format(host=door.host) for name, value in sent.items()}
        form = FormData()
        form.add_field("prompt", "a fox")
        form.add_field("image", b"\x89PNG", filename="a.png")
        for path, method, more in (
            ("/v1/models", "GET", {}),
            ("/metrics", "GET", {}),
            (ASK, "POST", {}),
            (ASK, "POST", {"data": form}),
            (ASK, "POST", {"data": {"prompt": "a"}}),
        ):
            assert await door.code(path, method, headers=headers, **more) == (403, "other_site")

    @pytest.mark.parametrize(
        "kind", ["text/plain", "application/x-www-form-urlencoded", "application/octet-stream", "x"]
    )
    async def test_what_a_form_sends_without_being_asked_is_no_order(self, door: Door, kind: str) -> None:
        assert await door.code(headers={"Content-Type": kind}) == (415, "unsupported_media_type")

    @pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "x-real-ip", "CF-Connecting-IP"])
    async def test_what_came_through_a_proxy_may_come_from_anywhere(
        self, door: Door, locked: Door, key: str, name: str
    ) -> None:
        sent = {name: "127.0.0.1"}
        assert await door.code(headers=sent) == (403, "proxied")
        assert (await door.code("/health", "GET", headers=sent))[0] == 200
        assert (await locked.code(headers=sent | {"x-api-key": key}))[0] == 200

    async def test_pictures_may_be_shown_in_other_sites_pages(self, door: Door) -> None:
        """A shell in the browser shows them by their links."""
        sent = {"Sec-Fetch-Site": "cross-site", "Referer": SITE}
        status, headers, _ = await door.ask("/images/1-x.png", "GET", headers=sent)
        assert status == 200
        assert headers["Cross-Origin-Resource-Policy"] == "cross-origin"
        assert headers["Cache-Control"] == "private, max-age=60"

    async def test_others_cannot_reach_it(self) -> None:
        for host in ("0.0.0.0", "::"):  # noqa: S104  what is tested is that these are refused
            with pytest.raises(UsageError, match=r"open to other machines.*add --client-keys"):
                bind(host, 0, keyed=False)
            bound = bind(host, 0, keyed=True)
            assert bound.opens is not None
            assert "any address of this machine" in bound.opens
            bound.socket.close()


class TestSites:
    async def test_an_allowed_site_may_call_and_read(self) -> None:
        async with guarded(None, SITE, "http://localhost:3000/") as door:
            for origin in (SITE, "http://localhost:3000"):
                sent = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
                status, headers, _ = await door.ask(headers=sent)
                assert status == 200
                assert headers["Access-Control-Allow-Origin"] == origin
                assert headers["Vary"] == "Origin"
                assert "x-batchflux-cost" in headers["Access-Control-Expose-Headers"]
                assert "Access-Control-Allow-Credentials" not in headers
            for origin in ("https://chat.example.com.evil.example", "http://chat.example.com", "http://localhost:3001"):
                status, headers, _ = await door.ask(headers={"Origin": origin})
                assert status == 403
                assert not [name for name in headers if name.lower().startswith("access-control")]

    async def test_an_allowed_site_reads_refusals_too(self, tmp_path: Path, key: str) -> None:
        async with guarded(ClientKeys(tmp_path / "keys.yaml"), SITE) as door:
            status, headers, _ = await door.ask(headers={"Origin": SITE})
            assert (status, headers["Access-Control-Allow-Origin"]) == (401, SITE)
            assert (await door.ask(headers={"Origin": SITE, "x-api-key": key}))[0] == 200

    @pytest.mark.parametrize("keyed", [False, True])
    async def test_a_preflight(self, tmp_path: Path, key: str, *, keyed: bool) -> None:
        asks = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type, x-stainless-os",
            "Access-Control-Request-Private-Network": "true",
        }
        async with guarded(ClientKeys(tmp_path / "keys.yaml") if keyed else None, SITE) as door:
            status, headers, _ = await door.ask(method="OPTIONS", headers={**asks, "Origin": SITE})
            assert status == 204
            assert headers["Access-Control-Allow-Origin"] == SITE
            assert headers["Access-Control-Allow-Headers"] == "authorization, content-type, x-stainless-os"
            assert headers["Access-Control-Allow-Methods"] == "GET, POST"
            assert headers["Access-Control-Allow-Private-Network"] == "true"
            wild = {**asks, "Origin": SITE, "Access-Control-Request-Headers": "a;b"}
            assert "Access-Control-Allow-Headers" not in (await door.ask(method="OPTIONS", headers=wild))[1]
            for origin in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {}):
                status, headers, _ = await door.ask(method="OPTIONS", headers={**asks, **origin})
                assert status == 403
                assert not [name for name in headers if name.lower().startswith("access-control")]

    @pytest.mark.parametrize(
        "text",
        [
            *("*", "null", "", "chat.example.com", "ftp://x", "https://", "https://a/b", "https://a?b", "https://a:x"),
            *("https://u:p@a", "https://*.a", "https://ä.example", "file://", "https://a b", "https://a:99999"),
            "https://[::1",
        ],
    )
    def test_what_is_no_site(self, text: str) -> None:
        with pytest.raises(UsageError, match=r"^--allow-origin .* is no site; name one as browsers do"):
            origins_of([text])

    def test_sites_as_browsers_write_them(self) -> None:
        texts = ["HTTPS://Chat.Example.com:443/", "http://localhost:3000", "http://[::1]:80", " http://a:8080 "]
        assert origins_of(texts) == {
            "https://chat.example.com",
            "http://localhost:3000",
            "http://[::1]",
            "http://a:8080",
        }


class TestBodies:
    async def test_64_mb_are_taken_and_no_more(self, door: Door) -> None:
        sent = {"Content-Type": "application/json"}
        assert (await door.ask(data=io.BytesIO(bytes(MAX_BODY)), headers=sent))[2]["bytes"] == MAX_BODY
        assert await door.code(data=io.BytesIO(bytes(MAX_BODY + 1)), headers=sent) == (413, "request_too_large")

    async def test_a_chunked_body_is_bounded_too(self, door: Door) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range((MAX_BODY >> 20) + 1):
                yield bytes(1 << 20)

        with suppress(ClientConnectionError):  # it was not read to its end
            sent = {"Content-Type": "application/json"}
            assert await door.code(data=chunks(), headers=sent) == (413, "request_too_large")
        assert (await door.code())[0] == 200

    async def test_a_body_that_grows_when_it_is_unpacked_is_bounded_too(self, door: Door) -> None:
        from gzip import compress  # noqa: PLC0415  of this test alone

        packed = compress(bytes(MAX_BODY + (1 << 20)))
        assert len(packed) < 1 << 20
        sent = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        assert await door.code(data=io.BytesIO(packed), headers=sent) == (413, "request_too_large")

    @pytest.mark.parametrize("bound", ["MOST_HELD", "MOST_OF_ONE"])
    async def test_all_bodies_together_are_bounded(
        self, door: Door, monkeypatch: pytest.MonkeyPatch, bound: str
    ) -> None:
        monkeypatch.setattr(module, bound, 100)
        sent = {"Content-Type": "application/json"}
        status, headers, body = await door.ask(data=io.BytesIO(bytes(101)), headers=sent)
        assert (status, body["error"]["code"], headers["Retry-After"]) == (503, "overloaded", "2")
        for _ in range(3):
            assert (await door.code(data=io.BytesIO(bytes(100)), headers=sent))[0] == 200
            assert (await door.code("/v1/broken", data=io.BytesIO(bytes(100)), headers=sent))[0] == 400

    async def test_bodies_that_are_announced_and_do_not_come_keep_nobody_out(
        self, door: Door, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MOST_HELD", MAX_BODY)
        held = []
        for size in (f"Content-Length: {MAX_BODY}\r\n\r\n{{", "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"):
            _, writer = await asyncio.open_connection("127.0.0.1", int(door.host.rpartition(":")[2]))
            head = f"POST {ASK} HTTP/1.1\r\nHost: {door.host}\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}{size}".encode())
            await writer.drain()
            held.append(writer)
        sent = {"Content-Type": "application/json"}
        for _ in range(3):
            assert (await door.code(data=io.BytesIO(bytes(1 << 20)), headers=sent))[0] == 200
        for writer in held:
            writer.close()

    @pytest.mark.parametrize("value", [b"[]", b"0", b"{}", b'"",""'])
    async def test_a_body_of_very_many_values_is_not_unpacked(self, door: Door, value: bytes) -> None:
        """It would take 30 times its bytes in memory."""
        body = b"[" + b",".join([value] * (module.MOST_VALUES // 2)) + b"]"
        sent = {"Content-Type": "application/json"}
        assert await door.code(data=io.BytesIO(body * 3), headers=sent) == (400, "too_many_values")

    async def test_a_body_that_comes_drop_by_drop_is_given_up(
        self, door: Door, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "BODY_SECONDS", 0.2)
        head = f"POST {ASK} HTTP/1.1\nHost: {door.host}\nContent-Type: application/json\n"
        for size in ("Content-Length: 100\n\n", "Transfer-Encoding: chunked\n\n5\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(door.host.rpartition(":")[2]))
            writer.write(f"{head}{size}".replace("\n", "\r\n").encode())
            assert (await asyncio.wait_for(reader.readline(), 90)).startswith(b"HTTP/1.1 408 ")
            writer.close()

    async def test_a_body_that_is_cut_off_or_garbled(self, door: Door) -> None:
        head = f"POST {ASK} HTTP/1.1\nHost: {door.host}\nContent-Type: application/json\n"
        answer = await door.raw(f"{head}Content-Encoding: gzip\nContent-Length: 9\nConnection: close\n\nnot gzip!")
        assert answer.startswith(b"HTTP/1.1 400 ")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(door.host.rpartition(":")[2]))
        writer.write(f"{head}Content-Length: 9\n\n{{".replace("\n", "\r\n").encode())
        writer.close()
        await reader.read()
        assert (await door.code())[0] == 200


class TestConnections:
    async def test_a_head_that_never_ends_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listen, "HEAD_SECONDS", 0.2)
        async with guarded() as door:
            whole = f"GET /health HTTP/1.1\r\nHost: {door.host}\r\n\r\n".encode()
            for pieces in ([b""], [b"GET / HT"], [b"GET / HTTP/1.1\r\nHost: x\r\n"], [whole, b"GET / HTTP/1.1\r\n"]):
                reader, writer = await asyncio.open_connection("127.0.0.1", int(door.host.rpartition(":")[2]))
                with suppress(ConnectionError):
                    for piece in chain(pieces, repeat(b"X-Slow: 1\r\n")):
                        writer.write(piece)
                        await writer.drain()
                        with suppress(TimeoutError):
                            if not await asyncio.wait_for(reader.read(1 << 16), 0.05):
                                break
                writer.close()

    async def test_so_many_connections_and_no_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listen, "MOST_CONNECTIONS", 3)
        async with guarded() as door:
            port = int(door.host.rpartition(":")[2])
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with suppress(ConnectionError):
                assert await reader.read() == b""
            for one in (writer, *(writer for _, writer in held)):
                one.close()

    @pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no such option")
    async def test_a_client_that_takes_nothing_of_its_answer_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listen, "STUCK_SECONDS", 0.5)
        async with guarded() as door:
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", int(door.host.rpartition(":")[2])))
                client.sendall(f"GET /v1/large HTTP/1.1\r\nHost: {door.host}\r\n\r\n".encode())
                await asyncio.wait_for(LEFT.wait(), 60)

    @pytest.mark.parametrize(
        "line",
        ["GET /{} HTTP/9.x", "GE/T /{} HTTP/1.1", "GET /\x01{} x HTTP/1.1", "GET /{}" + "a" * 9000 + " HTTP/1.1", "{}"],
    )
    async def test_what_is_no_http_is_not_logged(self, door: Door, line: str, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        assert (await door.raw(f"{line.format('sk-canary')}\nHost: x\n\n")).startswith(b"HTTP/1.0 400 ")
        assert caplog.text == ""

    async def test_a_body_that_is_garbled_is_not_logged(self, door: Door, caplog: pytest.LogCaptureFixture) -> None:
        head = f"POST {ASK} HTTP/1.1\nHost: {door.host}\nContent-Type: application/json\nContent-Encoding: gzip\n"
        answer = await door.raw(f"{head}Content-Length: 4\nConnection: close\n\n", body=b"zzzz")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert caplog.text == ""


class TestAnswers:
    @pytest.mark.parametrize("path", PLACES)
    async def test_every_answer_is_wrapped_up(self, door: Door, path: str) -> None:
        for sent in ({}, {"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            for method in ("GET", "POST", "DELETE"):
                _, headers, _ = await door.ask(path, method, headers=sent)
                assert headers["X-Content-Type-Options"] == "nosniff"
                assert "default-src 'none'" in headers["Content-Security-Policy"]
                assert headers["Referrer-Policy"] == "no-referrer"
                assert headers["Cross-Origin-Resource-Policy"] in {"same-origin", "cross-origin"}
                assert "Server" not in headers
                if path not in {"/images/1-x.png", "/health"}:
                    assert headers["Cache-Control"] == "no-store"
                assert not [name for name in headers if name.lower().startswith("access-control")]

    async def test_what_aiohttp_refuses_has_openais_shape(self, door: Door) -> None:
        assert await door.code("/nowhere") == (404, "unknown_url")
        assert await door.code("/", "GET") == (404, "unknown_url")
        assert await door.code("/v1/models") == (405, "method_not_allowed")
        assert (await door.ask("/v1/models"))[1]["Allow"] == "GET,HEAD"
        assert (await door.ask("/v1/redirect", "GET"))[0] == 302

    async def test_a_refusal_says_when_to_come_back(self, door: Door) -> None:
        status, headers, body = await door.ask("/v1/refused")
        assert (status, headers["Retry-After"]) == (429, "2")
        error = {"message": "later", "type": "requests", "param": "x", "code": "rate_limit_exceeded"}
        assert body == {"error": error}

    async def test_a_fault_of_ours_is_no_reason_to_send_it_again(
        self, door: Door, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What it bought is on record; clients of OpenAI's API send a 5xx again by themselves."""
        assert await door.code("/v1/broken") == (400, "unknown_outcome")
        assert await door.code("/v1/broken", "GET") == (500, "internal_error")
        assert BUG not in caplog.text
        assert f"ValueError while answering a POST: {module.__file__}" in caplog.text

    async def test_half_an_answer_does_not_look_whole(self, door: Door, caplog: pytest.LogCaptureFixture) -> None:
        answer = await door.raw(f"GET /v1/half HTTP/1.1\nHost: {door.host}\n\n")
        assert answer.endswith(b"half\r\n"), "the last chunk, which says that this is all, is missing"
        assert BUG not in caplog.text


@given(
    st.dictionaries(
        st.sampled_from(["Authorization", "x-api-key", "Origin", "Sec-Fetch-Site", "Content-Type", "Cookie", "Expect"]),
        st.text(st.characters(exclude_characters="\r\n\0", codec="utf-8"), max_size=40),
    )
)
@settings(max_examples=60)
def test_whatever_headers_say_nobody_is_let_in(known: ClientKeys, values: dict[str, str]) -> None:
    """Wild header values to a server with keys: each is refused, and none ends it."""

    async def go() -> None:
        async with guarded(known) as door:
            lines = "".join(f"{name}: {value}\n" for name, value in values.items())
            answer = await door.raw(f"POST {ASK} HTTP/1.1\nHost: x\n{lines}Content-Length: 0\nConnection: close\n\n")
            assert answer.split(b" ", 2)[1] in {b"401", b"400", b"417"}, answer

    asyncio.run(go())
