"""The receiver on a real port: what each call is answered, that none but verified ones wake anybody, and that no flood
of calls grows anything or hides the right one.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sys
from base64 import b64encode
from contextlib import ExitStack, asynccontextmanager
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from batchflux.errors import UsageError
from batchflux.models import HttpRequest, SigningKeys
from batchflux.providers import webhook_apis
from batchflux.webhooks import receiver as module
from batchflux.webhooks import wakes as memory
from batchflux.webhooks.ed25519 import Signer
from batchflux.webhooks.receiver import MAX_BODY, Keys, Receiver
from batchflux.webhooks.signatures import key_in, sha256_hmac
from batchflux.webhooks.wakes import MOST_WAKES, Hook, Wakes
from tests.conftest import numbered_job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from batchflux.models import Reply

AT = 1_764_374_400
WHSEC = f"whsec_{b64encode(bytes(range(24))).decode()}"
FAL = Signer(bytes(range(32)))
JOB = numbered_job(1, provider="r", style="replicate")


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, no body comes too slowly, and none that is not read is cut off as it is sent."""
    monkeypatch.setattr(module, "BODY_SECONDS", 60.0)
    monkeypatch.setattr(module, "_LINGER", 60.0)


def hook(name: str, api: str, style: str = "") -> Hook:
    path = sha256(name.encode()).hexdigest()[:48]
    how = webhook_apis()[api, style or api]
    return Hook(name=name, style=style or api, api=how, url=f"https://h.example/{path}", path=path, secret="own-secret")


class Post:
    """A receiver for a provider of each API, and what calls it."""

    def __init__(self, url: str, wakes: Wakes, receiver: Receiver, session: aiohttp.ClientSession) -> None:
        self.url, self.wakes, self.receiver, self.session = url, wakes, receiver, session
        self.asked: list[str] = []

    def path(self, name: str) -> str:
        return next(hook.path for hook in self.wakes.hooks.values() if hook.name == name)

    async def call(
        self, name: str, body: bytes, headers: dict[str, str] | None = None, method: str = "POST", below: str = ""
    ) -> int:
        where = f"{self.url}{below}/{self.path(name)}"
        async with self.session.request(
            method, where, data=BytesIO(body), headers=headers, allow_redirects=False
        ) as answer:
            assert await answer.read() == b""
            return answer.status

    async def elsewhere(self, path: str) -> int:
        async with self.session.post(f"{self.url}/{path}", data=b"{}") as answer:
            return answer.status

    async def replicate(self, task: str, at: int = AT) -> int:
        body = json.dumps({"id": task, "status": "succeeded", "output": "https://nowhere.example/x.png"}).encode()
        return await self.call("r", body, standard(body, at))

    async def forged(self, task: str, signature: str) -> int:
        body = json.dumps({"id": task}).encode()
        return await self.call("r", body, {**standard(body), "webhook-signature": signature})


def standard(body: bytes, at: int = AT, name: str = "msg_1") -> dict[str, str]:
    signature = b64encode(sha256_hmac(key_in(WHSEC), f"{name}.{at}.".encode() + body)).decode()
    return {"webhook-id": name, "webhook-timestamp": str(at), "webhook-signature": f"v1,{signature}"}


def by_fal(task: str, body: bytes, at: int = AT) -> dict[str, str]:
    text = "\n".join((task, "u", str(at), sha256(body).hexdigest())).encode()
    names = ("request-id", "user-id", "timestamp", "signature")
    values = (task, "u", str(at), FAL.sign(text).hex())
    return {f"X-Fal-Webhook-{name}": value for name, value in zip(names, values, strict=True)}


@asynccontextmanager
async def receiving(free_port: int, keys: dict[str, tuple[str, ...]] | None = None) -> AsyncIterator[Post]:
    hooks = [hook("r", "replicate"), hook("f", "fal"), hook("b", "bfl"), hook("n", "flux-relay", "native")]
    wakes = Wakes({(one.name, one.style): one for one in hooks})
    known = {"r": (WHSEC,), "f": (FAL.public,)} if keys is None else keys
    asked: list[str] = []

    async def ask(of: Hook, request: HttpRequest) -> AsyncIterator[Reply]:
        asked.append(of.name)
        if of.name in known:
            yield SigningKeys(keys=known[of.name])

    async with (
        Receiver(wakes, "127.0.0.1", free_port, Keys(ask), lambda: AT) as receiver,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=20)) as session,
    ):
        post = Post(f"http://127.0.0.1:{free_port}", wakes, receiver, session)
        post.asked = asked
        yield post


