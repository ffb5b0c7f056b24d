"""fal's queue: what is sent, and what each answer means."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.errors import Code, JobError
from batchflux.models import Bytes, Cost, Ended, Finished, Job, Link, Missing, Pending, Reference, Submitted, Uploaded
from batchflux.providers import providers
from tests.providers.apis import OUT
from tests.providers.driving import body_of, read, then

if TYPE_CHECKING:
    from collections.abc import Callable

FAL = providers()["fal", "fal"]
PLACE = "https://queue.fal.run/fal-ai/flux-pro/requests/r1"
HANDLE = json.dumps({"status": f"{PLACE}/status", "response": PLACE})
KONTEXT = "fal-ai/flux-pro/kontext"
RESULT = {"images": [{"url": OUT, "width": 1, "height": 1}], "seed": 7, "has_nsfw_concepts": [False], "prompt": "p"}


@pytest.fixture
def job(make_job: Callable[..., Job]) -> Job:
    return make_job(style="fal", model=KONTEXT)


def result(job: Job, answer: Any, status: int, headers: dict[str, str] | None = None, **completed: Any) -> Any:
    step = then(read(FAL.poll(job, HANDLE), {"status": "COMPLETED", **completed}))
    assert step.url == PLACE
    return read(step, answer, status=status, headers=headers)


@pytest.mark.parametrize(
    ("model", "images", "endpoint", "key"),
    [
        (KONTEXT, 0, f"{KONTEXT}/text-to-image", None),
        (KONTEXT, 1, KONTEXT, "image_url"),
        (f"{KONTEXT}/max", 2, f"{KONTEXT}/max/multi", "image_urls"),
        (f"{KONTEXT}/max/multi", 1, f"{KONTEXT}/max/multi", "image_urls"),
        (f"{KONTEXT}/text-to-image", 0, f"{KONTEXT}/text-to-image", None),
        ("fal-ai/flux-2-pro", 2, "fal-ai/flux-2-pro/edit", "image_urls"),
        ("fal-ai/flux-2-pro/edit", 1, "fal-ai/flux-2-pro/edit", "image_urls"),
        ("fal-ai/nano-banana-2", 0, "fal-ai/nano-banana-2", None),
        ("someone/model", 1, "someone/model", "image_urls"),
    ],
)
def test_the_endpoint_takes_as_many_references_as_there_are(
    make_job: Callable[..., Job], model: str, images: int, endpoint: str, key: str | None
) -> None:
    urls = [f"https://photos.example/{number}.png" for number in range(images)]
    job = make_job(style="fal", model=model, images=tuple(Reference(source=url, url=url) for url in urls))
    request = FAL.submit(job, 1)
    assert request.url == f"/{endpoint}"
    assert request.headers["X-Fal-No-Retry"] == "1"
    named = {name: value for name, value in body_of(request).items() if name.startswith("image_")}
    assert named == ({} if key is None else {key: urls[0] if key == "image_url" else urls})


def test_fields_as_fal_spells_them(make_job: Callable[..., Job]) -> None:
    fields = {"seed": 3, "aspect_ratio": "7:3", "safety_tolerance": 6, "prompt_upsampling": True}
    body = body_of(FAL.submit(make_job(style="fal", model=KONTEXT, options=(("most_units", 2),), **fields), 1))
    assert {**body, "prompt": "", "image_url": ""} == {
        "prompt": "",
        "image_url": "",
        "output_format": "jpeg",
        "seed": 3,
        "aspect_ratio": "21:9",
        "safety_tolerance": "6",
        "enhance_prompt": True,
    }
    offer = FAL.capabilities(KONTEXT)
    assert offer.value_for("safety_tolerance", 0) is None
    assert offer.value_for("aspect_ratio", "2:1") is None


def test_a_webhook_stands_in_the_address(make_job: Callable[..., Job]) -> None:
    plain, hooked = (
        FAL.submit(make_job(style="fal", model=KONTEXT, **more), 1)
        for more in ({}, {"webhook_url": "https://h.example/x?y=1&z", "webhook_secret": "s"})
    )
    assert hooked.url == f"{plain.url}?fal_webhook=https%3A%2F%2Fh.example%2Fx%3Fy%3D1%26z"
    assert body_of(hooked) == body_of(plain)


def test_a_key_goes_to_fals_own_hosts_only() -> None:
    assert FAL.authorize("id:secret") == {"Authorization": "Key id:secret"}
    assert FAL.may_have_key("queue.fal.run", https=True)
    for host, https in (("queue.fal.run", False), ("v3.fal.media", True), ("queue.fal.run.evil.example", True)):
        assert not FAL.may_have_key(host, https=https)


def test_a_request_gives_a_task_with_the_addresses_of_the_answer(job: Job) -> None:
    answer = {"request_id": "r1", "response_url": PLACE, "status_url": f"{PLACE}/status", "queue_position": 0}
    assert read(FAL.submit(job, 1), answer) == Submitted(handle=HANDLE)
    own = "/fal-ai/flux-pro/requests/r1"
    for partly in (read(FAL.submit(job, 1), {"request_id": "r1"}), read(FAL.submit(job, 1), answer, cut=150)):
        assert isinstance(partly, Submitted)
        assert FAL.poll(job, partly.handle).url == f"{own}/status"
    unnamed = read(FAL.submit(job, 1), {"ok": True})
    assert (unnamed.code, unnamed.final, unnamed.billed) == (Code.BAD_ANSWER, True, True)


@pytest.mark.parametrize(
    ("status", "answer", "reply"),
    [
        (202, {"status": "IN_QUEUE", "queue_position": 3}, Pending()),
        (202, {"status": "IN_PROGRESS", "logs": []}, Pending()),
        (200, {"status": "SOMETHING_NEW"}, Pending()),
        (404, {"status": "NOT_FOUND"}, Missing()),
        (200, {"status": "NOT_FOUND"}, Missing()),
    ],
)
def test_a_task_is_waited_for(job: Job, status: int, answer: Any, reply: Any) -> None:
    assert read(FAL.poll(job, HANDLE), answer, status=status) == reply


def test_the_result_of_a_task_is_asked_for_and_says_how_many_units_it_was(job: Job) -> None:
    got = result(job, RESULT, 200, {"x-fal-billable-units": "1.5"})
    assert got == Finished(asset=Link(url=OUT), seed=7, cost=Cost(units=Decimal("1.5")))
    for odd in ("", "many", "-1", "NaN", "1e99"):
        assert result(job, RESULT, 200, {"x-fal-billable-units": odd}).cost is None


DETAIL = [{"loc": ["body", "prompt"], "msg": "no", "type": "content_policy_violation"}]


@pytest.mark.parametrize(
    ("status", "answer", "code", "billed"),
    [
        (422, {"detail": DETAIL}, Code.MODERATED, False),
        (422, {"detail": [{"loc": ["body"], "msg": "no", "type": "nsfw_content"}]}, Code.MODERATED, False),
        (
            422,
            {"detail": [{"loc": ["body", "seed"], "msg": "an integer", "type": "int_type"}]},
            Code.INVALID_REQUEST,
            False,
        ),
        (422, {"detail": "no such field"}, Code.INVALID_REQUEST, False),
        (400, {"detail": "bad", "error_type": "bad_request"}, Code.INVALID_REQUEST, False),
        (500, {"detail": "oops", "error_type": "internal_error"}, Code.SERVER, False),
        (503, {"detail": "gone", "error_type": "runner_connection_refused"}, Code.SERVER, False),
        (504, {"detail": "slow", "error_type": "generation_timeout"}, Code.SERVER, False),
        (499, {"detail": "x", "error_type": "client_cancelled"}, Code.UNKNOWN, True),
        (200, {**RESULT, "has_nsfw_concepts": [True]}, Code.MODERATED, True),
        (200, {"images": [], "seed": 1}, Code.NO_IMAGE, True),
    ],
)
def test_how_a_task_ends_without_a_picture(job: Job, status: int, answer: Any, code: Code, *, billed: bool) -> None:
    got = result(job, answer, status)
    assert isinstance(got, Ended)
    assert (got.error.code, got.error.billed) == (code, billed)


@pytest.mark.parametrize(
    ("status", "answer", "code"),
    [
        (502, "<html><title>502 Bad Gateway</title></html>", Code.SERVER),
        (500, "oops", Code.SERVER),
        (429, {"detail": "slow down"}, Code.RATE_LIMITED),
        (401, {"detail": "invalid key credentials"}, Code.AUTH),
        (200, "{oops", Code.BAD_ANSWER),
    ],
)
def test_a_result_that_does_not_come_is_asked_for_again(job: Job, status: int, answer: Any, code: Code) -> None:
    got = result(job, answer, status)
    assert isinstance(got, JobError)
    assert got.code is code
    assert result(job, {"detail": "Request is still in progress"}, 400) == Pending()
    assert result(job, {"detail": "not found"}, 404) == Missing()
    assert isinstance(result(job, "oops", 500, error="it crashed", error_type="runner_server_error"), Ended)


@pytest.mark.parametrize(
    ("status", "answer", "code"),
    [
        (403, {"detail": "User is locked. Reason: Exhausted balance. Top up your balance."}, Code.QUOTA),
        (403, {"detail": "Forbidden"}, Code.AUTH),
        (401, {"detail": "invalid key credentials"}, Code.AUTH),
        (429, {"detail": "queue is full"}, Code.RATE_LIMITED),
        (504, {"detail": "slow", "error_type": "request_timeout"}, Code.SERVER),
        (504, "<html>Gateway</html>", Code.UNKNOWN),
        (422, {"detail": DETAIL}, Code.MODERATED),
    ],
)
def test_what_a_refusal_means(job: Job, status: int, answer: Any, code: Code) -> None:
    assert read(FAL.submit(job, 1), answer, status=status).code is code


def test_no_request_can_cost_more_than_is_quoted(make_job: Callable[..., Job]) -> None:
    price = Decimal("0.03")
    assert FAL.quote(make_job(style="fal", model=KONTEXT), price) == price
    job = make_job(style="fal", model="fal-ai/flux-2-pro")
    assert FAL.quote(job, price) == 8 * price  # four megapixels each of the picture and of its reference
    assert FAL.quote(make_job(model="fal-ai/flux-2-pro", options=(("most_units", 3),)), price) == 3 * price
    assert FAL.quote(job, None) is None


def test_a_large_photo_is_uploaded_with_a_token_of_its_own(make_job: Callable[..., Job]) -> None:
    photo = Reference(source="a.png", path="/a.png", sha256="ab" * 32, media_type="image/png", size=1 << 20)
    small = Reference(source="a.png", path="/a.png", sha256="ab" * 32, media_type="image/png", size=1000)
    assert FAL.upload(small) is None
    request = FAL.upload(photo)
    assert request is not None
    assert (request.repeatable, body_of(request)) == (True, {})
    token = {"token": "t", "token_type": "Bearer", "base_url": "https://v3.fal.media", "expires_at": "2026-11-30"}
    step = then(read(request, token))
    assert (step.url, step.keyless, step.headers["Authorization"]) == (
        "https://v3.fal.media/files/upload",
        True,
        "Bearer t",
    )
    assert isinstance(step.content, Bytes)
    assert read(step, {"access_url": "https://v3.fal.media/files/a.png"}) == Uploaded(
        url="https://v3.fal.media/files/a.png"
    )
    assert read(request, {"token": None}).code is Code.BAD_ANSWER
    fault = [{"loc": ["body", "image_url"], "msg": "no", "type": "file_download_error"}]
    job = make_job(style="fal", model=KONTEXT, images=(photo,))
    assert result(job, {"detail": fault}, 422).error.code is Code.REFERENCE
