"""fal, Replicate and ComfyUI: asked over real HTTP, polled, and what each fault makes of it in the words of the API."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aiohttp
import pytest

from batchflux.simulator import FAULTS

if TYPE_CHECKING:
    from tests.simulator.conftest import Answer, Client, Serve, Tools

FAL = {"Authorization": "Key id:secret"}
REPLICATE = {"Authorization": "Bearer r8_key"}
KONTEXT = "/fal-ai/flux-pro/kontext/max/text-to-image"
PREDICTIONS = "/v1/models/black-forest-labs/flux-kontext-pro/predictions"


def graph(prompt: str = "A mug", image: str | None = None, seed: int = 1) -> dict[str, Any]:
    nodes: dict[str, Any] = {
        "1": {"class_type": "CLIPTextEncode", "inputs": {"text": prompt}},
        "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 1536, "height": 1024, "batch_size": 1}},
        "3": {"class_type": "KSampler", "inputs": {"seed": seed, "positive": ["1", 0], "latent_image": ["2", 0]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "night/cup"}},
    }
    if image is not None:
        nodes["4"] = {"class_type": "LoadImage", "inputs": {"image": image}}
    return nodes


async def submit(client: Client, api: str, prompt: str = "A mug") -> Answer:
    if api == "fal":
        return await client.post(KONTEXT, {"prompt": prompt, "aspect_ratio": "3:2"}, headers=FAL)
    if api == "replicate":
        body = {"input": {"prompt": prompt, "aspect_ratio": "3:2", "output_format": "jpg"}}
        return await client.post(PREDICTIONS, body, headers=REPLICATE)
    return await client.post("/prompt", {"prompt": graph(prompt), "client_id": "batchflux", "prompt_id": str(uuid4())})


async def poll(client: Client, api: str, submitted: dict[str, Any]) -> Answer:
    if api == "fal":
        return await client.get(submitted["status_url"], headers=FAL)
    if api == "replicate":
        return await client.get(submitted["urls"]["get"], headers=REPLICATE)
    return await client.get(f"/api/jobs/{submitted['prompt_id']}")


async def result(client: Client, api: str, submitted: dict[str, Any]) -> Answer:
    """Return the answer that holds the picture's address, or the failure."""
    return await (client.get(submitted["response_url"], headers=FAL) if api == "fal" else poll(client, api, submitted))


async def picture(client: Client, api: str, body: dict[str, Any]) -> bytes:
    if api == "comfyui":
        [image] = [one for one in body["outputs"]["9"]["images"] if one["type"] == "output"]
        return (await client.get("/view", params=image)).body
    return (await client.get(body["images"][0]["url"] if api == "fal" else body["output"])).body


@pytest.mark.parametrize("api", ["fal", "replicate", "comfyui"])
async def test_a_picture_is_submitted_polled_fetched_and_billed_once(
    serve: Serve, tools: type[Tools], api: str
) -> None:
    client = await serve()
    submitted = await submit(client, api)
    assert submitted.status == (201 if api == "replicate" else 200)
    for _ in range(2):
        assert (await poll(client, api, submitted.json)).status == 200
    answer = await result(client, api, submitted.json)
    drawn = tools.opened(await picture(client, api, answer.json))
    assert (drawn.format, drawn.size) == ("PNG" if api == "comfyui" else "JPEG", (64, 43))
    prices = {"fal": 8.0, "replicate": 4.0, "comfyui": 0.0}
    [charge] = client.simulator.requests.charges
    assert charge["credits"] == prices[api]
    assert client.simulator.requests.answered == 1


async def test_fal_says_where_it_is_and_that_it_failed(serve: Serve) -> None:
    client = await serve(latency=60, keys=["id:secret"])
    assert (await client.post(KONTEXT, {"prompt": "A mug"}, headers=REPLICATE)).status == 401
    submitted = (await submit(client, "fal")).json
    assert submitted["status_url"].endswith(f"/fal-ai/flux-pro/requests/{submitted['request_id']}/status")
    waiting = await poll(client, "fal", submitted)
    assert (waiting.status, waiting.json["status"]) == (202, "IN_PROGRESS")
    refused = await client.post(KONTEXT, {"prompt": "A mug", "safety_tolerance": 2}, headers=FAL)
    assert (refused.status, refused.json["detail"][0]["loc"]) == (422, ["body", "safety_tolerance"])
    missing = await client.post("/fal-ai/flux-pro/kontext", {"prompt": "A mug"}, headers=FAL)
    assert (missing.status, missing.json["detail"][0]["loc"]) == (422, ["body", "image_url"])
    unknown = await client.get(f"/fal-ai/flux-pro/requests/{uuid4()}/status", headers=FAL)
    assert (unknown.status, unknown.json) == (404, {"status": "NOT_FOUND"})


