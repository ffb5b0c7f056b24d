"""One row a fault: what a client sees of it."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from batchflux.simulator import FAULTS

if TYPE_CHECKING:
    from tests.simulator.conftest import Answer, Serve, Tools

BOTH = ("standard", "chat")
UPSTREAM = {
    "get_channel_failed",
    "channel:no_available_key",
    "bad_response_status_code",
    "do_request_failed",
    "empty_response",
}
MODERATION = {"sensitive_words_detected", "content_policy_violation", "prompt_blocked"}
# Fault, styles, HTTP status, the codes that may come (None: no JSON error).
PLAIN: list[tuple[str, tuple[str, ...], int, set[str | None] | None]] = [
    ("rate_limited", BOTH, 429, {"rate_limit_exceeded"}),
    ("rate_limited_date", BOTH, 429, {"rate_limit_exceeded"}),
    ("rate_limited_in_200", ("standard",), 200, {"rate_limit_exceeded"}),
    ("server_500", BOTH, 500, {None}),
    ("server_503", BOTH, 503, {None}),
    ("server_502_html", BOTH, 502, None),
    ("server_524_html", BOTH, 524, None),
    ("upstream_error", BOTH, 500, UPSTREAM),  # type: ignore[list-item]
    ("quota", BOTH, 429, {"insufficient_user_quota"}),
    ("auth", BOTH, 401, {"invalid_api_key"}),
    ("forbidden", BOTH, 403, {"access_denied"}),
    ("moderated", BOTH, 400, MODERATION),  # type: ignore[list-item]
    ("model_not_found", BOTH, 503, {"model_not_found"}),
]
SEEN_ELSEWHERE = {
    *["moderated_prose", "reset", "cut", "hang", "bad_json", "empty_body", "no_image", "error_event"],
    *["b64_json", "data_url", "bare_url", "missing_done", "split_utf8", "crlf_comments"],
    *["echoed_input", "dead_link", "refused_link", "flaky_link", "slow_link", "truncated_image", "html_image"],
    *["wrong_kind", "wrong_ratio", "unsafe_link", "redirect_loop"],
}


def test_every_fault_of_a_call_has_its_row() -> None:
    shown = {name for name, info in FAULTS.items() if info.apis & set(BOTH)}
    assert {name for name, *_ in PLAIN} | SEEN_ELSEWHERE == shown


@pytest.mark.parametrize(
    ("fault", "style", "status", "codes"),
    [(fault, style, status, codes) for fault, styles, status, codes in PLAIN for style in styles],
)
async def test_an_error_answer(serve: Serve, fault: str, style: str, status: int, codes: set[str] | None) -> None:
    client = await serve(faults={fault: 1})
    answer = await client.ask(style)
    assert answer.status == status
    if codes is None:
        assert answer.headers["Content-Type"].startswith("text/html")
        assert b"<html>" in answer.body
    else:
        assert answer.json["error"]["code"] in codes
    assert client.simulator.requests.faults == {fault: 1}
    assert client.simulator.requests.billed == 0


async def test_codes_vary_with_the_content(serve: Serve) -> None:
    client = await serve(faults={"upstream_error": 1})
    codes = {(await client.standard(f"mug {index}")).json["error"]["code"] for index in range(40)}
    assert codes == UPSTREAM


async def test_rate_limited_says_how_long(serve: Serve) -> None:
    answer = await (await serve(faults={"rate_limited": 1})).standard()
    assert int(answer.headers["Retry-After"]) >= 1


async def test_rate_limited_date_says_until_when(serve: Serve) -> None:
    answer = await (await serve(faults={"rate_limited_date": 1})).standard()
    until, now = (parsedate_to_datetime(answer.headers[name]) for name in ("Retry-After", "Date"))
    assert 0 < (until - now).total_seconds() <= 5


def events(answer: Answer) -> list[str]:
    return [line[6:] for line in answer.body.decode().splitlines() if line.startswith("data: ")]


async def test_rate_limited_in_200_in_a_stream(serve: Serve) -> None:
    answer = await (await serve(faults={"rate_limited_in_200": 1})).chat()
    assert answer.status == 200
    assert json.loads(events(answer)[0])["error"]["code"] == "rate_limit_exceeded"


async def test_moderated_prose(serve: Serve) -> None:
    answer = await (await serve(faults={"moderated_prose": 1})).chat()
    assert answer.status == 200
    assert "生成失败 ❌" in answer.text
    assert "失败原因：input_moderation" in answer.text  # noqa: RUF001  the colon is the relays'
    assert "![image]" not in answer.text


@pytest.mark.parametrize("style", BOTH)
async def test_reset(serve: Serve, style: str) -> None:
    client = await serve(faults={"reset": {"times": 1}})
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.ask(style)
    assert client.simulator.requests.billed == 1
    assert client.simulator.requests.answered == 0
    assert (await client.ask(style)).status == 200


async def test_reset_is_no_orderly_end(serve: Serve) -> None:
    client = await serve(faults={"reset": 1})
    reader, writer = await asyncio.open_connection("127.0.0.1", client.simulator.port)
    body = b'{"model":"m","prompt":"x"}'
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


@pytest.mark.parametrize("style", BOTH)
async def test_cut(serve: Serve, style: str) -> None:
    client = await serve(faults={"cut": 1})
    path = "/v1/images/generations" if style == "standard" else "/v1/chat/completions"
    body = {"model": "m", "prompt": "x"} if style == "standard" else None
    chat = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    async with client.session.post(f"{client.base}{path}", json=body or chat) as response:
        assert response.status == 200
        begun = await response.content.readany()
        assert begun
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert client.simulator.requests.billed == 1
    assert client.simulator.requests.answered == 0


@pytest.mark.parametrize("style", BOTH)
async def test_hang(serve: Serve, tools: type[Tools], style: str) -> None:
    client = await serve(faults={"hang": 1})
    hanging = asyncio.create_task(client.ask(style))
    await tools.until(lambda: client.simulator.requests.faults["hang"] == 1)
    assert not hanging.done()
    await client.simulator.stop()
    with pytest.raises(aiohttp.ClientConnectionError):
        await hanging


@pytest.mark.parametrize("style", BOTH)
async def test_bad_json(serve: Serve, style: str) -> None:
    answer = await (await serve(faults={"bad_json": 1})).ask(style)
    text = answer.body.decode() if style == "standard" else events(answer)[0]
    assert answer.status == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


@pytest.mark.parametrize("style", BOTH)
async def test_empty_body(serve: Serve, style: str) -> None:
    answer = await (await serve(faults={"empty_body": 1})).ask(style)
    assert (answer.status, answer.body) == (200, b"")


async def test_no_image(serve: Serve) -> None:
    client = await serve(faults={"no_image": 1})
    assert (await client.standard()).json["data"] == []
    assert (await client.chat()).text.strip() == "![image]()"


async def test_error_event(serve: Serve) -> None:
    answer = await (await serve(faults={"error_event": 1})).chat()
    assert answer.status == 200
    assert "event: error" in answer.body.decode()
    assert json.loads(events(answer)[-1])["error"]["code"] == "bad_response_status_code"


async def test_b64_json(serve: Serve, tools: type[Tools]) -> None:
    client = await serve()
    linked = await client.get((await client.standard()).url)
    inline = (await (await serve(faults={"b64_json": 1})).standard()).json["data"][0]
    assert set(inline) == {"b64_json"}
    assert base64.b64decode(inline["b64_json"]) == linked.body
    assert tools.opened(linked.body).size == (64, 64)


async def test_data_url(serve: Serve) -> None:
    client = await serve()
    linked = await client.get((await client.chat()).url)
    answer = await (await serve(faults={"data_url": 1})).chat()
    assert answer.url.startswith("data:image/jpeg;base64,")
    assert base64.b64decode(answer.url.partition(",")[2]) == linked.body


async def test_bare_url(serve: Serve) -> None:
    client = await serve(faults={"bare_url": 1})
    answer = await client.chat()
    assert "](" not in answer.text
    assert (await client.get(answer.text.split()[-1])).status == 200


async def test_missing_done(serve: Serve) -> None:
    client = await serve(faults={"missing_done": 1})
    answer = await client.chat()
    assert b"[DONE]" not in answer.body
    assert (await client.get(answer.url)).status == 200


async def test_split_utf8(serve: Serve) -> None:
    client = await serve(faults={"split_utf8": 1})
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    async with client.session.post(f"{client.base}/v1/chat/completions", json=body) as response:
        packets = [packet async for packet in response.content.iter_any()]
    whole = await (await serve()).post("/v1/chat/completions", body)
    assert without_port_and_time(b"".join(packets)) == without_port_and_time(whole.body)
    cut = [packet for packet in packets if packet and not decodes(packet)]
    assert cut


def without_port_and_time(body: bytes) -> bytes:
    return re.sub(rb"127.0.0.1:\d+|\"created\":\d+", b"", body)


def decodes(packet: bytes) -> bool:
    try:
        packet.decode()
    except UnicodeDecodeError:
        return False
    return True


async def test_crlf_comments(serve: Serve) -> None:
    answer = await (await serve(faults={"crlf_comments": 1})).chat()
    assert b": ping\r\n\r\n" in answer.body
    assert answer.body.count(b"\n") == answer.body.count(b"\r\n")
    assert "![image](" in answer.text


async def test_echoed_input_is_the_reference_byte_for_byte(serve: Serve, tools: type[Tools]) -> None:
    client = await serve(faults={"echoed_input": 1})
    sent = tools.photo()
    assert (await client.get((await client.chat("Blue", sent)).url)).body == sent
    prompt = "https://photos.example/a.png Blue"
    assert (await client.chat(prompt)).url == "https://photos.example/a.png"
    assert (await client.standard(prompt)).url == "https://photos.example/a.png"


async def test_echoed_input_inline(serve: Serve, tools: type[Tools]) -> None:
    client = await serve(faults={"echoed_input": 1, "data_url": 1})
    sent = tools.photo()
    assert (await client.chat("Blue", sent)).url == tools.data_url(sent)


async def test_nothing_is_echoed_without_a_reference(serve: Serve) -> None:
    client = await serve(faults={"echoed_input": 1})
    assert (await client.get((await client.standard()).url)).status == 200


async def test_dead_link(serve: Serve) -> None:
    client = await serve(faults={"dead_link": {"times": 1}})
    dead = (await client.standard()).url
    assert [(await client.get(dead)).status for _ in range(2)] == [404, 404]
    assert (await client.get((await client.standard()).url)).status == 200


async def test_flaky_link(serve: Serve) -> None:
    client = await serve(faults={"flaky_link": 1})
    first, second = (await client.standard()).url, (await client.standard()).url
    assert first != second
    assert [(await client.get(first)).status for _ in range(3)] == [503, 200, 200]
    assert [(await client.get(second)).status for _ in range(2)] == [503, 200]
    assert client.simulator.requests.files == {503: 2, 200: 3}


async def test_refused_link(serve: Serve) -> None:
    client = await serve(faults={"refused_link": 1})
    link = (await client.standard()).url
    for headers, status in (({}, 403), ({"Referer": "https://r.example/"}, 200)):
        async with client.session.get(link, headers=headers) as response:
            assert response.status == status


async def test_slow_link(serve: Serve) -> None:
    client = await serve(faults={"slow_link": 1}, size=256)
    async with client.session.get((await client.standard()).url) as response:
        assert response.content_length is not None
        assert response.content_length > 4096
        assert len(await response.content.readany()) == 1024
        await client.simulator.stop()
        with pytest.raises(aiohttp.ClientError):
            await response.read()


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
async def test_truncated_image(serve: Serve, tools: type[Tools], kind: str) -> None:
    whole = await serve()
    client = await serve(faults={"truncated_image": 1})
    full = (await whole.get((await whole.standard(output_format=kind)).url)).body
    half = await client.get((await client.standard(output_format=kind)).url)
    assert half.body == full[: len(full) // 2]
    assert int(half.headers["Content-Length"]) == len(half.body)
    with pytest.raises(OSError, match=r"truncated|broken|cannot identify|decod"):
        tools.opened(half.body)


async def test_html_image(serve: Serve) -> None:
    client = await serve(faults={"html_image": 1})
    page = await client.get((await client.standard(output_format="png")).url)
    assert (page.status, page.headers["Content-Type"]) == (200, "image/png")
    assert b"<html>" in page.body


@pytest.mark.parametrize(("asked", "given"), [("png", "JPEG"), ("jpeg", "PNG"), ("webp", "JPEG")])
async def test_wrong_kind(serve: Serve, tools: type[Tools], asked: str, given: str) -> None:
    client = await serve(faults={"wrong_kind": 1})
    page = await client.get((await client.standard(output_format=asked)).url)
    assert page.headers["Content-Type"] == f"image/{asked}"
    assert tools.opened(page.body).format == given


async def test_wrong_ratio(serve: Serve, tools: type[Tools]) -> None:
    client = await serve(faults={"wrong_ratio": 1})
    for ratio in ("1:1", "16:9", "9:16", "3:2", "21:9", "9:21"):
        picture = tools.opened((await client.get((await client.standard(aspect_ratio=ratio)).url)).body)
        wide, high = map(int, ratio.split(":"))
        assert abs(picture.width / picture.height / (wide / high) - 1) > 0.25, ratio


@pytest.mark.parametrize("style", BOTH)
async def test_unsafe_link(serve: Serve, style: str) -> None:
    answer = await (await serve(faults={"unsafe_link": 1})).ask(style)
    assert answer.url.startswith("http://169.254.169.254/")


async def test_redirect_loop(serve: Serve) -> None:
    client = await serve(faults={"redirect_loop": 1})
    url = (await client.standard()).url
    answer = await client.get(url, allow_redirects=False)
    assert (answer.status, f"{client.base}{answer.headers['Location']}") == (302, url)
    with pytest.raises(aiohttp.TooManyRedirects):
        await client.get(url)


async def test_forms_apply_together_and_a_link_fault_besides(serve: Serve) -> None:
    client = await serve(faults={"crlf_comments": 1, "missing_done": 1, "dead_link": 1})
    answer = await client.chat()
    assert b": ping\r\n" in answer.body
    assert b"[DONE]" not in answer.body
    assert (await client.get(answer.url)).status == 404
    assert client.simulator.requests.faults == {"crlf_comments": 1, "missing_done": 1, "dead_link": 1}


async def test_a_fault_of_the_other_style_is_passed_over(serve: Serve) -> None:
    client = await serve(faults={"moderated_prose": 1, "data_url": 1})
    assert (await client.standard()).url.startswith(client.base)


async def statuses(client: Any, prompts: list[str], times: int) -> list[list[int]]:
    return [[(await client.standard(prompt)).status for _ in range(times)] for prompt in prompts]


async def test_chance_repeats_by_seed_and_a_retry_draws_anew(serve: Serve) -> None:
    prompts = [f"mug {index}" for index in range(40)]
    first, again, other = [
        await statuses(await serve(faults={"server_500": 0.5}, seed=seed), prompts, 3) for seed in (1, 1, 2)
    ]
    assert first == again
    assert first != other
    assert any(len(set(row)) == 2 for row in first)
    failed = sum(row.count(500) for row in first)
    assert 35 <= failed <= 85


async def test_chance_does_not_depend_on_the_order_of_requests(serve: Serve) -> None:
    prompts = [f"mug {index}" for index in range(20)]
    forward = await statuses(await serve(faults={"server_500": 0.5}), prompts, 1)
    backward = await statuses(await serve(faults={"server_500": 0.5}), prompts[::-1], 1)
    assert forward == backward[::-1]


async def test_times_count_per_content(serve: Serve) -> None:
    client = await serve(faults={"server_500": {"times": 2}, "quota": {"times": 3}})
    assert await statuses(client, ["a", "b"], 4) == [[500, 500, 429, 200]] * 2


async def test_a_script_goes_by_prompt_in_order(serve: Serve) -> None:
    script = [
        {"match": "red mug", "fault": "server_500", "times": 1},
        {"match": "mug", "fault": "quota", "times": 1},
        {"match": "vase", "fault": "auth"},
    ]
    client = await serve(script=script)
    prompts = ["a red mug", "a mug", "a vase", "a lamp"]
    assert await statuses(client, prompts, 3) == [[500, 429, 200], [429, 200, 200], [401] * 3, [200] * 3]
