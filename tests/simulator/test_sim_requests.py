from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from batchflux.simulator.replies import Refusal
from batchflux.simulator.requests import parse_request, split_urls

if TYPE_CHECKING:
    from batchflux.simulator.replies import Api
    from tests.simulator.conftest import Client, Serve, Tools

IMAGES = "/v1/images/generations"
CHAT = "/v1/chat/completions"
STANDARD = {"model": "m", "prompt": "A mug"}


@pytest.fixture
async def client(serve: Serve) -> Client:
    return await serve()


def refused(answer: Any, param: str | None) -> None:
    assert answer.status == 400
    error = answer.json["error"]
    assert set(answer.json) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param, error["message"]
    assert error["message"]


BAD_STANDARD: list[tuple[dict[str, Any], str]] = [
    ({"n": 1}, "n"),
    ({"size": "1024x1024"}, "size"),
    ({"input_image": "aGk="}, "input_image"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": "   "}, "prompt"),
    ({"prompt": ["A mug"]}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": "https://a.example/x.png"}, "prompt"),
    ({"prompt": "https://a.example/x.png  https://a.example/y.png Go"}, "prompt"),
    ({"prompt": "https:///x.png Go"}, "prompt"),
    ({"prompt": "https://[::1/x.png Go"}, "prompt"),
    ({"model": ""}, "model"),
    ({"model": None}, "model"),
    ({"model": 4}, "model"),
    ({"seed": "42"}, "seed"),
    ({"seed": 4.0}, "seed"),
    ({"seed": True}, "seed"),
    ({"seed": 1 << 63}, "seed"),
    ({"aspect_ratio": 1.5}, "aspect_ratio"),
    ({"aspect_ratio": 969}, "aspect_ratio"),
    ({"aspect_ratio": "16x9"}, "aspect_ratio"),
    ({"aspect_ratio": "22:9"}, "aspect_ratio"),
    ({"aspect_ratio": "9:22"}, "aspect_ratio"),
    ({"aspect_ratio": "0:9"}, "aspect_ratio"),
    ({"aspect_ratio": "16:0"}, "aspect_ratio"),
    ({"aspect_ratio": "16:9\n"}, "aspect_ratio"),
    ({"aspect_ratio": "-16:-9"}, "aspect_ratio"),
    ({"output_format": "gif"}, "output_format"),
    ({"output_format": "PNG"}, "output_format"),
    ({"output_format": None}, "output_format"),
    ({"output_format": ["png"]}, "output_format"),
    ({"safety_tolerance": 7}, "safety_tolerance"),
    ({"safety_tolerance": -1}, "safety_tolerance"),
    ({"safety_tolerance": "2"}, "safety_tolerance"),
    ({"safety_tolerance": True}, "safety_tolerance"),
    ({"prompt_upsampling": 1}, "prompt_upsampling"),
    ({"prompt_upsampling": "true"}, "prompt_upsampling"),
    ({"webhook_url": "ftp://a.example"}, "webhook_url"),
    ({"webhook_url": "https://"}, "webhook_url"),
    ({"webhook_url": 1}, "webhook_url"),
    ({"webhook_secret": 1}, "webhook_secret"),
]


async def test_standard_refuses(client: Client) -> None:
    for fields, param in BAD_STANDARD:
        refused(await client.post(IMAGES, {**STANDARD, **fields}), param)


async def test_standard_needs_model_and_prompt(client: Client) -> None:
    for missing in STANDARD:
        refused(await client.post(IMAGES, {key: value for key, value in STANDARD.items() if key != missing}), missing)


GOOD_STANDARD: list[dict[str, Any]] = [
    {},
    {"seed": 0},
    {"seed": -1},
    {"seed": None, "aspect_ratio": None, "webhook_url": None, "webhook_secret": None},
    {"aspect_ratio": "21:9"},
    {"aspect_ratio": "9:21"},
    {"aspect_ratio": ""},
    {"aspect_ratio": "5:4"},
    {"output_format": "jpeg", "safety_tolerance": 0},
    {"output_format": "webp", "safety_tolerance": 6, "prompt_upsampling": False},
    {"webhook_url": "https://hooks.example/done", "webhook_secret": "s3cret"},
    {"prompt": "https://a.example/x.png https://b.example/y.png Put them together"},
    {"prompt": "Use https://a.example/x.png as it is"},
]


async def test_standard_accepts(client: Client) -> None:
    for fields in GOOD_STANDARD:
        answer = await client.post(IMAGES, {**STANDARD, **fields})
        assert answer.status == 200, (fields, answer.body)
        assert set(answer.json) == {"created", "data"}
        assert set(answer.json["data"][0]) == {"url"}
        assert (await client.get(answer.url)).status == 200


@pytest.mark.parametrize("path", [IMAGES, CHAT])
async def test_a_body_that_is_no_json_object_is_refused(client: Client, path: str) -> None:
    for raw in (b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000):
        refused(await client.post(path, raw), None)


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


PNG = "data:image/png;base64,"
BAD_CHAT: list[tuple[dict[str, Any], str]] = [
    ({"stream": False}, "stream"),
    ({"stream": None}, "stream"),
    ({"stream": "true"}, "stream"),
    ({"seed": 1}, "seed"),
    ({"aspect_ratio": "1:1"}, "aspect_ratio"),
    ({"model": ""}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": "A mug"}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": ["A mug"]}, "messages[0]"),
    ({"messages": [{"role": "robot", "content": "A mug"}]}, "messages[0].role"),
    ({"messages": [{"role": ["user"], "content": "A mug"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": "A mug", "name": "x"}]}, "messages[0].name"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, "messages"),
    (user(""), "messages"),
    (user([]), "messages[0].content"),
    (user(["A mug"]), "messages[0].content[0]"),
    (user([{"type": "text"}]), "messages[0].content[0]"),
    (user([{"type": "text", "text": 4}]), "messages[0].content[0].text"),
    (user([{"type": "image", "image": "x"}]), "messages[0].content[0]"),
    (user([{"type": "text", "text": "x", "more": 1}]), "messages[0].content[0]"),
    (user([{"type": "image_url", "image_url": PNG}]), "messages[0].content[0].image_url"),
    (
        user([{"type": "image_url", "image_url": {"url": "https://a.example/x.png"}}]),
        "messages[0].content[0].image_url.url",
    ),
    (user([{"type": "image_url", "image_url": {"url": f"{PNG}???"}}]), "messages[0].content[0].image_url.url"),
    (user([{"type": "image_url", "image_url": {"url": f"{PNG}aGVsbG8="}}]), "messages[0].content[0].image_url.url"),
    (
        user([{"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODlhAQAB"}}]),
        "messages[0].content[0].image_url.url",
    ),
    (
        user([{"type": "image_url", "image_url": {"url": "data:image/png,x"}}]),
        "messages[0].content[0].image_url.url",
    ),
]


async def test_chat_refuses(client: Client, tools: type[Tools]) -> None:
    for fields, param in BAD_CHAT:
        refused(await client.post(CHAT, {**tools.chat_body("A mug"), **fields}), param)


async def test_chat_refuses_half_a_picture(client: Client, tools: type[Tools]) -> None:
    whole = tools.photo(400, 300)
    refused(await client.chat("A mug", whole[: len(whole) // 2]), "messages[0].content[1].image_url.url")


async def test_chat_refuses_a_png_that_says_it_is_a_jpeg(client: Client, tools: type[Tools]) -> None:
    body = user([{"type": "image_url", "image_url": {"url": tools.data_url(tools.photo(), "image/jpeg")}}])
    refused(await client.post(CHAT, {**tools.chat_body("x"), **body}), "messages[0].content[0].image_url.url")


async def test_chat_needs_a_text_beside_the_picture(client: Client, tools: type[Tools]) -> None:
    body = user([{"type": "image_url", "image_url": {"url": tools.data_url(tools.photo())}}])
    refused(await client.post(CHAT, {**tools.chat_body("x"), **body}), "messages")


NAMES = st.sampled_from(
    [
        "model",
        "prompt",
        "seed",
        "aspect_ratio",
        "output_format",
        "safety_tolerance",
        "webhook_url",
        "messages",
        "stream",
        "role",
        "content",
        "type",
        "text",
        "image_url",
        "url",
        "system",
        "user",
        "missing-x",
        "16:9",
        "png",
        "https://a.example/x.png",
        "data:image/png;base64,aGk=",
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | NAMES
WILD = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=5
)


@settings(max_examples=30)
@given(st.sampled_from(["standard", "chat"]), st.dictionaries(NAMES, WILD, max_size=5))
def test_any_body_is_taken_or_refused_in_the_documented_shape(api: Api, body: dict[str, Any]) -> None:
    whole = {"model": "m", **({"prompt": "x"} if api == "standard" else {"stream": True}), **body}
    try:
        ask = parse_request(api, json.dumps(whole).encode())
    except Refusal as refusal:
        error = json.loads(refusal.reply.body)["error"]
        kinds = {400: "invalid_request_error", 503: "new_api_error"}
        assert kinds[refusal.reply.status] == error["type"]  # noqa: PT017  an Ask is as good an end
        return
    assert ask.prompt.strip()


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["https://a.example/x.png", "http://b.example"]), max_size=4), st.text(min_size=1))
def test_urls_and_prompt_come_apart_as_they_were_put_together(urls: list[str], prompt: str) -> None:
    assume(prompt.strip() and not prompt[0].isspace() and not prompt.startswith("http"))
    assert split_urls(" ".join([*urls, prompt]), "prompt") == (tuple(urls), prompt)


@pytest.mark.parametrize("style", ["standard", "chat"])
async def test_a_model_that_nobody_serves(client: Client, tools: type[Tools], style: str) -> None:
    body = STANDARD if style == "standard" else tools.chat_body("A mug")
    answer = await client.post(IMAGES if style == "standard" else CHAT, {**body, "model": "missing-pro"})
    assert answer.status == 503
    assert answer.json["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic good", "good", "Bearer"])
async def test_without_a_known_key_nobody_comes_in(serve: Serve, header: str | None) -> None:
    client = await serve(keys=["good", "better"])
    headers = {"Authorization": header} if header else {}
    answer = await client.post(IMAGES, STANDARD, headers=headers)
    assert answer.status == 401
    assert answer.json["error"]["code"] == "invalid_api_key"
    assert (await client.get("/v1/models", headers=headers)).status == 401


async def test_a_known_key_comes_in_and_links_need_none(serve: Serve) -> None:
    client = await serve(keys=["good", "better"])
    answer = await client.post(IMAGES, STANDARD, headers={"Authorization": "Bearer better"})
    assert answer.status == 200
    assert (await client.get(answer.url)).status == 200


async def test_other_paths_and_methods_have_the_documented_shape(client: Client) -> None:
    missing = await client.get("/v1/nothing")
    assert (missing.status, missing.json["error"]["type"]) == (404, "invalid_request_error")
    wrong = await client.get(IMAGES)
    assert (wrong.status, wrong.headers["Allow"]) == (405, "POST")


async def test_a_body_beyond_all_measure_is_refused(client: Client) -> None:
    body = BytesIO(b"x" * ((64 << 20) + 1))
    async with client.session.post(f"{client.base}{IMAGES}", data=body) as response:
        assert response.status == 413
        assert (await response.json())["error"]["code"] == "request_too_large"
