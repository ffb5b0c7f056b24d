from __future__ import annotations

import asyncio
import socket
import threading
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING

import aiohttp
import pytest

from batchflux.errors import UsageError
from batchflux.simulator import EmbeddedSimulator, Simulator, parse_options
from batchflux.simulator.endpoint import Throttle
from batchflux.simulator.journal import KEPT_CONTENTS, Journal
from batchflux.simulator.replies import Refusal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulator.conftest import Serve, Tools


async def test_beyond_the_rate_it_says_429_and_when_to_come_back(serve: Serve) -> None:
    client = await serve(rate="1/h", burst=3)
    answers = [await client.standard() for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[3].json["error"]["code"] == "rate_limit_exceeded"
    assert 3500 <= int(answers[3].headers["Retry-After"]) <= 3600
    remaining = [answer.headers["x-ratelimit-remaining-requests"] for answer in answers]
    assert remaining == ["2", "1", "0", "0", "0"]
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"3"}
    assert all(answer.headers["x-ratelimit-reset-requests"].endswith("ms") for answer in answers)


async def test_without_a_rate_no_header_speaks_of_one(serve: Serve) -> None:
    answer = await (await serve()).standard()
    assert not [name for name in answer.headers if name.lower().startswith("x-ratelimit")]


async def test_a_stream_carries_the_headers_too(serve: Serve) -> None:
    assert (await (await serve(rate="1/h")).chat()).headers["x-ratelimit-remaining-requests"] == "0"


def test_the_bucket_refills_with_time() -> None:
    now = [0.0]
    throttle = Throttle(parse_options({"rate": "2/s"}), lambda: now[0])

    def tries() -> list[str | None]:
        return [attempt() for _ in range(4)]

    def attempt() -> str | None:
        try:
            with throttle.admitted():
                return None
        except Refusal as refusal:
            return refusal.reply.headers["retry-after-ms"]

    assert tries() == [None, None, "500", "500"]
    now[0] = 0.4
    assert attempt() == "100"
    now[0] = 100.0
    assert tries() == [None, None, "500", "500"]


async def test_too_many_at_once_are_refused(serve: Serve, tools: type[Tools]) -> None:
    client = await serve(concurrency=2, faults={"script": [{"match": "hang", "fault": "hang"}]})
    hanging = [asyncio.create_task(client.standard(f"hang {index}")) for index in range(2)]
    await tools.until(lambda: client.simulator.requests.faults["hang"] == 2)
    refused = await client.standard()
    assert refused.status == 429
    assert refused.json["error"]["code"] == "token_concurrency_limit_reached"
    assert (await client.get("/v1/simulator/stats")).json["in_flight"] == 2
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    await tools.until(lambda: not client.simulator.in_flight)
    assert (await client.standard()).status == 200


async def test_counters_tell_what_was_paid_and_what_was_paid_twice(serve: Serve, tools: type[Tools]) -> None:
    client = await serve(faults={"script": [{"match": "bad", "fault": "server_500"}]})
    for prompt in ("a", "b", "a", "bad"):
        await client.standard(prompt)
    await client.chat("a", tools.photo())
    await client.post("/v1/images/generations", {"model": "m"})
    counters = client.simulator.requests
    assert sorted(counters.pictures.values()) == [1, 1, 2]
    assert sorted(counters.asked.values()) == [1, 1, 1, 2]
    assert (counters.received, counters.answered, counters.billed, counters.repeated) == (6, 4, 4, 1)
    assert counters.by_status == {200: 4, 500: 1, 400: 1}
    stats = (await client.get("/v1/simulator/stats")).json
    assert stats["by_status"] == {"200": 4, "400": 1, "500": 1}
    assert stats["repeated"] == 1


def test_the_journal_forgets_what_is_long_past() -> None:
    journal = Journal()
    for number in range(KEPT_CONTENTS + 10):
        journal.answer(f"{number:064x}"[::-1])
    assert journal.answered == KEPT_CONTENTS + 10
    assert len(journal.pictures) == KEPT_CONTENTS


async def test_a_webhook_is_never_called(serve: Serve) -> None:
    client = await serve()
    called = asyncio.Event()

    async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.set()
        writer.close()
        await writer.wait_closed()

    hook = await asyncio.start_server(note, "127.0.0.1", 0)
    async with hook:
        url = f"http://127.0.0.1:{hook.sockets[0].getsockname()[1]}/"
        answer = await client.standard(f"{url}x.png Blue", webhook_url=url, webhook_secret="s")
        assert (await client.get(answer.url)).status == 200
    assert not called.is_set()


async def test_health_and_models(serve: Serve) -> None:
    client = await serve()
    assert (await client.get("/healthz")).json == {"status": "ok"}
    models = (await client.get("/v1/models")).json
    assert models["object"] == "list"
    assert "flux-kontext-pro" in [model["id"] for model in models["data"]]


