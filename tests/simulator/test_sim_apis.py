"""Every API whose answer holds the picture: asked over real HTTP, and refused as itself."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.simulator import FAULTS, SERVED
from batchflux.simulator.apis import DIALECTS, Asked, told
from batchflux.simulator.replies import Api, Refusal

if TYPE_CHECKING:
    from tests.simulator.conftest import Answer, Client, Serve, Tools

KEY = "sk-test"
GEMINI = "/v1beta/models/gemini-3-pro-image"
# API: path, a good body, where the key is.
ASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": ("/v1/images/generations", {"model": "gpt-image-1.5", "prompt": "A mug", "size": "1536x1024"}),
    "gemini": (
        f"{GEMINI}:generateContent",
        {
            "contents": [{"role": "user", "parts": [{"text": "A mug"}]}],
            "generationConfig": {"responseModalities": ["IMAGE"], "imageConfig": {"aspectRatio": "3:2"}},
        },
    ),
    "openrouter": ("/api/v1/images", {"model": "google/flash-image", "prompt": "A mug", "aspect_ratio": "3:2"}),
    "together": (
        "/together/v1/images/generations",
        {"model": "black-forest-labs/FLUX.1-kontext-pro", "prompt": "A mug", "width": 1536, "height": 1024},
    ),
    "siliconflow": (
        "/siliconflow/v1/images/generations",
        {"model": "Qwen/Qwen-Image", "prompt": "A mug", "image_size": "1536x1024"},
    ),
}
CHAT = {
    "model": "google/flash-image",
    "modalities": ["image", "text"],
    "messages": [{"role": "user", "content": "A mug"}],
}
GIVEN = [pytest.param(api, id=api) for api in ASKS]


def key_of(api: str) -> dict[str, str]:
    return {"x-goog-api-key": KEY} if api == "gemini" else {"Authorization": f"Bearer {KEY}"}


async def ask(client: Client, api: str, **more: Any) -> Answer:
    path, body = ASKS[api]
    return await client.post(path, {**body, **more}, headers=key_of(api))


async def picture_in(client: Client, api: str, answer: Answer) -> bytes:
    """Return the picture, from where the API puts it."""
    said = answer.json
    if api == "gemini":
        parts = said["candidates"][0]["content"]["parts"]
        data = [part["inlineData"]["data"] for part in parts if "inlineData" in part and not part.get("thought")]
        return base64.b64decode(data[-1])
    one = said["images"][0] if api == "siliconflow" else said["data"][0]
    return base64.b64decode(one["b64_json"]) if "b64_json" in one else (await client.get(one["url"])).body


@pytest.mark.parametrize("api", GIVEN)
async def test_a_picture_of_the_ratio_asked_for_and_what_it_cost(serve: Serve, tools: type[Tools], api: str) -> None:
    client = await serve(keys=[KEY])
    answer = await ask(client, api)
    assert answer.status == 200, answer.body
    picture = tools.opened(await picture_in(client, api, answer))
    assert picture.width / picture.height == pytest.approx(1.5, abs=0.05)
    [charge] = client.simulator.requests.charges
    assert charge["credits"] > 0
    again = await ask(client, api)
    assert await picture_in(client, api, again) == await picture_in(client, api, answer)
    assert client.simulator.requests.repeated == 1


async def test_what_is_charged_is_what_the_answers_say(serve: Serve) -> None:
    client = await serve()
    usage = (await ask(client, "openai")).json["usage"]
    details = usage["input_tokens_details"]
    dollars = (details["text_tokens"] * 5 + details["image_tokens"] * 8 + usage["output_tokens"] * 32) / 1e6
    assert client.simulator.requests.charges[-1]["credits"] == pytest.approx(dollars * 100)
    usage = (await ask(client, "gemini")).json["usageMetadata"]
    dollars = (usage["promptTokenCount"] * 2 + usage["candidatesTokenCount"] * 120) / 1e6
    assert client.simulator.requests.charges[-1]["credits"] == pytest.approx(dollars * 100)
    cost = (await ask(client, "openrouter")).json["usage"]["cost"]
    assert client.simulator.requests.charges[-1]["credits"] == pytest.approx(cost * 100)


@pytest.mark.parametrize("api", GIVEN)
async def test_without_its_key_nobody_comes_in(serve: Serve, api: str) -> None:
    client = await serve(keys=[KEY])
    path, body = ASKS[api]
    status = 400 if api == "gemini" else 401
    other = key_of("openai" if api == "gemini" else "gemini")  # the other's header holds no key here
    for headers in ({}, other):
        assert (await client.post(path, body, headers=headers)).status == status
    assert client.simulator.requests.billed == 0


# Fault: status and what the body has in it, by API.
SEEN: dict[str, dict[str, tuple[int, str]]] = {
    "openai": {
        "moderated": (400, '"code":"moderation_blocked"'),
        "moderated_output": (400, '"moderation_stage":"output"'),
        "quota": (429, '"code":"insufficient_quota"'),
        "billing_limit": (400, "billing_hard_limit_reached"),
        "forbidden": (403, "organization_must_be_verified"),
        "model_not_found": (404, '"code":"model_not_found"'),
        "rate_limited": (429, '"code":"rate_limit_exceeded"'),
        "no_image": (200, '"data":[]'),
        "as_link": (200, '"url":"http'),
        "server_503": (503, '"type":"server_error"'),
    },
    "gemini": {
        "moderated": (200, '"finishReason":"IMAGE_SAFETY"'),
        "blocked_prompt": (200, '"blockReason":"PROHIBITED_CONTENT"'),
        "auth": (400, '"reason":"API_KEY_INVALID"'),
        "quota": (429, "PerDay"),
        "rate_limited": (429, '"retryDelay":"1s"'),
        "model_not_found": (404, '"status":"NOT_FOUND"'),
        "region": (400, "FAILED_PRECONDITION"),
        "no_image": (200, '"finishReason":"NO_IMAGE"'),
        "text_only": (200, "I cannot draw"),
        "snake_case": (200, '"inline_data":{"mime_type"'),
        "server_500": (500, '"status":"INTERNAL"'),
    },
    "openrouter": {
        "moderated": (403, '"reasons":["violence"]'),
        "moderated_raw": (502, "Request Moderated"),
        "quota": (402, '"code":402'),
        "in_flight": (402, "openrouter_in_flight_budget"),
        "key_limit": (403, "Key limit exceeded"),
        "error_in_200": (200, '"error":{"code":502'),
        "model_not_found": (404, '"code":404'),
        "rate_limited": (429, '"code":429'),
        "no_image": (200, '"data":[]'),
    },
    "together": {
        "moderated": (422, "NSFW"),
        "quota": (402, '"insufficient_quota"'),
        "model_not_found": (404, "model_not_available"),
        "auth": (401, '"code":"invalid_api_key"'),
    },
    "siliconflow": {
        "moderated": (400, "sensitive"),
        "quota": (403, '"code":30001'),
        "auth": (401, "Api key is invalid"),
        "server_503": (503, '"code":50505'),
        "model_not_found": (400, '"code":20012'),
    },
}


@pytest.mark.parametrize("api", GIVEN)
async def test_its_faults_are_said_in_its_own_words(serve: Serve, api: str) -> None:
    paid = {"openai": 3, "gemini": 3, "openrouter": 1}  # of the faults above: what was made all the same
    client = await serve(script=[{"match": f"[{fault}]", "fault": fault} for fault in SEEN[api]])
    for fault, (status, words) in SEEN[api].items():
        prompt = f"A mug [{fault}]"
        more = {"contents": [{"parts": [{"text": prompt}]}]} if api == "gemini" else {"prompt": prompt}
        answer = await ask(client, api, **more)
        assert (answer.status, words in answer.body.decode()) == (status, True), (fault, answer.body)
    assert set(client.simulator.requests.faults) == set(SEEN[api])
    assert client.simulator.requests.billed == paid.get(api, 0)


def test_the_table_above_has_every_fault_that_an_api_has_alone() -> None:
    for api in ASKS:
        own = {name for name, fault in FAULTS.items() if fault.apis == {api}}
        assert own <= {*SEEN[api], "no_usage"}


async def test_a_chat_brings_the_picture_whole_or_streamed(serve: Serve, tools: type[Tools]) -> None:
    client = await serve()
    whole = (await client.post("/api/v1/chat/completions", CHAT)).json
    streamed = await client.post("/api/v1/chat/completions", {**CHAT, "stream": True})
    frames = [json.loads(line[6:]) for line in streamed.body.decode().splitlines() if line.startswith("data: {")]
    deltas = [choice["delta"] for frame in frames for choice in frame["choices"]]
    urls = [one["image_url"]["url"] for delta in deltas for one in delta.get("images", ())]
    assert urls == [one["image_url"]["url"] for one in whole["choices"][0]["message"]["images"]]
    assert tools.opened(base64.b64decode(urls[0].partition(",")[2])).format == "PNG"
    assert frames[-1]["usage"]["cost"] == whole["usage"]["cost"] == 0.04
    refused = await client.post("/api/v1/chat/completions", {**CHAT, "model": "openai/gpt-image-1.5"})
    assert refused.status == 500
    assert (await client.post("/api/v1/images/generations", CHAT)).status == 404


async def test_references_come_as_each_api_takes_them(serve: Serve, tools: type[Tools]) -> None:
    """As data URLs and inline, and an echo gives back the very bytes."""
    client = await serve(faults={"echoed_input": 1})
    photo = tools.photo()
    url, inline = tools.data_url(photo), {"mimeType": "image/png", "data": base64.b64encode(photo).decode()}
    part = {"type": "image_url", "image_url": {"url": url}}
    answers = {
        "gemini": await ask(client, "gemini", contents=[{"parts": [{"text": "Red"}, {"inlineData": inline}]}]),
        "openrouter": await ask(client, "openrouter", input_references=[part]),
        "together": await ask(client, "together", image_url=url),
        "siliconflow": await ask(client, "siliconflow", image=url),
    }
    edit = {"model": "gpt-image-1.5", "prompt": "Red", "images": [{"image_url": url}], "mask": {"image_url": url}}
    answers["openai"] = await client.post("/v1/images/edits", edit)
    for api, answer in answers.items():
        assert answer.status == 200, answer.body
        assert await picture_in(client, api, answer) == photo, api


async def test_a_mask_is_held_to_the_size_of_the_picture(serve: Serve, tools: type[Tools]) -> None:
    client = await serve()
    photo, other = tools.data_url(tools.photo()), tools.data_url(tools.photo(64, 64))
    body = {"model": "gpt-image-1.5", "prompt": "Red", "images": [{"image_url": photo}], "mask": {"image_url": other}}
    answer = await client.post("/v1/images/edits", body)
    assert (answer.status, answer.json["error"]["param"]) == (400, "mask")
    nothing = await client.post("/v1/images/edits", {"model": "gpt-image-1.5", "prompt": "Red", "images": []})
    assert (nothing.status, nothing.json["error"]["param"]) == (400, "image")


async def test_a_path_of_several_is_told_apart_by_the_model(serve: Serve) -> None:
    client = await serve()
    assert "b64_json" in (await ask(client, "openai")).json["data"][0]
    relays = {"model": "flux-kontext-pro", "prompt": "A mug"}
    assert "url" in (await client.post("/v1/images/generations", relays)).json["data"][0]


@pytest.mark.parametrize("api", SERVED)
async def test_one_api_alone_has_its_own_paths_and_no_others(serve: Serve, api: str) -> None:
    client = await serve(api=api)
    found = {path: await client.post(path.removeprefix(f"/{name}"), body) for name, (path, body) in ASKS.items()}
    there = {name for name, (path, _) in ASKS.items() if found[path].status != 404}
    others = there - {"openai", "together", "siliconflow"}  # which have one path
    assert others <= {api}
    if api in ASKS:
        assert found[ASKS[api][0]].status == 200


WORDS = (
    "model prompt n size quality stream images image_url mask contents parts text inlineData data generationConfig "
    "imageConfig aspectRatio responseModalities messages content type url modalities image input_references seed width "
    "height image_size partial_images input class_type inputs output_format background user 1:1 png IMAGE gpt-image-2 "
    "missing-x"
)
NAMES = st.sampled_from(WORDS.split())
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | NAMES
WILD = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=5
)
PATHS = {
    "openai": {"action": "edits"},
    "gemini": {"action": "generateContent", "model": "gemini-3-pro-image"},
    "openrouter": {"action": "chat/completions"},
    "fal": {"endpoint": "fal-ai/other"},
    "replicate": {"owner": "somebody", "name": "model"},
}
QUEUED: dict[str, dict[str, Any]] = {
    "fal": {"prompt": "A mug"},
    "replicate": {"input": {"prompt": "A mug"}},
    "comfyui": {"prompt": {"1": {"class_type": "SaveImage", "inputs": {"text": "A mug"}}}},
}


@settings(max_examples=60)
@given(st.sampled_from(sorted(DIALECTS)), st.dictionaries(NAMES, WILD, max_size=5), st.booleans())
def test_any_body_is_taken_or_refused_in_the_words_of_the_api(api: Api, body: dict[str, Any], good: bool) -> None:  # noqa: FBT001
    whole = {**((QUEUED.get(api) or ASKS[api][1]) if good else {}), **body}
    path = {"action": "images"} if good and api not in ("gemini", *QUEUED) else PATHS.get(api, {})
    try:
        request = DIALECTS[api].parse(Asked(raw=json.dumps(whole).encode(), path=path))
    except Refusal as refusal:
        reply = told(refusal.reply, api)
        assert reply.status in (400, 404, 422, 500)
        assert json.loads(reply.body)
        return
    assert request.prompt.strip()