async def test_a_verified_call_wakes_its_task_and_no_other(free_port: int) -> None:
    async with receiving(free_port) as post:
        with (
            post.wakes.awaited(JOB, "p1", hooked=True) as wake,
            post.wakes.awaited(JOB, "p2", hooked=True) as other,
        ):
            assert not wake.expected
            assert await post.replicate("p1") == 200
            assert wake.called is not None
            assert wake.called.is_set()
            assert other.called is not None
            assert not other.called.is_set()
            assert other.expected, "calls arrive: polls may be far apart"


async def test_each_api_by_its_own_signature(free_port: int) -> None:
    async with receiving(free_port) as post:
        fal, bfl = b'{"request_id": "other"}', b'{"id": "t1"}'
        signed = {"X-BFL-Signature": f"sha256={sha256_hmac(b'own-secret', bfl).hex()}"}
        tasks = {"f": "f1", "b": "t1", "n": "t9"}
        for name, body, headers in (
            ("f", fal, by_fal("f1", fal)),
            ("b", bfl, signed),
            ("b", bfl, None),
            ("n", b'{"task_id": "t9"}', None),
        ):
            style = {"f": "fal", "b": "bfl", "n": "native"}[name]
            job = numbered_job(1, provider=name, style=style)
            with post.wakes.awaited(job, tasks[name], hooked=True) as wake:
                assert await post.call(name, body, headers) == 200
                assert wake.heard, name


@pytest.mark.parametrize(
    ("status", "how"),
    [
        (401, lambda post: post.forged("p1", "v1,AAAA")),
        (401, lambda post: post.replicate("p1", at=AT - 301)),
        (401, lambda post: post.call("r", b'{"id": "p1"}')),
        (401, lambda post: post.call("r", b'{"id": "p1"}', by_fal("p1", b'{"id": "p1"}'))),
        (401, lambda post: post.call("b", b'{"id": "p1"}', {"X-BFL-Signature": "sha256=00"})),
        (405, lambda post: post.call("r", b"", method="GET")),
        (405, lambda post: post.call("r", b"", method="HEAD")),
        (405, lambda post: post.call("r", b"{}", method="PUT")),
        (413, lambda post: post.call("r", bytes(MAX_BODY + 1))),
        (200, lambda post: post.call("n", bytes(MAX_BODY))),
        (200, lambda post: post.call("n", b"[" * 100_000)),
        (200, lambda post: post.call("n", b"")),
    ],
)
async def test_what_wakes_nobody(free_port: int, status: int, how: Callable[[Post], Any]) -> None:
    async with receiving(free_port) as post:
        with post.wakes.awaited(JOB, "p1", hooked=True) as wake:
            assert await how(post) == status
            assert not wake.heard
            assert not post.wakes.hooks["r", "replicate"].heard


@pytest.mark.parametrize("path", ["/", "", "/x", "//", "/webhooks?path={}", "/{}/", "/{}x", "/%2e%2e/", "/{}%00"])
async def test_a_path_that_is_none(free_port: int, path: str) -> None:
    async with receiving(free_port) as post:
        for method in ("POST", "GET"):
            where = post.url + path.format(post.path("r"))
            async with post.session.request(method, where, data=b"{}", allow_redirects=False) as answer:
                assert answer.status == 404


async def test_a_proxy_may_put_a_path_in_front(free_port: int) -> None:
    async with receiving(free_port) as post:
        assert await post.call("n", b'{"id": "t"}', below="/hooks/batchflux") == 200


