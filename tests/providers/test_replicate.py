"""Replicate's predictions: what is sent, and what each answer means."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.errors import Code
from batchflux.models import (
    Ended,
    Finished,
    Job,
    Link,
    LocalImage,
    Missing,
    Multipart,
    Pending,
    Reference,
    Submitted,
    Uploaded,
)
from batchflux.providers import providers
from tests.providers.apis import OUT
from tests.providers.driving import body_of, read

if TYPE_CHECKING:
    from collections.abc import Callable

REPLICATE = providers()["replicate", "replicate"]
HANDLE = json.dumps({"id": "p1"})
PRO = "black-forest-labs/flux-kontext-pro"


@pytest.fixture
def job(make_job: Callable[..., Job]) -> Job:
    return make_job(style="replicate", model=PRO)


def prediction(status: Any, **more: Any) -> dict[str, Any]:
    urls = {"get": "https://api.replicate.com/v1/predictions/p1"}
    return {"id": "p1", "status": status, "input": {"prompt": "p"}, "output": None, "error": None, "urls": urls} | more


def test_fields_as_replicate_spells_them(make_job: Callable[..., Job]) -> None:
    job = make_job(style="replicate", model=PRO, seed=3, aspect_ratio="7:3", options=(("input", {"go_fast": True}),))
    request = REPLICATE.submit(job, 1)
    assert request.url == f"/v1/models/{PRO}/predictions"
    assert request.headers["Prefer"].startswith("wait=")
    assert request.headers["Cancel-After"] == "30m"
    assert body_of(request).keys() == {"input"}  # others are refused
    made = body_of(request)["input"]
    assert made.pop("input_image") == job.images[0].url
    assert made == {"prompt": job.prompt, "seed": 3, "aspect_ratio": "21:9", "output_format": "jpg", "go_fast": True}


def test_a_webhook_is_told_of_the_end_only(make_job: Callable[..., Job]) -> None:
    hook = "https://h.example/x?y=1"
    body = body_of(REPLICATE.submit(make_job(style="replicate", model=PRO, webhook_url=hook, webhook_secret="s"), 1))
    assert (body.pop("webhook"), body.pop("webhook_events_filter")) == (hook, ["completed"])
    assert body == body_of(REPLICATE.submit(make_job(style="replicate", model=PRO), 1))


@pytest.mark.parametrize(
    ("model", "url", "version"),
    [
        ("owner/name", "/v1/models/owner/name/predictions", None),
        ("owner/name:abc", "/v1/predictions", "abc"),
        ("a" * 64, "/v1/predictions", "a" * 64),
    ],
)
def test_a_version_is_asked_for_by_its_id(make_job: Callable[..., Job], model: str, url: str, version: str) -> None:
    request = REPLICATE.submit(make_job(style="replicate", model=model), 1)
    assert (request.url, body_of(request).get("version")) == (url, version)


def test_several_references_and_too_much_tolerance_are_told_before(make_job: Callable[..., Job]) -> None:
    urls = ("https://photos.example/1.png", "https://photos.example/2.png")
    images = tuple(Reference(source=url, url=url) for url in urls)
    made = body_of(REPLICATE.submit(make_job(model="black-forest-labs/flux-2-pro", images=images), 1))["input"]
    assert made["input_images"] == list(urls)
    offer = REPLICATE.capabilities(PRO)
    assert offer.most_images == 1
    assert [name for name, _ in offer.conflicts({"images": images, "safety_tolerance": 3})] == ["safety_tolerance"]
    assert not list(offer.conflicts({"images": (), "safety_tolerance": 6}))
    assert not list(offer.conflicts({"images": images, "safety_tolerance": 2}))


@pytest.mark.parametrize("output", [OUT, [OUT], [OUT, f"{OUT}?2"]])
def test_a_prediction_may_have_finished_when_it_is_answered(job: Job, output: Any) -> None:
    done = prediction("succeeded", output=output)
    for reply in (read(REPLICATE.submit(job, 1), done, status=201), read(REPLICATE.poll(job, HANDLE), done)):
        assert isinstance(reply, Finished)
        assert reply.asset == Link(url=OUT)
        assert len(reply.more) == (len(output) - 1 if isinstance(output, list) else 0)


def test_what_has_not_finished_is_asked_for(job: Job) -> None:
    submit, poll = REPLICATE.submit(job, 1), REPLICATE.poll(job, HANDLE)
    assert poll.url == "/v1/predictions/p1"
    started = prediction("starting")
    for answer, cut in ((started, 0), ({**started, "id": None}, 0), (started, 40), ({"id": "p1"}, 0)):
        assert read(submit, answer, status=201, cut=cut) == Submitted(handle=HANDLE)
    for state in ("starting", "processing", "queued", "a new word"):
        assert read(poll, prediction(state)) == Pending()
    assert read(poll, {"detail": "Not found."}, status=404) == Missing()
    odd: tuple[Any, ...] = (prediction(None), prediction("succeeded", id="p2", output=OUT), "<html>", [])
    for answer in odd:
        assert read(poll, answer).code is Code.BAD_ANSWER
    assert read(submit, {"status": "starting"}, status=201).final


FLAGGED = "The input or output was flagged as sensitive. (E005)"


@pytest.mark.parametrize(
    ("answer", "code", "billed"),
    [
        (prediction("failed", error=FLAGGED), Code.MODERATED, False),
        (prediction("failed", error="Director: unexpected error handling prediction (E6716)"), Code.SERVER, False),
        (prediction("failed", error="CUDA out of memory"), Code.BAD_ANSWER, True),
        (prediction("failed"), Code.BAD_ANSWER, True),
        (prediction("canceled"), Code.UNKNOWN, True),
        (prediction("aborted"), Code.SERVER, False),
        (prediction("succeeded", data_removed=True), Code.DOWNLOAD, True),
        (prediction("succeeded"), Code.NO_IMAGE, True),
        (prediction("succeeded", output={"text": "no"}), Code.NO_IMAGE, True),
    ],
)
def test_how_a_prediction_ends_without_a_picture(job: Job, answer: dict[str, Any], code: Code, *, billed: bool) -> None:
    reply = read(REPLICATE.poll(job, HANDLE), answer)
    assert isinstance(reply, Ended)
    assert (reply.error.code, reply.error.billed) == (code, billed)
    if code is Code.UNKNOWN:
        assert reply.error.final  # it is not sent again by itself
    at_once = read(REPLICATE.submit(job, 1), answer, status=201)
    assert at_once == Submitted(handle=HANDLE) or at_once.code is code


def test_a_version_is_paid_by_its_time_also_when_it_fails(make_job: Callable[..., Job]) -> None:
    job = make_job(style="replicate", model="owner/name:abc")
    assert read(REPLICATE.poll(job, HANDLE), prediction("failed", error=FLAGGED)).error.billed


@pytest.mark.parametrize(
    ("status", "answer", "code", "wait"),
    [
        (401, {"title": "Unauthenticated", "detail": "no token", "status": 401}, Code.AUTH, None),
        (
            402,
            {"title": "Insufficient credit", "detail": "You have insufficient credit", "status": 402},
            Code.QUOTA,
            None,
        ),
        (404, {"detail": "Not found."}, Code.INVALID_REQUEST, None),
        (
            422,
            {"title": "Input validation failed", "detail": "- input.seed: an integer", "status": 422},
            Code.INVALID_REQUEST,
            None,
        ),
        (429, {"detail": "Request was throttled.", "status": 429, "retry_after": 7}, Code.RATE_LIMITED, 7),
        (429, {"detail": "Request was throttled. It resets in ~9s."}, Code.RATE_LIMITED, 9),
        (
            429,
            {"detail": "reduced while you have less than $5.0 in credit.", "retry_after": "x"},
            Code.RATE_LIMITED,
            None,
        ),
        (500, {"detail": "oops"}, Code.SERVER, None),
        (504, "<html>", Code.UNKNOWN, None),
    ],
)
def test_what_a_refusal_means(job: Job, status: int, answer: Any, code: Code, wait: float | None) -> None:
    error = read(REPLICATE.submit(job, 1), answer, status=status)
    assert (error.code, error.retry_after) == (code, wait)


def test_a_large_photo_is_uploaded_for_less_than_an_hour(make_job: Callable[..., Job]) -> None:
    photo = Reference(source="a.png", path="/a.png", sha256="ab" * 32, media_type="image/png", size=1 << 20)
    request = REPLICATE.upload(photo)
    assert request is not None
    assert isinstance(request.content, Multipart)
    assert [name for name, part in request.content.parts if isinstance(part, LocalImage)] == ["content"]
    url = "https://api.replicate.com/v1/files/f1"
    told = {"id": "f1", "urls": {"get": url}, "created_at": "2026-11-30T06:00:00Z"}
    day = {**told, "expires_at": "2026-12-01T06:00:00Z"}
    at = 1796018400  # 2026-11-30T06:00:00Z
    for answer in (told, day):
        assert read(request, answer, status=201) == Uploaded(url=url, expires=at + 3000)
    date = {"date": "Mon, 30 Nov 2026 06:00:00 GMT"}
    assert read(request, {"urls": {"get": url}}, status=201, headers=date) == Uploaded(url=url, expires=at + 3000)
    assert read(request, {"urls": {"get": url}, "expires_at": "soon"}, status=201) == Uploaded(url=url, expires=0.0)
    assert read(request, {"urls": None}, status=201).code is Code.BAD_ANSWER
    small = Reference(source="a.png", path="/a.png", sha256="ab" * 32, media_type="image/png", size=1000)
    assert REPLICATE.upload(small) is None
    job = make_job(style="replicate", model=PRO, images=(small,))
    assert isinstance(body_of(REPLICATE.submit(job, 1))["input"]["input_image"], LocalImage)