# API: fault, the status of the last answer and what is in it, and whether it is billed.
ENDS = {
    "fal": [
        ("task_error", 500, "internal_error", False),
        ("task_failed", 422, "value_error", False),
        ("task_error_503", 503, "runner_connection_error", False),
        ("content_moderated", 422, "content_policy_violation", False),
        ("generation_timeout", 504, "generation_timeout", False),
        ("nsfw_picture", 200, '"has_nsfw_concepts":[true]', True),
        ("no_sample", 200, '"images":[]', True),
    ],
    "replicate": [
        ("task_error", 200, "E1000", False),
        ("task_failed", 200, '"status":"failed"', False),
        ("content_moderated", 200, "(E005)", False),
        ("task_aborted", 200, '"status":"aborted"', False),
        ("task_canceled", 200, '"status":"canceled"', True),
        ("data_removed", 200, '"data_removed":true', True),
        ("as_list", 200, '"output":["http', True),
        ("no_sample", 200, '"output":null', True),
    ],
    "comfyui": [
        ("task_error", 200, "RuntimeError", False),
        ("task_failed", 200, "ValueError", False),
        ("out_of_memory", 200, "OutOfMemoryError", False),
        ("interrupted", 200, '"status":"cancelled"', False),
        ("restart", 404, "Job not found", False),
        ("no_jobs_api", 404, "404: Not Found", True),
        ("preview_first", 200, '"type":"temp"', True),
        ("no_sample", 200, '"outputs":{}', True),
    ],
}


@pytest.mark.parametrize("api", ENDS)
async def test_its_ends_are_said_in_its_own_words(serve: Serve, api: str) -> None:
    client = await serve(script=[{"match": f"[{fault}]", "fault": fault} for fault, *_ in ENDS[api]])
    for fault, status, words, billed in ENDS[api]:
        before = client.simulator.requests.billed
        submitted = (await submit(client, api, f"A mug [{fault}]")).json
        answer = await result(client, api, submitted)
        seen = (answer.status, words in answer.body.decode(), client.simulator.requests.billed > before)
        assert seen == (status, True, billed), (fault, answer.body)
    assert set(client.simulator.requests.faults) == {fault for fault, *_ in ENDS[api]}


INSTEAD = {
    "fal": {"quota": (403, "Exhausted balance"), "auth": (401, "invalid key"), "model_not_found": (404, "detail")},
    "replicate": {
        "quota": (402, "Insufficient credit"),
        "throttled": (429, '"retry_after":1'),
        "low_credit": (429, "less than $5.0"),
        "rate_limited": (429, "resets in ~1s"),
        "model_not_found": (404, "could not be found"),
    },
    "comfyui": {
        "missing_model": (400, "value_not_in_list"),
        "node_errors": (200, "required_input_missing"),
        "server_500": (500, ""),
    },
}


@pytest.mark.parametrize("api", INSTEAD)
async def test_its_refusals_are_its_own(serve: Serve, api: str) -> None:
    client = await serve(script=[{"match": f"[{fault}]", "fault": fault} for fault in INSTEAD[api]])
    for fault, (status, words) in INSTEAD[api].items():
        answer = await submit(client, api, f"A mug [{fault}]")
        assert (answer.status, words in answer.body.decode()) == (status, True), (fault, answer.body)


@pytest.mark.parametrize("fault", sorted(name for name, fault in FAULTS.items() if fault.stage == "poll"))
@pytest.mark.parametrize("api", ["fal", "replicate", "comfyui"])
async def test_polls_fail_twice_and_then_tell(serve: Serve, tools: type[Tools], api: str, fault: str) -> None:
    client = await serve(faults={fault: 1})
    submitted = (await submit(client, api)).json
    for number in (1, 2):
        asking = asyncio.create_task(poll(client, api, submitted))
        if fault == "poll_hang":
            await tools.until(partial(_hanging, client, number))
            asking.cancel()
        with suppress(asyncio.CancelledError, aiohttp.ClientError):
            assert b"Ready" not in (await asking).body
    assert (await poll(client, api, submitted)).status == 200


def _hanging(client: Client, polls: int) -> bool:
    return client.simulator.requests.polls["hang"] == polls


