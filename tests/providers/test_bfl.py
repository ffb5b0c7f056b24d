"""BFL's tasks, by its own API and behind a relay: what is sent, and what each answer means."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from batchflux.engine.executors.local import addressed
from batchflux.errors import Code, JobError
from batchflux.models import (
    Cost,
    Ended,
    Finished,
    HttpRequest,
    Inline,
    Job,
    Json,
    Link,
    LocalImage,
    Missing,
    Pending,
    Reference,
    Reply,
    Submitted,
)
from batchflux.providers import Provider, preview, providers

if TYPE_CHECKING:
    from collections.abc import Callable

BFL, NATIVE = providers()["bfl", "bfl"], providers()["flux-relay", "native"]
SAMPLE = "https://delivery.eu.bfl.ai/x/sample.jpeg?se=2026&sig=abc"
POLLING = "https://api.eu2.bfl.ai/v1/get_result?id=t1"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
TASK = json.dumps({"id": "t1", "url": POLLING})


def read(request: HttpRequest, answer: Any, *, status: int = 200, complete: bool = True) -> Reply | JobError:
    reader = request.reader(status, {})
    reader.feed(answer.encode() if isinstance(answer, str) else json.dumps(answer).encode())
    try:
        return reader.finish(complete=complete)
    except JobError as error:
        return error


def body_of(request: HttpRequest) -> dict[str, Any]:
    assert isinstance(request.content, Json)
    return dict(request.content.value)


def test_the_body_says_what_the_job_asks_for(make_job: Callable[..., Job]) -> None:
    local = Reference(source="a.jpg", path="/a.jpg", sha256="a" * 64, media_type="image/jpeg")
    remote = Reference(source="https://x.example/b.png", url="https://x.example/b.png")
    job = make_job(style="bfl", images=(local, remote), seed=7, aspect_ratio="16:9", safety_tolerance=0)
    for provider, path in ((BFL, "/v1/flux-kontext-pro"), (NATIVE, "/flux/v1/flux-kontext-pro")):
        request = provider.submit(job, 1)
        assert (request.method, request.url, request.repeatable) == ("POST", path, False)
        assert body_of(request) == {
            "prompt": "Make the mug red",
            "input_image": LocalImage(path="/a.jpg", sha256="a" * 64, media_type="image/jpeg", encoding="base64"),
            "input_image_2": "https://x.example/b.png",
            "output_format": "jpeg",
            "seed": 7,
            "aspect_ratio": "16:9",
            "safety_tolerance": 0,
        }
        assert preview(request)["input_image"] == f"<a.jpg, sha256 {'a' * 8}…>"


@pytest.mark.parametrize("ratio", ["1:1", "16:9", "9:21", "4:5"])
def test_models_that_know_sizes_get_one_near_the_ratio(make_job: Callable[..., Job], ratio: str) -> None:
    sent = body_of(BFL.submit(make_job(model="flux-2-pro", aspect_ratio=ratio), 1))
    wide, high = map(int, ratio.split(":"))
    assert "aspect_ratio" not in sent
    assert sent["width"] % 16 == sent["height"] % 16 == 0
    assert abs(sent["width"] / sent["height"] / (wide / high) - 1) < 0.03
    assert 0.9e6 < sent["width"] * sent["height"] < 1.2e6


def test_a_size_that_is_asked_for_wins(make_job: Callable[..., Job]) -> None:
    options = (("width", 640), ("height", 320))
    sent = body_of(BFL.submit(make_job(model="flux-2-pro", aspect_ratio="1:1", options=options), 1))
    assert (sent["width"], sent["height"]) == (640, 320)


def test_the_key_goes_to_bfls_api_hosts_only() -> None:
    assert BFL.authorize("K") == {"x-key": "K"}
    assert NATIVE.authorize("K") == {"Authorization": "Bearer K"}
    for host in ("api.bfl.ai", "api.eu.bfl.ai", "api.us1.bfl.ai", "api.bfl.ml"):
        assert BFL.may_have_key(host, https=True)
        assert not BFL.may_have_key(host, https=False)
        assert not NATIVE.may_have_key(host, https=True)
    for host in ("delivery.eu.bfl.ai", "bfl.ai", "api.bfl.ai.evil.example", "xapi.bfl.ai", "delivery-us1.bfl.ai"):
        assert not BFL.may_have_key(host, https=True)


SUBMITTED = {"id": "t1", "polling_url": POLLING, "cost": 4.0, "input_mp": 1.05, "output_mp": 1.05}


def test_an_accepted_task_is_asked_for_where_its_answer_says(make_job: Callable[..., Job]) -> None:
    job = make_job(style="bfl")
    reply = read(BFL.submit(job, 1), SUBMITTED)
    assert isinstance(reply, Submitted)
    assert reply.cost == Cost(amount=Decimal("0.04"), currency="USD")
    request = BFL.poll(job, reply.handle)
    assert (request.method, request.url, request.repeatable, request.content) == ("GET", POLLING, True, None)


@pytest.mark.parametrize(
    ("told", "megapixels"),
    [
        ({"input_mp": 0.0, "output_mp": 1.05}, 1),  # 1024 x 1024 pixels
        ({"input_mp": 1.05, "output_mp": 1.05}, 2),
        ({"output_mp": 4.19}, 4),
        ({"input_mp": 0.4, "output_mp": 2.07}, 3),
        ({"input_mp": 2.0}, None),
        ({"output_mp": "1"}, None),
    ],
)
def test_megapixels_stand_for_a_cost_that_is_not_told(
    make_job: Callable[..., Job], told: dict[str, Any], megapixels: int | None
) -> None:
    reply = read(BFL.submit(make_job(model="flux-2-pro", style="bfl"), 1), {"id": "t1", "cost": None, **told})
    assert isinstance(reply, Submitted)
    assert reply.cost == (None if megapixels is None else Cost(megapixels=megapixels))


@pytest.mark.parametrize(
    ("fields", "megapixels"),
    [
        ({}, 4),
        ({"aspect_ratio": "1:1"}, 1),
        ({"aspect_ratio": "1:1", "dropped": ("aspect_ratio",)}, 4),
        ({"options": (("width", 1920), ("height", 1088))}, 2),
        ({"options": (("width", 1920),)}, 4),
        ({"options": (("width", 2048),), "aspect_ratio": "1:1"}, 2),
        ({"aspect_ratio": "1:1", "images": (Reference(source="u", url="https://x.example/u"),) * 2}, 9),
        ({"aspect_ratio": "1:1", "images": (Reference(source="p", path="/p", settings='{"max_side":1024}'),)}, 2),
    ],
)
def test_the_most_megapixels_of_a_request(
    make_job: Callable[..., Job], fields: dict[str, Any], megapixels: int
) -> None:
    job = make_job(**{"model": "flux-2-pro", "aspect_ratio": None, "images": (), **fields})
    assert BFL.megapixels(job) == megapixels


def test_a_relays_task_is_asked_for_at_the_relay(make_job: Callable[..., Job]) -> None:
    job = make_job(style="native")
    reply = read(NATIVE.submit(job, 1), SUBMITTED)
    assert isinstance(reply, Submitted)
    assert reply.cost is None
    assert NATIVE.poll(job, reply.handle).url == "/flux/v1/get_result?id=t1"


def test_without_a_polling_url_the_submitting_host_is_asked(make_job: Callable[..., Job]) -> None:
    job = make_job(style="bfl")
    reply = read(BFL.submit(job, 1), {"id": "a/b", "status": "Pending", "webhook_url": "https://h.example"})
    assert isinstance(reply, Submitted)
    assert BFL.poll(job, reply.handle).url == "/v1/get_result?id=a%2Fb"


def test_a_submit_answer_that_broke_off_behind_its_id_is_no_loss(make_job: Callable[..., Job]) -> None:
    whole = json.dumps(SUBMITTED)
    for cut in range(len(whole)):
        reply = read(BFL.submit(make_job(style="bfl"), 1), whole[:cut], complete=False)
        if isinstance(reply, Submitted):
            handle = json.loads(reply.handle)
            assert handle["id"] == "t1"
            assert handle.get("url", POLLING) == POLLING
        else:
            assert isinstance(reply, JobError)
            assert reply.code is Code.UNKNOWN
            assert cut < whole.index(",")


READY = {"id": "t1", "status": "Ready", "result": {"sample": SAMPLE, "prompt": "…", "seed": 42}, "cost": 4.0}


@pytest.mark.parametrize("provider", [BFL, NATIVE], ids=["bfl", "native"])
@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (200, READY, Link(url=SAMPLE)),
        (200, {"id": "t1", "status": "READY", "sample": SAMPLE}, Link(url=SAMPLE)),
        (200, {"id": "t1", "status": "success", "result": {"url": SAMPLE}}, Link(url=SAMPLE)),
        (200, {"id": "t1", "state": "Completed", "result": {"images": [{"url": SAMPLE}]}}, Link(url=SAMPLE)),
        (200, {"id": "t1", "status": "succeeded", "output": [SAMPLE]}, Link(url=SAMPLE)),
        (200, {"id": "t1", "status": "Ready", "result": {"b64_json": PNG}}, Inline),
        (200, {"code": 0, "data": {"id": "t1", "status": "Ready", "result": {"sample": SAMPLE}}}, Link(url=SAMPLE)),
        (200, {"id": "t1", "status": "Pending", "result": None, "progress": 0.1}, Pending),
        (200, {"id": "t1", "status": "Reasoning", "result": None}, Pending),
        (200, {"id": "t1", "status": "IN_PROGRESS"}, Pending),
        (200, {"id": "t1", "status": "not_start"}, Pending),
        (200, {"id": "t1", "status": "A word of next year"}, Pending),
        (200, {"id": "t1", "status": "Task not found", "result": None}, Missing),
        (404, {"id": "t1", "status": "Task not found", "result": None}, Missing),
        (200, {"id": "t1", "status": "Error"}, Code.SERVER),
        (503, {"id": "t1", "status": "Error"}, Code.SERVER),
        (200, {"id": "t1", "status": "failed", "error": "upstream exploded"}, Code.SERVER),
        (200, {"id": "t1", "status": "failure", "fail_reason": "content moderation"}, Code.MODERATED),
        (200, {"id": "t1", "status": "Request Moderated", "result": None}, Code.MODERATED),
        (200, {"id": "t1", "status": "content_moderated", "details": {"Reasons": ["Violence"]}}, Code.MODERATED),
        (200, {"id": "t1", "status": "Ready", "result": None}, Code.NO_IMAGE),
        (200, {"id": "t1", "status": "Ready", "result": {"sample": "file:///a.png"}}, Code.UNSAFE_URL),
        (200, {"id": "t1", "status": "Ready", "result": {"foo": "https://x.test/a"}}, Link(url="https://x.test/a")),
        (200, {"code": 0, "data": {"task_id": "t1", "task_status": "succeed", "task_result": {
            "images": [{"url": SAMPLE}]}}}, Link(url=SAMPLE)),
        (200, {"request_id": "r", "output": {"task_id": "t1", "task_status": "SUCCEEDED", "result_url": SAMPLE}},
         Link(url=SAMPLE)),
        (200, {"request_id": "r", "output": {"task_id": "t1", "task_status": "RUNNING"}}, Pending),
        (200, {"data": [{"taskId": "t1", "state": "waiting", "image": SAMPLE}]}, Pending),
        (200, {"data": {"task_id": "t1", "status": "FAILURE", "fail_reason": "no"}}, Code.SERVER),
        (200, {"id": "request-9", "task_id": "t1", "status": "Ready", "result": {"sample": SAMPLE}}, Link(url=SAMPLE)),
    ],
)  # fmt: skip
def test_what_a_poll_means(
    make_job: Callable[..., Job], provider: Provider, status: int, answer: Any, expected: Any
) -> None:
    reply = read(provider.poll(make_job(style=provider.style), TASK), answer, status=status)
    if isinstance(expected, Code):
        assert isinstance(reply, Ended)
        assert reply.error.code is expected
        assert not reply.error.message.endswith(": ")
    elif isinstance(expected, Link):
        assert isinstance(reply, Finished)
        assert reply.asset == expected
    elif expected is Inline:
        assert isinstance(reply, Finished)
        assert isinstance(reply.asset, Inline)
    else:
        assert isinstance(reply, expected)


def test_the_picture_of_another_task_is_not_taken(make_job: Callable[..., Job]) -> None:
    for status in ("Ready", "Error"):
        error = read(NATIVE.poll(make_job(style="native"), TASK), {**READY, "id": "t2", "status": status})
        assert isinstance(error, JobError)
        assert (error.code, error.message) == (Code.BAD_ANSWER, "the answer is about another task (t2)")


def test_a_ready_task_without_a_picture_is_kept(make_job: Callable[..., Job]) -> None:
    ended = read(NATIVE.poll(make_job(style="native"), TASK), {"id": "t1", "status": "Ready", "result": {"x": 1}})
    assert isinstance(ended, Ended)
    assert json.loads(ended.error.answer or b"") == {"id": "t1", "status": "Ready", "result": {"x": 1}}


@pytest.mark.parametrize("status", [408, 499, 504, 520, 524])
def test_a_gateway_that_gave_up_leaves_a_submit_unknown_and_a_poll_to_be_repeated(
    make_job: Callable[..., Job], status: int
) -> None:
    job = make_job(style="native")
    for request, code in ((NATIVE.submit(job, 1), Code.UNKNOWN), (NATIVE.poll(job, TASK), Code.SERVER)):
        error = read(request, "<html>", status=status)
        assert isinstance(error, JobError)
        assert error.code is code


def test_a_ready_task_tells_its_cost_and_seed(make_job: Callable[..., Job]) -> None:
    reply = read(BFL.poll(make_job(style="bfl"), TASK), READY)
    assert isinstance(reply, Finished)
    assert (reply.cost, reply.seed) == (Cost(amount=Decimal("0.04")), 42)


def test_a_relay_may_answer_at_once(make_job: Callable[..., Job]) -> None:
    for answer in (READY, {"id": "t1", "status": "Ready", "sample": SAMPLE}, {"data": [{"url": SAMPLE}]}):
        reply = read(NATIVE.submit(make_job(style="native"), 1), answer)
        assert isinstance(reply, Finished)
        assert reply.asset == Link(url=SAMPLE)


@pytest.mark.parametrize(
    ("status", "answer", "code", "billed"),
    [
        (402, {"detail": "Insufficient credits"}, Code.QUOTA, False),
        (403, {"detail": "Not authenticated - Invalid Authentication"}, Code.AUTH, False),
        (422, {"detail": "Invalid API key format"}, Code.AUTH, False),
        (422, {"detail": [{"loc": ["body", "seed"], "msg": "x", "type": "int_parsing"}]}, Code.INVALID_REQUEST, False),
        (429, {"detail": "Active task limit reached"}, Code.RATE_LIMITED, False),
        (500, {"detail": "Internal"}, Code.SERVER, False),
        (503, "", Code.SERVER, False),
        (404, {"detail": "Not Found"}, Code.INVALID_REQUEST, False),
        (400, {"error": {"message": "…", "code": "content_policy_violation"}}, Code.MODERATED, False),
        (200, {"id": "t1", "status": "Request Moderated"}, Code.MODERATED, False),
        (200, {"greeting": "hello"}, Code.BAD_ANSWER, True),
    ],
)
def test_what_a_refused_submit_means(
    make_job: Callable[..., Job], status: int, answer: Any, code: Code, *, billed: bool
) -> None:
    error = read(BFL.submit(make_job(style="bfl"), 1), answer, status=status)
    assert isinstance(error, JobError)
    assert (error.code, error.billed) == (code, billed)


@given(st.binary(max_size=200), st.sampled_from([200, 404, 503]), st.booleans())
def test_no_bytes_crash_the_reader(data: bytes, status: int, complete: bool) -> None:  # noqa: FBT001  hypothesis calls by name
    job = Job(
        id="x", key="0" * 64, prompt="p", style="bfl", model="flux-kontext-pro", provider="bfl",
        file_name="images/x.jpg", position=0,
    )  # fmt: skip
    for request in (BFL.submit(job, 1), BFL.poll(job, TASK)):
        reader = request.reader(status, {})
        reader.feed(data)
        with contextlib.suppress(JobError):
            reader.finish(complete=complete)


@pytest.mark.parametrize(
    ("model", "options", "fits"),
    [
        ("flux-kontext-pro", {}, True),
        ("flux-kontext-max", {"guidance": 3.0}, False),
        ("flux-2-flex", {"guidance": 3.0, "steps": 20, "width": 640, "height": 320}, True),
        ("flux-2-pro", {"disable_pup": True}, True),
        ("flux-2-pro", {"steps": 20}, False),
        ("flux-2-pro", {"width": 650}, False),
        ("flux-of-next-year", {"raw": True, "width": 640}, True),
        ("flux-of-next-year", {"unheard": 1}, False),
    ],
)
def test_options_are_those_of_the_model(model: str, options: dict[str, Any], *, fits: bool) -> None:
    taken = BFL.capabilities(model).options
    assert taken is not None
    if fits:
        assert taken.model_validate(options).model_dump(exclude_unset=True) == options
    else:
        with pytest.raises(ValidationError):
            taken.model_validate(options)


@pytest.mark.parametrize(("seed", "kept"), [(2**63 - 1, 2**63 - 1), (2**63, None), (-(2**70), None), (True, None)])
def test_what_an_answer_tells_can_be_kept(make_job: Callable[..., Job], seed: int, kept: int | None) -> None:
    """A ledger holds 64 bits with a sign, and no half surrogates."""
    answer = {"id": "t1", "status": "Ready", "result": {"sample": SAMPLE, "seed": seed, "revised_prompt": "\ud800x"}}
    plain = {"data": [{"url": SAMPLE, "seed": seed, "revised_prompt": "\ud800x"}]}
    standard = providers()["flux-relay", "standard"]
    for reply in (read(BFL.poll(make_job(), TASK), answer), read(standard.submit(make_job(images=()), 1), plain)):
        assert isinstance(reply, Finished)
        assert (reply.seed, reply.revised_prompt) == (kept, "?x")


@pytest.mark.parametrize("place", ["https://h:abc/x", "https://h:99999", "http://[x", "https://h:0/", 7, ""])
def test_an_address_that_is_none_does_not_lose_the_task(make_job: Callable[..., Job], place: Any) -> None:
    job = make_job(style="bfl")
    reply = read(BFL.submit(job, 1), {"id": "\ud800", "polling_url": place})
    assert isinstance(reply, Submitted)
    assert addressed(BFL.poll(job, reply.handle), BFL, "https://api.bfl.ai").url == "/v1/get_result?id=%3F"


def test_the_key_of_a_proxy_stays_at_the_proxy(make_job: Callable[..., Job]) -> None:
    request = BFL.poll(make_job(style="bfl"), TASK)
    assert addressed(request, BFL, "https://api.bfl.ai").url == POLLING
    assert addressed(request, BFL, "https://proxy.example").url == "https://proxy.example/v1/get_result?id=t1"
    below = "https://proxy.example/bfl/v1/get_result?id=t1"
    assert addressed(request, BFL, "https://proxy.example/bfl/").url == below
    assert (
        addressed(replace(request, url=f"https://in.example{below[21:]}"), BFL, "https://proxy.example/bfl").url
        == below
    )


def test_a_refusal_with_an_id_is_no_task(make_job: Callable[..., Job]) -> None:
    for status, code in ((401, Code.AUTH), (402, Code.QUOTA), (429, Code.RATE_LIMITED), (503, Code.SERVER)):
        error = read(BFL.submit(make_job(style="bfl"), 1), {"id": "request-1", "detail": "no"}, status=status)
        assert isinstance(error, JobError)
        assert error.code is code


def test_an_echo_beside_a_task_does_not_lose_it(make_job: Callable[..., Job]) -> None:
    own = "https://x.example/in.png"
    job = make_job(style="native", images=(Reference(source=own, url=own),))
    assert isinstance(read(NATIVE.submit(job, 1), {"id": "t1", "status": "Pending", "image_url": own}), Submitted)
    assert isinstance(read(NATIVE.poll(job, TASK), {"id": "t1", "status": "Pending", "image_url": own}), Pending)
    ended = read(NATIVE.poll(job, TASK), {"id": "t1", "status": "Ready", "result": {"sample": own}})
    assert isinstance(ended, Ended)
    assert ended.error.code is Code.ECHOED_INPUT


def test_a_picture_at_once_needs_no_status(make_job: Callable[..., Job]) -> None:
    for answer in ({"id": "t1", "sample": SAMPLE}, {"id": 7, "result": {"sample": SAMPLE}}):
        reply = read(NATIVE.submit(make_job(style="native"), 1), answer)
        assert isinstance(reply, Finished)
        assert reply.asset == Link(url=SAMPLE)
