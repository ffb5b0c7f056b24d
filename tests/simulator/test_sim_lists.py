"""The lists of what fal and Replicate were asked: what of it they have, in pages, in a window of time."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from batchflux.simulator.queues import base

if TYPE_CHECKING:
    from tests.simulator.conftest import Client, Serve, Tools

FAL, REPLICATE = {"Authorization": "Key id:secret"}, {"Authorization": "Bearer r8_key"}
PREDICTIONS = "/v1/models/black-forest-labs/flux-kontext-pro/predictions"
KONTEXT = "fal-ai/flux-pro/kontext"
LIST = "/fal/v1/models/requests/by-endpoint"


def iso(offset: float) -> str:
    return datetime.fromtimestamp(time.time() + offset, UTC).isoformat()


async def fal_list(client: Client, **query: str) -> dict[str, Any]:
    query = {"endpoint_id": KONTEXT, "expand": "payloads", **query}
    body: dict[str, Any] = (await client.get(LIST, params=query, headers=FAL)).json
    return body


async def test_fal_lists_what_ended_with_its_input_to_the_letter(serve: Serve, tools: type[Tools]) -> None:
    client = await serve(latency=0, script=[{"match": "slow", "fault": "task_slow"}])
    body = {"prompt": "A mug", "image_url": tools.data_url(tools.photo()), "guidance_scale": 3.0}
    submitted = (await client.post(f"/{KONTEXT}", body, headers=FAL)).json
    await client.post(f"/{KONTEXT}", {**body, "prompt": "A slow mug"}, headers=FAL)
    await client.post(f"/{KONTEXT}", body, headers={"Authorization": "Key another:one"})
    await client.post(f"/{KONTEXT}/text-to-image", {"prompt": "A mug"}, headers=FAL)
    listed = await fal_list(client)
    assert (listed["has_more"], listed["next_cursor"]) == (False, None)
    [item] = listed["items"]
    assert (item["request_id"], item["json_input"], item["status_code"]) == (submitted["request_id"], body, 200)
    assert item["sent_at"] <= item["ended_at"]
    assert "json_input" not in (await fal_list(client, expand=""))["items"][0]
    assert not (await fal_list(client, start=iso(60)))["items"]
    assert not (await fal_list(client, end=iso(-60)))["items"]
    assert len((await fal_list(client, endpoint_id=f"{KONTEXT},{KONTEXT}/text-to-image"))["items"]) == 2
    assert (await client.get(LIST, headers=FAL)).status == 422
    assert (await client.get(LIST, params={"endpoint_id": KONTEXT, "limit": "101"}, headers=FAL)).status == 422


@pytest.mark.parametrize("fault", ["reset", "cut", "no_task_id"])
async def test_what_was_accepted_and_not_answered_is_in_the_list(serve: Serve, fault: str) -> None:
    client = await serve(latency=0, faults={fault: 1})
    for path, body, headers in (
        (f"/{KONTEXT}/text-to-image", {"prompt": "A mug"}, FAL),
        (PREDICTIONS, {"input": {"prompt": "A mug"}}, REPLICATE),
    ):
        try:
            await client.post(path, body, headers=headers)
        except aiohttp.ClientError:
            assert fault != "no_task_id"
    [item] = (await fal_list(client, endpoint_id=f"{KONTEXT}/text-to-image"))["items"]
    assert item["json_input"] == {"prompt": "A mug"}
    [item] = (await client.get("/v1/predictions", headers=REPLICATE)).json["results"]
    assert item["input"] == {"prompt": "A mug"}


async def test_pages_have_all_of_it_once(serve: Serve, tools: type[Tools]) -> None:
    client = await serve(latency=0)
    for number in range(5):
        await client.post(f"/{KONTEXT}/text-to-image", {"prompt": f"A mug {number}"}, headers=FAL)
    seen: list[str] = []
    query = {"endpoint_id": f"{KONTEXT}/text-to-image", "limit": "2"}
    while True:
        page = await fal_list(client, **query)
        seen += [item["json_input"]["prompt"] for item in page["items"]]
        if not page["has_more"]:
            break
        query["cursor"] = page["next_cursor"]
    assert seen == [f"A mug {number}" for number in (4, 3, 2, 1, 0)]
    photo = tools.data_url(tools.photo())
    for number in range(101):
        body = {"input": {"prompt": f"A mug {number}", "input_image": photo}}
        await client.post(PREDICTIONS, body, headers=REPLICATE)
    first = (await client.get("/v1/predictions", headers=REPLICATE)).json
    last = (await client.get(first["next"], headers=REPLICATE)).json
    assert (len(first["results"]), last["next"]) == (100, None)
    assert [one["input"] for one in last["results"]] == [{"prompt": "A mug 0", "input_image": photo}]
    window = {"created_after": iso(-60), "created_before": iso(-30)}
    assert not (await client.get("/v1/predictions", params=window, headers=REPLICATE)).json["results"]


async def test_inputs_are_forgotten_before_they_fill_the_memory(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "KEPT_INPUTS", 90)
    client = await serve(latency=0)
    for prompt in ("A mug", "A cup " * 10):
        await client.post(f"/{KONTEXT}/text-to-image", {"prompt": prompt}, headers=FAL)
    items = (await fal_list(client, endpoint_id=f"{KONTEXT}/text-to-image"))["items"]
    assert [item["json_input"] for item in items] == [{"prompt": "A cup " * 10}, None]