async def test_a_chunked_body_is_bounded_too(free_port: int) -> None:
    async with receiving(free_port) as post:

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(MAX_BODY // 65_536 + 2):
                yield bytes(65_536)

        try:
            async with post.session.post(f"{post.url}/{post.path('n')}", data=chunks()) as answer:
                assert answer.status == 413
        except aiohttp.ClientConnectionError:  # it was not read to its end
            assert post.receiver.answers[413] == 1


async def test_a_slow_body_and_a_cut_one(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving(free_port) as post:
        head = f"POST /{post.path('n')} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{"
        for cut in (False, True):
            reader, writer = await asyncio.open_connection("127.0.0.1", free_port)
            monkeypatch.setattr(module, "BODY_SECONDS", 60.0 if cut else 0.1)
            writer.write(head.encode())
            await writer.drain()
            if not cut:
                assert (await reader.readline()).startswith(b"HTTP/1.1 408")
            writer.close()
            await writer.wait_closed()
        assert await post.call("n", b"{}") == 200


async def test_what_is_no_http_is_not_logged(free_port: int, caplog: pytest.LogCaptureFixture) -> None:
    async with receiving(free_port) as post:
        reader, writer = await asyncio.open_connection("127.0.0.1", free_port)
        writer.write(f"POST /{post.path('n')} \x00canary\r\n\r\n".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.0 400")
        writer.close()
        await writer.wait_closed()
    assert caplog.text == ""


async def test_a_call_before_its_handle_is_on_record(free_port: int) -> None:
    async with receiving(free_port) as post:
        assert await post.replicate("early") == 200
        with post.wakes.awaited(JOB, "early", hooked=True) as wake:
            assert wake.called is not None
            assert wake.called.is_set()
        with post.wakes.awaited(JOB, "early", hooked=True) as wake:
            assert wake.called is not None
            assert not wake.called.is_set(), "once"


async def test_keys_are_asked_for_once_and_again_only_now_and_then(free_port: int) -> None:
    keys: dict[str, tuple[str, ...]] = {"r": (f"whsec_{b64encode(b'old').decode()}",)}
    async with receiving(free_port, keys) as post:
        assert {await post.replicate("p1") for _ in range(20)} == {401}
        assert post.asked == ["r"], "however many calls are signed by another key"
        keys["r"] = (WHSEC,)
        known = post.receiver._keys._known
        known.update({of: one._replace(asked=one.asked - module.KEYS_REST) for of, one in known.items()})
        assert await post.replicate("p1") == 200
        assert post.asked == ["r", "r"]


async def test_keys_are_believed_for_a_day(free_port: int) -> None:
    keys: dict[str, tuple[str, ...]] = {"r": (WHSEC,)}
    async with receiving(free_port, keys) as post:
        assert await post.replicate("p1") == 200
        keys.clear()
        known = post.receiver._keys._known
        known.update({of: one._replace(at=one.at - module.KEYS_HOLD) for of, one in known.items()})
        assert await post.replicate("p1") == 503
        keys["r"] = (WHSEC,)
        known.update({of: one._replace(asked=one.asked - module.KEYS_AWAY) for of, one in known.items()})
        assert await post.replicate("p1") == 200


async def test_without_keys_nothing_is_believed_and_the_api_may_call_again(free_port: int) -> None:
    async with receiving(free_port, {}) as post:
        assert {await post.replicate("p1") for _ in range(20)} == {503}
        assert await post.call("b", b'{"id": "t"}') == 200
        assert post.asked == ["r"]


async def test_a_port_that_is_taken(free_port: int) -> None:
    async with receiving(free_port):
        with pytest.raises(UsageError, match=rf"Cannot listen on port {free_port} .* under webhooks.listen"):
            async with receiving(free_port):
                raise AssertionError("two cannot listen there")


RIGHT = [f"p{number}" for number in range(20)]
LARGE = bytes(MAX_BODY + 1)
FLOOD: tuple[Callable[[Post, int], Any], ...] = (
    lambda post, n: post.forged(RIGHT[n % 20], f"v1,{n:043x}="),
    lambda post, n: post.replicate(RIGHT[n % 20], at=AT - 301 - n),
    lambda post, n: post.replicate(f"stranger-{n}"),
    lambda post, _: post.replicate("p0"),
    lambda post, n: post.call("r", b'{"id": "p%d"}' % (n % 20)),
    lambda post, n: post.call("r", LARGE if n % 200 == 5 else b"{}"),
    lambda post, n: post.call("f", b"{}", by_fal(f"stranger-{n}", b"{ }")),
    lambda post, n: post.elsewhere(f"{n:048x}"),
)


async def flood(post: Post, first: int, count: int) -> None:
    for start in range(first, first + count, 40):
        numbers = list(range(start, start + 40))
        random.Random(start).shuffle(numbers)
        await asyncio.gather(*(FLOOD[number % len(FLOOD)](post, number) for number in numbers))


@pytest.mark.parametrize("calls", [240, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_a_flood_is_not_believed_hides_nothing_and_grows_nothing(
    free_port: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forged, replayed, reordered and oversized calls, about tasks that are waited for and others."""
    monkeypatch.setattr(memory, "EARLY_CALLS", 64)
    async with receiving(free_port) as post:
        with ExitStack() as stack:
            waits = {name: post.wakes.awaited(JOB, name, hooked=True) for name in RIGHT}
            wakes = {name: stack.enter_context(wait) for name, wait in waits.items()}
            await flood(post, 0, calls // 2)
            before = held()
            await flood(post, calls // 2, calls // 2)
            blocks, pages = (now - then for now, then in zip(held(), before, strict=True))
            assert blocks < 5000, "allocated blocks"
            assert pages < 8192, "pages of 4 KiB"
            assert len(post.wakes._early) <= 64
            assert [name for name, wake in wakes.items() if wake.heard] == ["p0"], "of all that is waited for"
            assert wakes["p0"]._left == 0, f"its poll is woken {MOST_WAKES} times, and no more"
            assert {await post.replicate(name) for name in RIGHT} == {200}
            assert all(wake.heard for wake in wakes.values())
        assert post.wakes._awaited == {}
        assert set(post.receiver.answers) == {200, 401, 404, 413}


def held() -> tuple[int, int]:
    """Return how many blocks the interpreter has allocated, and how many pages the process has."""
    gc.collect()
    return sys.getallocatedblocks(), int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