async def test_the_stream_is_noisy_and_repeats_itself(serve: Serve) -> None:
    client = await serve()
    prompts = [f"https://photos.example/{index}.png mug" for index in range(30)]
    said = [(await client.chat(prompt)).text for prompt in prompts]
    assert all("进度 **" in text for text in said)
    echoed = [prompt.split()[0] in text.split("![image]")[0] for prompt, text in zip(prompts, said, strict=True)]
    assert 5 < sum(echoed) < 25
    again = await serve()
    repeated = [(await again.chat(prompt)).text.replace(again.base, client.base) for prompt in prompts]
    assert repeated == said


async def test_the_picture_is_slow_when_told_and_the_stream_starts_at_once(serve: Serve) -> None:
    client = await serve(latency=30)
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    async with client.session.post(f"{client.base}/v1/chat/completions", json=body) as response:
        first = await response.content.readany()
    assert b'"role":"assistant"' in first


async def test_stopping_ends_what_is_still_running(
    serve: Serve, tools: type[Tools], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchflux.simulator.server._GRACE", 60.0)  # in which pictures that are due are still answered
    client = await serve(latency=60, faults={"script": [{"match": "hang", "fault": "hang"}]})
    running = [
        asyncio.create_task(client.ask(style, prompt)) for style in ("standard", "chat") for prompt in ("x", "hang")
    ]
    await tools.until(lambda: client.simulator.in_flight == 4)
    await client.simulator.stop()
    await client.simulator.stop()
    ends = await asyncio.gather(*running, return_exceptions=True)
    kinds = [end if isinstance(end, BaseException) else end.status for end in ends]
    assert kinds[::2] == [200, 200]
    assert all(isinstance(kind, aiohttp.ClientError) for kind in kinds[1::2])


async def test_a_port_in_use_is_said_in_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        simulator = Simulator(parse_options({"cache_dir": str(tmp_path / "uploads")}))
        with pytest.raises(UsageError, match=r"^Cannot listen on port \d+ of 127\.0\.0\.1 \(.*\): name another"):
            await simulator.start(port=taken.getsockname()[1])


def test_embedded_starts_and_stops_in_a_thread_of_its_own(tmp_path: Path) -> None:
    before = Counter(thread.name for thread in threading.enumerate())
    embedded = EmbeddedSimulator(parse_options({"cache_dir": str(tmp_path / "uploads"), "latency": 0}))
    host, port = embedded.start()
    assert host == "127.0.0.1"
    with urllib.request.urlopen(f"http://{host}:{port}/healthz") as response:
        assert response.status == 200
    embedded.stop()
    embedded.stop()
    assert not Counter(thread.name for thread in threading.enumerate()) - before  # an earlier test's may end meanwhile
    with pytest.raises(OSError, match="refused"), socket.create_connection((host, port)):
        pass


def test_embedded_says_why_it_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    embedded = EmbeddedSimulator(parse_options({"cache_dir": str(tmp_path / "file")}))
    with pytest.raises(UsageError, match="cannot be used"):
        embedded.start()
    embedded.stop()


async def test_embedded_serves_a_client_in_another_loop_and_stops_while_it_hangs(
    tmp_path: Path, tools: type[Tools]
) -> None:
    options = {"cache_dir": str(tmp_path / "uploads"), "latency": 0, "faults": {"hang": 1}}
    embedded = EmbeddedSimulator(parse_options(options))
    host, port = embedded.start()
    async with aiohttp.ClientSession() as session:
        body = {"model": "m", "prompt": "x"}
        url = f"http://{host}:{port}/v1/images/generations"
        hanging = asyncio.create_task(_post(session, url, body))
        await tools.until(lambda: embedded.simulator.requests.faults["hang"] == 1)
        await asyncio.to_thread(embedded.stop)
        with pytest.raises(aiohttp.ClientError):
            await hanging


async def _post(session: aiohttp.ClientSession, url: str, body: dict[str, str]) -> None:
    async with session.post(url, json=body) as response:
        await response.read()


@pytest.mark.parametrize(
    ("host", "opens"),
    [("127.0.0.1", None), ("::1", None), ("0.0.0.0", "any address of this machine, port {port},")],  # noqa: S104  says so
)
async def test_on_another_address_than_loopback_it_says_whom_it_lets_in(host: str, opens: str | None) -> None:
    simulator = Simulator(parse_options({}))
    await simulator.start(host)
    try:
        reach = None if opens is None else opens.format(port=simulator.port)
        assert simulator.opens == (
            reach and f"Everyone who can reach {reach} can use it and read what it was asked; nothing is encrypted."
        )
    finally:
        await simulator.stop()