async def test_local_pictures_are_put_into_the_store_of_each(serve: Serve, tools: type[Tools]) -> None:
    client = await serve(faults={"echoed_input": 1})
    photo = tools.photo()
    token = (await client.post("/storage/auth/token?storage_type=fal-cdn-v3", {}, headers=FAL)).json
    bearer = {"Authorization": f"{token['token_type']} {token['token']}", "Content-Type": "image/png"}
    url = (await client.post("/files/upload", photo, headers=bearer)).json["access_url"]
    assert (await client.get(url)).body == photo
    body = {"prompt": "Red", "image_url": url}
    submitted = (await client.post("/fal-ai/flux-pro/kontext", body, headers=FAL)).json
    assert await picture(client, "fal", (await result(client, "fal", submitted)).json) == photo
    gone = {"prompt": "Red", "image_url": f"{url.rpartition('/')[0]}/{'0' * 64}.png"}
    refused = await client.post("/fal-ai/flux-pro/kontext", gone, headers=FAL)
    assert (refused.status, refused.json["detail"][0]["type"]) == (422, "file_download_error")

    form = aiohttp.FormData()
    form.add_field("content", photo, filename="cup.png", content_type="image/png")
    async with client.session.post(f"{client.base}/v1/files", data=form, headers=REPLICATE) as response:
        assert response.status == 201
        url = (await response.json())["urls"]["get"]
    submitted = (
        await client.post(PREDICTIONS, {"input": {"prompt": "Red", "input_image": url}}, headers=REPLICATE)
    ).json
    assert await picture(client, "replicate", (await poll(client, "replicate", submitted)).json) == photo

    names = []
    for data, overwrite in ((photo, ""), (photo, ""), (tools.photo(64, 64), ""), (tools.photo(64, 64), "true")):
        form = aiohttp.FormData({"type": "input", "overwrite": overwrite})
        form.add_field("image", data, filename="cup.png", content_type="image/png")
        async with client.session.post(f"{client.base}/upload/image", data=form) as response:
            names.append((await response.json())["name"])
    assert names == ["cup.png", "cup.png", "cup (1).png", "cup.png"]
    sent = {"prompt": graph(image="cup (1).png"), "client_id": "us"}
    job = (await client.post("/prompt", sent)).json
    assert await picture(client, "comfyui", (await poll(client, "comfyui", job)).json) == tools.photo(64, 64)
    refused = await client.post("/prompt", {"prompt": graph(image="other.png")})
    assert refused.json["node_errors"]["4"]["errors"][0]["type"] == "value_not_in_list"


async def test_replicate_waits_cancels_and_lists(serve: Serve) -> None:
    client = await serve(latency=0.05, script=[{"match": "Other", "fault": "task_slow"}])
    body = {"input": {"prompt": "A mug"}}
    waited = await client.post(PREDICTIONS, body, headers={**REPLICATE, "Prefer": "wait=60"})
    assert (waited.status, waited.json["status"]) == (201, "succeeded")
    short = await client.post(PREDICTIONS, body, headers={**REPLICATE, "Cancel-After": "3s"})
    assert short.status == 422
    by_version = {"version": "owner/name:0f", "input": {"prompt": "Other"}}
    created = await client.post("/v1/predictions", by_version, headers={**REPLICATE, "Cancel-After": "1m30s"})
    assert created.json["deadline"] > created.json["created_at"]
    assert (await poll(client, "replicate", created.json)).json["status"] == "processing"
    stopped = await client.post(f"/v1/predictions/{created.json['id']}/cancel", {}, headers=REPLICATE)
    assert stopped.json["status"] == "canceled"
    assert client.simulator.requests.billed == 2, "what has begun is paid for"
    listed = (await client.get("/v1/predictions", headers=REPLICATE)).json
    assert [one["id"] for one in listed["results"]] == [created.json["id"], waited.json["id"]]
    assert listed["results"][1]["input"] == {"prompt": "A mug"}
    assert (await client.get("/v1/predictions", headers={"Authorization": "Bearer other"})).json["results"] == []


async def test_comfyui_takes_our_id_remembers_it_and_draws_no_graph_twice(serve: Serve) -> None:
    client = await serve()
    name = str(uuid4())
    body = {"prompt": graph(), "client_id": "us", "prompt_id": name}
    assert (await client.post("/prompt", body)).json["prompt_id"] == name
    assert (await client.post("/prompt", {**body, "prompt_id": name.upper() + "x"})).status == 400
    first = (await client.get(f"/history/{name}")).json[name]
    assert first["status"]["status_str"] == "success"
    again = (await client.post("/api/prompt", {**body, "prompt_id": str(uuid4())})).json["prompt_id"]
    assert (await client.get(f"/history/{again}")).json[again]["outputs"] == first["outputs"]
    nobody = (await client.post("/prompt", {"prompt": graph()})).json["prompt_id"]
    assert (await client.get(f"/history/{nobody}")).json[nobody]["outputs"] == {}
    assert client.simulator.requests.billed == 1
    assert (await client.get(f"/history/{uuid4()}")).json == {}
    assert json.loads((await client.get("/system_stats")).body)["system"]["comfyui_version"]


async def test_comfyui_shows_its_queue_and_cancels_what_waits(serve: Serve) -> None:
    client = await serve(faults={"task_stuck": 1})
    job = (await submit(client, "comfyui")).json["prompt_id"]
    assert [row[1] for row in (await client.get("/queue")).json["queue_pending"]] == [job]
    await client.post("/queue", {"delete": [job]})
    assert (await client.get("/queue")).json == {"queue_running": [], "queue_pending": []}
    assert (await client.get(f"/api/jobs/{job}")).json["status"] == "cancelled"
    assert (await client.get("/view?filename=../x.png")).status == 400
    assert client.simulator.requests.billed == 0
