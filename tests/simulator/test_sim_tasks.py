"""The two task APIs, spoken by hand: submit, poll, and what each fault makes of it."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from batchflux.simulator import FAULTS

if TYPE_CHECKING:
    from tests.simulator.conftest import Answer, Client, Serve, Tools

APIS = ("bfl", "relay")
PATHS = {"bfl": "/v1", "relay": "/flux/v1"}
FINISHED = {"ready", "success", "succeeded", "completed"}
FAILED = {"error", "failed", "failure", "cancelled", "expired", "request moderated", "content moderated"}


@dataclass(frozen=True, kw_only=True)
class TaskClient:
    client: Client
    api: str
    key: str = "key-1"

    @property
    def headers(self) -> dict[str, str]:
        return {"x-key": self.key} if self.api == "bfl" else {"Authorization": f"Bearer {self.key}"}

    async def submit(self, prompt: str = "A red mug", model: str = "flux-kontext-pro", **fields: Any) -> Answer:
        body = {"prompt": prompt, **fields}
        return await self.client.post(f"{PATHS[self.api]}/{model}", body, headers=self.headers)

    async def poll(self, task: str) -> Answer:
        return await self.client.get(f"{PATHS[self.api]}/get_result?id={task}", headers=self.headers)

    async def ended(self, task: str) -> dict[str, Any]:
        """Poll until the task has ended, and return the last answer."""
        while True:
            body: dict[str, Any] = (await self.poll(task)).json
            if body["status"].casefold() in FINISHED | FAILED:
                return body
            await asyncio.sleep(0.01)

    async def picture(self, **fields: Any) -> tuple[dict[str, Any], Answer]:
        body = await self.ended((await self.submit(**fields)).json["id"])
        return body, await self.client.get(body["result"]["sample"])


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def talking(serve: Serve, api: str, **options: Any) -> TaskClient:
    return TaskClient(client=await serve(**options), api=api)


async def test_a_task_is_submitted_polled_and_fetched(serve: Serve, tools: type[Tools], api: str) -> None:
    talk = await talking(serve, api)
    submitted = (await talk.submit(seed=7, aspect_ratio="16:9", output_format="webp", safety_tolerance=6)).json
    body = await talk.ended(submitted["id"])
    assert body["id"] == submitted["id"]
    result = body["result"]
    assert (result["seed"], result["prompt"]) == (7, "A red mug")
    assert result["end_time"] - result["start_time"] == result["duration"]
    page = await talk.client.get(result["sample"])
    assert page.headers["Content-Type"] == "image/webp"
    assert tools.opened(page.body).size == (64, 36)
    if api == "bfl":
        assert submitted["polling_url"] == f"{talk.client.base}/v1/get_result?id={submitted['id']}"
        assert (submitted["cost"], body["cost"], submitted["input_mp"]) == (4, 4, 0)
    else:
        assert submitted["polling_url"] == f"https://api.us1.bfl.ai/v1/get_result?id={submitted['id']}"


async def test_the_default_format_is_the_models(serve: Serve, tools: type[Tools], api: str) -> None:
    talk = await talking(serve, api)
    assert tools.opened((await talk.picture())[1].body).format == "PNG"
    picture = tools.opened((await talk.picture(model="flux-2-pro", width=1024, height=512))[1].body)
    assert (picture.format, picture.size) == ("JPEG", (64, 32))


async def test_references_travel_as_base64_or_url(serve: Serve, tools: type[Tools], api: str) -> None:
    talk = await talking(serve, api)
    bare = base64.b64encode(tools.photo()).decode()
    pages = [
        (await talk.picture(**fields))[1].body
        for fields in (
            {},
            {"input_image": bare},
            {"input_image": "https://photos.example/a.png"},
            {"input_image": bare, "input_image_2": "https://photos.example/a.png", "input_image_3": None},
        )
    ]
    assert len(set(pages)) == len(pages)
    assert tools.opened(pages[1]).size == (64, 43)


async def test_a_task_takes_its_latency_and_says_how_far_it_is(serve: Serve, api: str) -> None:
    talk = await talking(serve, api, latency=60)
    task = (await talk.submit()).json["id"]
    body = (await talk.poll(task)).json
    assert body["status"].casefold() in {"pending", "queued", "not_start", "submitted"}
    assert (body["result"], body["details"]) == (None, None)
    assert 0 <= body["progress"] < 1
    assert (await talk.client.get("/v1/simulator/stats")).json["active_tasks"] == 1
    assert talk.client.simulator.requests.answered == 0
    assert talk.client.simulator.requests.billed == (api == "relay")


async def test_a_task_is_billed_once_however_often_it_is_polled(serve: Serve, api: str) -> None:
    talk = await talking(serve, api)
    task = (await talk.submit()).json["id"]
    for _ in range(3):
        assert (await talk.poll(task)).status == 200
    journal = talk.client.simulator.requests
    assert (journal.received, journal.billed, journal.answered, journal.repeated) == (1, 1, 1, 0)
    assert journal.by_status == {200: 1}
    assert journal.polls == {"Ready": 3}
    assert [(charge["task"], charge["credits"]) for charge in journal.charges] == [(task, 4)]
    told = (await talk.client.get("/v1/simulator/charges")).json["charges"]
    assert [(charge["task"], charge["credits"]) for charge in told] == [(task, 4)]
    await talk.submit()
    assert list(journal.bills.values()) == [2]
    assert journal.credits == 8


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("task_error", "Error"),
        ("task_error_503", "Error"),
        ("task_failed", "Failed"),
        ("request_moderated", "Request Moderated"),
        ("content_moderated", "Content Moderated"),
    ],
)
async def test_a_task_that_fails_is_not_paid_for(serve: Serve, api: str, fault: str, status: str) -> None:
    talk = await talking(serve, api, faults={fault: 1})
    answer = await talk.poll((await talk.submit()).json["id"])
    assert answer.status == (503 if fault == "task_error_503" else 200)
    if api == "bfl":
        assert answer.json["status"] == status
    else:
        assert answer.json["status"].casefold() in FAILED
    if "Moderated" in status:
        assert answer.json["details"]["Moderation Reasons"]
    journal = talk.client.simulator.requests
    assert (journal.billed, journal.refunded, journal.credits) == (0, int(api == "relay"), 0)
    assert set(journal.bills.values()) <= {0}
    assert journal.polls == {status: 1}


async def test_relays_write_the_same_status_in_many_ways(serve: Serve) -> None:
    talk = await talking(serve, "relay")
    words = {(await talk.ended((await talk.submit(f"mug {index}")).json["id"]))["status"] for index in range(40)}
    assert words == {"READY", "ready", "SUCCESS", "succeeded", "completed"}


NOT_FOUND = "task not found"


@pytest.mark.parametrize(
    ("fault", "codes", "statuses"),
    [
        ("task_not_found", [404, 200, 200], [NOT_FOUND, NOT_FOUND, "ready"]),
        ("task_never_found", [404, 404, 404], [NOT_FOUND] * 3),
        ("task_vanished", [200, 404, 404], ["pending", NOT_FOUND, NOT_FOUND]),
    ],
)
async def test_a_task_that_is_paid_for_and_not_found(
    serve: Serve, fault: str, codes: list[int], statuses: list[str]
) -> None:
    talk = await talking(serve, "bfl", faults={fault: 1})
    task = (await talk.submit()).json["id"]
    answers = [await talk.poll(task) for _ in codes]
    assert [answer.status for answer in answers] == codes
    assert [answer.json["status"].casefold() for answer in answers] == statuses
    assert talk.client.simulator.requests.billed == 1


async def test_a_slow_task_is_seen_unfinished(serve: Serve, api: str) -> None:
    talk = await talking(serve, api, faults={"task_slow": 1})
    task = (await talk.submit()).json["id"]
    for _ in range(5):
        assert (await talk.poll(task)).json["result"] is None
    assert (await talk.client.get("/v1/simulator/stats")).json["active_tasks"] == 1
    assert (await talk.poll(task)).json["result"]["sample"]
    assert dict(talk.client.simulator.requests.polls) == {"Pending": 1, "Reasoning": 2, "Generating": 2, "Ready": 1}


async def test_a_stuck_task_never_ends(serve: Serve, api: str) -> None:
    talk = await talking(serve, api, faults={"task_stuck": 1})
    task = (await talk.submit()).json["id"]
    for _ in range(10):
        assert (await talk.poll(task)).json["result"] is None
    assert talk.client.simulator.requests.polls == {"Pending": 10}


async def test_a_finished_task_without_a_link(serve: Serve, api: str) -> None:
    talk = await talking(serve, api, faults={"no_sample": 1})
    body = await talk.ended((await talk.submit()).json["id"])
    assert body["result"] is None
    assert (talk.client.simulator.requests.billed, talk.client.simulator.requests.answered) == (1, 0)


async def test_an_expired_link_is_renewed_by_another_poll(serve: Serve, api: str) -> None:
    talk = await talking(serve, api, faults={"expired_link": 1})
    task = (await talk.submit()).json["id"]
    first, second = [(await talk.ended(task))["result"]["sample"] for _ in range(2)]
    assert [(await talk.client.get(url)).status for url in (first, second)] == [404, 200]


async def test_the_link_faults_strike_tasks_too(serve: Serve, tools: type[Tools], api: str) -> None:
    bare = base64.b64encode(tools.photo()).decode()
    assert (await (await talking(serve, api, faults={"dead_link": 1})).picture())[1].status == 404
    assert (await (await talking(serve, api, faults={"html_image": 1})).picture())[1].body.startswith(b"<!DOCTYPE")
    echo = await talking(serve, api, faults={"echoed_input": 1})
    assert (await echo.picture(input_image=bare))[1].body == tools.photo()
    body = await echo.ended((await echo.submit(input_image="https://photos.example/a.png")).json["id"])
    assert body["result"]["sample"] == "https://photos.example/a.png"


@pytest.mark.parametrize(
    ("fault", "bfl", "relay"),
    [
        ("poll_429", 429, 429),
        ("poll_500", 500, 500),
        ("poll_502_html", 502, 502),
        ("poll_503", 503, 503),
        ("poll_401", 403, 401),
    ],
)
async def test_the_first_two_polls_fail(serve: Serve, api: str, fault: str, bfl: int, relay: int) -> None:
    talk = await talking(serve, api, faults={fault: 1})
    task = (await talk.submit()).json["id"]
    answers = [await talk.poll(task) for _ in range(3)]
    code = bfl if api == "bfl" else relay
    assert [answer.status for answer in answers] == [code, code, 200]
    assert b'"status"' not in answers[0].body
    assert talk.client.simulator.requests.polls == {str(code): 2, "Ready": 1}


async def test_the_first_two_polls_are_lost(serve: Serve, tools: type[Tools], api: str) -> None:
    script = [{"match": name, "fault": f"poll_{name}"} for name in ("reset", "hang", "bad_json", "odd_status")]
    talk = await talking(serve, api, script=script)
    task = (await talk.submit("reset")).json["id"]
    with pytest.raises(aiohttp.ClientConnectionError):
        await talk.poll(task)
    assert talk.client.simulator.requests.polls == {"reset": 2}  # aiohttp asks once more by itself
    assert (await talk.poll(task)).status == 200
    task = (await talk.submit("bad_json")).json["id"]
    with pytest.raises(json.JSONDecodeError):
        _ = (await talk.poll(task)).json
    task = (await talk.submit("odd_status")).json["id"]
    assert (await talk.poll(task)).json["status"] == "Rendering"
    task = (await talk.submit("hang")).json["id"]
    hanging = asyncio.create_task(talk.poll(task))
    await tools.until(lambda: talk.client.simulator.requests.polls["hang"] == 1)
    hanging.cancel()
    assert talk.client.simulator.requests.billed == 4


async def test_a_lost_submit_is_accepted_and_billed(serve: Serve, api: str) -> None:
    script = [{"match": name, "fault": name} for name in ("reset", "cut", "no_task_id")]
    talk = await talking(serve, api, script=script)
    for prompt in ("reset", "cut"):
        with pytest.raises(aiohttp.ClientError):
            await talk.submit(prompt)
    assert "id" not in (await talk.submit("no_task_id")).json
    assert talk.client.simulator.requests.billed == 3
    assert talk.client.simulator.requests.answered == 0


@pytest.mark.parametrize("fault", ["hang", "bad_json", "empty_body"])
async def test_a_submit_that_nothing_comes_of(serve: Serve, tools: type[Tools], api: str, fault: str) -> None:
    talk = await talking(serve, api, faults={fault: 1})
    submitting = asyncio.create_task(talk.submit())
    if fault == "hang":
        await tools.until(lambda: talk.client.simulator.requests.faults["hang"] == 1)
        submitting.cancel()
    else:
        assert (await submitting).status == 200
    assert talk.client.simulator.requests.billed == 0


REFUSALS: list[tuple[str, tuple[int, Any], tuple[int, str | None]]] = [
    ("rate_limited", (429, str), (429, "rate_limit_exceeded")),
    ("server_500", (500, str), (500, None)),
    ("quota", (402, "Insufficient credits"), (429, "insufficient_user_quota")),
    ("auth", (403, "Not authenticated - Invalid Authentication"), (401, "invalid_api_key")),
    ("model_not_found", (404, "Not Found"), (503, "model_not_found")),
]


@pytest.mark.parametrize(("fault", "bfl", "relay"), REFUSALS)
async def test_a_refused_submit(
    serve: Serve, api: str, fault: str, bfl: tuple[int, Any], relay: tuple[int, str | None]
) -> None:
    talk = await talking(serve, api, faults={fault: 1})
    answer = await talk.submit()
    if api == "bfl":
        assert answer.status == bfl[0]
        assert set(answer.json) == {"detail"}
        assert bfl[1] is str or answer.json["detail"] == bfl[1]
    else:
        assert (answer.status, answer.json["error"]["code"]) == relay
    assert talk.client.simulator.requests.billed == 0
    assert fault != "rate_limited" or int(answer.headers["Retry-After"]) >= 1


async def test_faults_of_relays_are_passed_over_at_bfl(serve: Serve) -> None:
    talk = await talking(serve, "bfl", faults={"forbidden": 1, "at_once": 1})
    assert "polling_url" in (await talk.submit()).json
    assert talk.client.simulator.requests.faults == {}


async def test_a_relay_may_answer_at_once(serve: Serve) -> None:
    talk = await talking(serve, "relay", faults={"at_once": 1, "sample_on_top": 1})
    body = (await talk.submit()).json
    assert set(body) == {"id", "status", "sample"}
    assert body["status"].casefold() in FINISHED
    assert (await talk.client.get(body["sample"])).status == 200
    failing = await talking(serve, "relay", faults={"at_once": 1, "task_failed": 1})
    assert (await failing.submit()).json["status"].casefold() in FAILED


async def test_a_relay_may_leave_the_envelope_out(serve: Serve) -> None:
    passed = await (await talking(serve, "relay", faults={"detail_passed_on": 1})).submit()
    assert (passed.status, set(passed.json)) == (422, {"detail"})
    flat = await (await talking(serve, "relay", faults={"code_and_message": 1})).submit()
    assert (flat.status, set(flat.json)) == (500, {"code", "message", "data"})


async def test_the_forms_of_a_submits_answer(serve: Serve) -> None:
    talk = await talking(serve, "bfl", faults={"relative_polling_url": 1, "settled_lower": 1})
    body = (await talk.submit()).json
    assert body["polling_url"] == f"/v1/get_result?id={body['id']}"
    assert (body["cost"], (await talk.ended(body["id"]))["cost"]) == (4, 2)
    talk = await talking(serve, "bfl", faults={"no_polling_url": 1, "no_cost": 1})
    body = (await talk.submit()).json
    assert "polling_url" not in body
    assert body["cost"] is None
    assert "cost" not in await talk.ended(body["id"])
    priced_by_result = (await talk.submit(model="flux-2-pro")).json
    assert priced_by_result["cost"] is None


async def test_a_webhook_takes_the_polling_urls_place(serve: Serve) -> None:
    talk = await talking(serve, "bfl")
    body = (await talk.submit(webhook_url="https://hooks.example/done", webhook_secret="s")).json
    assert "polling_url" not in body
    assert (body["status"], body["webhook_url"]) == ("Pending", "https://hooks.example/done")
    assert (await talk.ended(body["id"]))["status"] == "Ready"


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": 4}, "prompt"),
    ({"size": "1024x1024"}, "size"),
    ({"model": "flux-kontext-pro"}, "model"),
    ({"width": 512}, "width"),
    ({"seed": "42"}, "seed"),
    ({"aspect_ratio": "22:9"}, "aspect_ratio"),
    ({"output_format": "gif"}, "output_format"),
    ({"safety_tolerance": 7}, "safety_tolerance"),
    ({"prompt_upsampling": 1}, "prompt_upsampling"),
    ({"webhook_url": "ftp://a.example"}, "webhook_url"),
    ({"input_image": 4}, "input_image"),
    ({"input_image": ""}, "input_image"),
    ({"input_image": "aGVsbG8="}, "input_image"),
    ({"input_image": "data:image/png;base64,iVBORw0KGgo="}, "input_image"),
    ({"input_image_2": "iVBORw0KGgo="}, "input_image_2"),
    ({"input_image_5": "https://photos.example/a.png"}, "input_image_5"),
]
BAD_FLUX_2: list[tuple[dict[str, Any], str]] = [
    ({"aspect_ratio": "1:1"}, "aspect_ratio"),
    ({"safety_tolerance": 6}, "safety_tolerance"),
    ({"width": 500, "height": 512}, "width"),
    ({"width": 48, "height": 512}, "width"),
    ({"width": 4096, "height": 4096}, "width"),
    ({"width": 2048, "height": 64}, "width"),
]


async def test_a_wrong_field_is_named(serve: Serve, api: str) -> None:
    talk = await talking(serve, api)
    for model, cases in (("flux-kontext-max", BAD_FIELDS), ("flux-2-pro", BAD_FLUX_2)):
        for fields, place in cases:
            body = {"prompt": "x", **fields}
            answer = await talk.client.post(f"{PATHS[api]}/{model}", body, headers=talk.headers)
            if api == "bfl":
                assert (answer.status, answer.json["detail"][0]["loc"]) == (422, ["body", place]), fields
                assert answer.json["detail"][0]["msg"]
            else:
                assert (answer.status, answer.json["error"]["param"]) == (400, place), fields


async def test_a_missing_prompt_and_broken_json(serve: Serve) -> None:
    talk = await talking(serve, "bfl")
    for raw, error in (({}, "missing"), (b"{", "value_error"), ({"prompt": "x", "n": 1}, "extra_forbidden")):
        answer = await talk.client.post("/v1/flux-kontext-pro", raw)
        assert (answer.status, answer.json["detail"][0]["type"]) == (422, error)


async def test_bfl_wants_its_own_header(serve: Serve) -> None:
    client = await serve(keys=["good-key"])
    for headers, status, detail in (
        ({}, 403, "Not authenticated"),
        ({"Authorization": "Bearer good-key"}, 403, "Not authenticated"),
        ({"x-key": "not a key"}, 422, "Invalid API key format"),
        ({"x-key": "other-key"}, 403, "Not authenticated - Invalid Authentication"),
    ):
        for answer in (
            await client.post("/v1/flux-kontext-pro", {"prompt": "x"}, headers=headers),
            await client.get("/v1/get_result?id=x", headers=headers),
            await client.get("/v1/credits", headers=headers),
        ):
            assert (answer.status, answer.json) == (status, {"detail": detail})
    talk = TaskClient(client=client, api="bfl", key="good-key")
    await talk.picture()
    assert (await client.get("/v1/credits", headers=talk.headers)).json == {"credits": 9996.0}
    faulty = await talking(serve, "bfl", faults={"key_format": 1})
    assert (await faulty.submit()).json == {"detail": "Invalid API key format"}


async def test_a_relay_wants_a_bearer_token(serve: Serve) -> None:
    client = await serve(keys=["good-key"])
    assert (
        await client.post("/flux/v1/flux-kontext-pro", {"prompt": "x"}, headers={"x-key": "good-key"})
    ).status == 401
    assert (await TaskClient(client=client, api="relay", key="good-key").picture())[1].status == 200


async def test_an_unknown_model_and_an_unknown_task(serve: Serve) -> None:
    client = await serve(keys=["key-1"])
    missing = await client.post("/v1/flux-nothing", {"prompt": "x"})
    assert (missing.status, missing.json) == (404, {"detail": "Not Found"})
    relay = TaskClient(client=client, api="relay")
    assert (await relay.submit(model="missing-pro")).json["error"]["code"] == "model_not_found"
    bfl = TaskClient(client=client, api="bfl")
    assert (await bfl.poll("x")).json == {"id": "x", "status": "Task not found", "result": None}
    assert (await bfl.poll("")).json["detail"][0]["type"] == "missing"
    task = (await bfl.submit()).json["id"]
    assert (await relay.poll(task)).status == 404


async def test_a_task_is_found_by_its_own_key_only(serve: Serve, api: str) -> None:
    client = await serve(keys=["key-1", "key-2"])
    task = (await TaskClient(client=client, api=api).submit()).json["id"]
    assert (await TaskClient(client=client, api=api, key="key-2").poll(task)).status == 404


async def test_unfinished_tasks_of_a_key_are_limited(serve: Serve) -> None:
    client = await serve(faults={"task_stuck": 1})
    bfl = TaskClient(client=client, api="bfl")
    codes = [(await bfl.submit(f"mug {index}")).status for index in range(25)]
    assert codes == [200] * 24 + [429]
    assert (await TaskClient(client=client, api="bfl", key="key-2").submit()).status == 200
    relay = TaskClient(client=client, api="relay")
    assert {(await relay.submit(f"mug {index}")).status for index in range(26)} == {200}
    limited = await talking(serve, "relay", active_tasks=1)
    assert [(await limited.submit()).status for _ in range(3)] == [200, 200, 200]
    limited = await talking(serve, "relay", active_tasks=1, faults={"task_stuck": 1})
    assert [(await limited.submit()).status for _ in range(2)] == [200, 429]


async def test_polls_take_nothing_from_the_rate(serve: Serve, api: str) -> None:
    talk = await talking(serve, api, rate="1/h", burst=1)
    task = (await talk.submit()).json["id"]
    assert {(await talk.poll(task)).status for _ in range(3)} == {200}
    refused = await talk.submit()
    assert refused.status == 429
    assert int(refused.headers["Retry-After"]) > 3000


async def test_the_oldest_finished_tasks_are_forgotten(serve: Serve, api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchflux.simulator.queues.base.KEPT_TASKS", 2)
    talk = await talking(serve, api)
    tasks = [(await talk.submit(f"mug {index}")).json["id"] for index in range(3)]
    assert [(await talk.poll(task)).status for task in tasks] == [404, 200, 200]


SHOWN = {
    *["rate_limited", "server_500", "quota", "auth", "key_format", "model_not_found"],
    *["reset", "cut", "hang", "bad_json", "empty_body", "no_task_id", "detail_passed_on", "code_and_message"],
    *["at_once", "sample_on_top", "relative_polling_url", "no_polling_url", "no_cost", "settled_lower"],
    *["task_error", "task_failed", "task_error_503", "request_moderated", "content_moderated", "no_sample"],
    *["task_vanished", "task_not_found", "task_never_found", "task_slow", "task_stuck", "expired_link"],
    *["poll_429", "poll_500", "poll_502_html", "poll_503", "poll_401"],
    *["poll_bad_json", "poll_reset", "poll_hang", "poll_odd_status"],
}


def test_every_fault_of_tasks_alone_is_shown_here() -> None:
    assert {name for name, info in FAULTS.items() if info.apis <= set(APIS)} <= SHOWN
