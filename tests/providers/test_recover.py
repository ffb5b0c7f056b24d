"""Looking for a lost request in what fal, Replicate and ComfyUI list: exactly its own, and no crash."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.engine.executors.local import addressed
from batchflux.errors import Code, JobError
from batchflux.models import Ended, Job, Listed, Reference, Then
from batchflux.providers import providers
from batchflux.providers.answers.listed import MOST_PAGES
from batchflux.providers.base import Lost
from tests.conftest import numbered_job
from tests.providers.apis import B64, WORKFLOW
from tests.providers.driving import body_of, read, then

if TYPE_CHECKING:
    from pathlib import Path

    from batchflux.models import HttpRequest

FAL, REPLICATE, COMFY = (providers()[name, name] for name in ("fal", "replicate", "comfyui"))
SENT = 1_800_000_000.0
LOST = Lost(attempt=7, sent_at=SENT, until=SENT + 360)
KONTEXT, OWNER = "fal-ai/flux-pro/kontext", "black-forest-labs/flux-kontext-pro"
PHOTOS = tuple(
    Reference(source=url, url=url) for url in ("https://photos.example/1.png", "https://photos.example/2.png")
)


def job_of(api: str, **fields: Any) -> Job:
    models = {"fal": KONTEXT, "replicate": OWNER, "comfyui": "workflow"}
    own = {"options": (("workflow", WORKFLOW), ("inputs", {"prompt": "6.text"}))} if api == "comfyui" else {}
    asked: dict[str, Any] = {"prompt": "A mug", "images": (), "style": api, "model": models[api], **own, **fields}
    return replace(numbered_job(0), **asked)


def iso(offset: float = 0.0) -> str:
    return datetime.fromtimestamp(SENT + offset, UTC).isoformat().replace("+00:00", "Z")


def item(api: str, job: Job, name: str = "r1", **changes: Any) -> dict[str, Any]:
    """Return how an API lists a request of a job, its keys in another order."""
    asked = body_of((FAL if api == "fal" else REPLICATE).submit(job, 1))
    if api == "fal":
        endpoint = f"{KONTEXT}/multi" if len(job.images) > 1 else KONTEXT if job.images else f"{KONTEXT}/text-to-image"
        said = {"request_id": name, "endpoint_id": endpoint, "sent_at": iso(), "ended_at": iso(9), "status_code": 200}
        return {**said, "json_input": dict(reversed(asked.items())), **changes}
    return {"id": name, "model": OWNER, "version": "hidden", "created_at": iso(), "input": asked["input"], **changes}


def page(api: str, items: Any, more: str | None = None) -> dict[str, Any]:
    if api == "fal":
        return {"items": items, "has_more": more is not None, "next_cursor": more}
    return {"previous": None, "next": more and f"https://api.replicate.com/v1/predictions?{more}", "results": items}


def asks(api: str, job: Job) -> HttpRequest:
    return (FAL if api == "fal" else REPLICATE).recover(job, LOST)


def found(api: str, job: Job, *items: Any) -> list[str]:
    """Return the ids that are found in a list of one page."""
    provider = FAL if api == "fal" else REPLICATE
    listed = read(asks(api, job), page(api, [*items]))
    assert isinstance(listed, Listed), listed
    assert listed.whole == (api == "replicate")
    return [provider.task_of(handle) for handle in listed.handles]


both = pytest.mark.parametrize("api", ["fal", "replicate"])


def test_fal_is_asked_for_the_endpoint_and_the_time_with_payloads() -> None:
    request = asks("fal", job_of("fal", images=PHOTOS))
    place = urlsplit(request.url)
    assert f"{place.scheme}://{place.netloc}{place.path}" == "https://api.fal.ai/v1/models/requests/by-endpoint"
    assert {name: values[0] for name, values in parse_qs(place.query).items()} == {
        "endpoint_id": f"{KONTEXT}/multi",
        "start": iso(-120).replace("+00:00", "Z"),
        "end": iso(361),
        "expand": "payloads",
        "limit": "100",
    }
    assert (request.method, request.content, request.repeatable) == ("GET", None, True)


def test_replicate_is_asked_for_the_time() -> None:
    request = asks("replicate", job_of("replicate"))
    place = urlsplit(request.url)
    assert (place.netloc, place.path) == ("", "/v1/predictions")
    assert parse_qs(place.query) == {"created_after": [iso(-121)], "created_before": [iso(121)]}


@both
@pytest.mark.parametrize(
    ("offset", "is_found"), [(0, True), (-120, True), (120, True), (119.9, True), (-120.1, False), (120.1, False)]
)
def test_it_was_sent_within_the_window(api: str, offset: float, is_found: bool) -> None:  # noqa: FBT001  a parameter
    job, key = job_of(api), "sent_at" if api == "fal" else "created_at"
    assert bool(found(api, job, item(api, job, **{key: iso(offset)}))) is is_found


@both
def test_a_photo_that_was_put_into_a_bucket_is_found_by_its_content_however_it_travelled(api: str) -> None:
    """With another signature, or as the bytes, where `publish` came or went; and one that lies in a bucket."""
    data = base64.b64decode(B64)
    digest = sha256(data).hexdigest()
    place = f"s3://shop/refs/{digest}.png"
    local = Reference(source="a.png", path="/a.png", sha256=digest, media_type="image/png")
    link = f"https://shop.s3.example/refs/{digest}.png?X-Amz-Signature="
    sent = [f"{link}{number}" for number in range(2)] + [f"data:image/png;base64,{B64}"]
    for known in (replace(local, url=place), replace(local, url=f"{link}9"), local):
        job = job_of(api, images=(known,))
        for url in sent:
            listed = item(api, job_of(api, images=(Reference(source=url, url=url),)))
            assert found(api, job, listed) == ["r1"], (known, url)
        for other in (link.replace(digest, sha256(b"x").hexdigest()), "https://photos.example/a.png"):
            listed = item(api, job_of(api, images=(Reference(source=other, url=other),)))
            assert not found(api, job, listed), (known, other)
    there = job_of(api, images=(Reference(source="s3://shop/a b?.png", url="s3://shop/a b?.png"),))
    for key, is_found in (("a%20b%3F.png", True), ("a.png", False)):
        url = f"https://shop.s3.example/{key}?X-Amz-Signature=1"
        assert bool(found(api, there, item(api, job_of(api, images=(Reference(source=url, url=url),))))) is is_found


@both
def test_times_are_read_as_they_are_written(api: str) -> None:
    job, key = job_of(api), "sent_at" if api == "fal" else "created_at"
    at = datetime.fromtimestamp(SENT, UTC).replace(tzinfo=None).isoformat()
    for text in (at, f"{at}Z", f"{at}.123456789Z", f"{at}+00:00"):
        assert found(api, job, item(api, job, **{key: text})) == ["r1"], text
    others: list[Any] = ["yesterday", "", None, SENT, {"at": 1}, [], f"{at}+05:00"]
    for other in others:
        assert not found(api, job, {**item(api, job), key: other}), other


def put(api: str, job: Job, **asked: Any) -> dict[str, Any]:
    own = item(api, job)
    key = "json_input" if api == "fal" else "input"
    return {**own, key: {name: value for name, value in {**own[key], **asked}.items() if value != "none"}}


@both
def test_its_input_is_equal(api: str) -> None:
    job = job_of(api, seed=3, prompt_upsampling=True)
    flag = "enhance_prompt" if api == "fal" else "prompt_upsampling"
    assert found(api, job, put(api, job, seed=3.0)) == ["r1"]
    for other in ({"seed": 4}, {"seed": "3"}, {"seed": None}, {"seed": "none"}, {"prompt": "a mug"}, {flag: 1}):
        assert not found(api, job, put(api, job, **other)), other
    for more in ({"num_images": 1}, {"guidance_scale": None}):
        assert not found(api, job, put(api, job, **more)), more


def test_the_order_of_photos_counts() -> None:
    job = job_of("fal", images=PHOTOS)
    urls = [one.url for one in PHOTOS]
    assert found("fal", job, item("fal", job)) == ["r1"]
    for other in (urls[::-1], urls[:1], [*urls, urls[0]], urls[0], None, {"0": urls[0]}):
        assert not found("fal", job, put("fal", job, image_urls=other)), other


@both
def test_a_local_photo_is_compared_by_its_bytes(api: str, tmp_path: Path) -> None:
    data = b"\x89PNG\r\n\x1a\n a photo"
    local = Reference(
        source="a.png", path=str(tmp_path / "a.png"), sha256=sha256(data).hexdigest(), media_type="image/png", size=9
    )
    job, key = job_of(api, images=(local,)), "image_url" if api == "fal" else "input_image"
    text = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    assert found(api, job, put(api, job, **{key: text})) == ["r1"]
    long = f"data:image/png;base64,{base64.b64encode(bytes(300_000)).decode()}"
    for other in (text[:-4], text.replace("png;", "png;utf8;", 1)[22:], long, "https://x.example/a.png", 3, None):
        assert not found(api, job, put(api, job, **{key: other})), str(other)[:80]


def test_a_page_of_large_photos_is_short(tmp_path: Path) -> None:
    large = Reference(source="a", path=str(tmp_path / "a"), sha256="0" * 64, media_type="image/png", size=250_000)
    request = asks("fal", job_of("fal", images=(large, large)))
    assert 1 < int(parse_qs(urlsplit(request.url).query)["limit"][0]) < 20


@both
def test_whom_it_calls_is_no_part_of_it(api: str) -> None:
    job = job_of(api)
    assert found(api, replace(job, webhook_url="https://hooks.example/1"), item(api, job)) == ["r1"]


@both
def test_another_model_is_not_it(api: str) -> None:
    job, key = job_of(api), "endpoint_id" if api == "fal" else "model"
    for other in (f"{KONTEXT}/max", "black-forest-labs/flux-kontext-max", None, 3):
        assert not found(api, job, {**item(api, job), key: other})


@pytest.mark.parametrize(
    ("model", "listed", "is_found"),
    [
        (f"{OWNER}:v1", {"version": "v1"}, True),
        (f"{OWNER}:v1", {"version": "v2"}, False),
        (f"{OWNER}:v1", {"model": "other/one", "version": "v1"}, False),
        ("v1", {"model": "any/one", "version": "v1"}, True),
        ("v1", {"version": "hidden"}, False),
    ],
)
def test_a_version_is_told_apart(model: str, listed: dict[str, str], is_found: bool) -> None:  # noqa: FBT001  a parameter
    job = job_of("replicate", model=model)
    assert bool(found("replicate", job, item("replicate", job, **listed))) is is_found


@both
def test_all_pages_are_read_and_what_is_listed_twice_is_one(api: str) -> None:
    job = job_of(api)
    other = put(api, job, prompt="Another mug")
    step = then(read(asks(api, job), page(api, [item(api, job), other], "cursor=2")))
    assert parse_qs(urlsplit(step.url).query)["cursor"] == ["cursor=2" if api == "fal" else "2"]
    step = then(read(step, page(api, [], "cursor=3")))
    listed = read(step, page(api, [item(api, job, "r2"), item(api, job), other]))
    assert len(listed.handles) == 2


def test_the_handle_is_what_later_polls_need() -> None:
    job = job_of("fal")
    [handle] = read(asks("fal", job), page("fal", [item("fal", job, "a b/../c")])).handles
    assert FAL.poll(job, handle).url == "/fal-ai/flux-pro/requests/a%20b%2F..%2Fc/status"
    assert FAL.task_of(handle) == "a b/../c"
    place = "https://queue.fal.run/fal-ai/flux-pro/requests/r1"
    assert FAL.task_of(json.dumps({"status": f"{place}/status", "response": place})) == "r1"
    assert [FAL.task_of(other) for other in ("https://api.bfl.ai/?id=1", '{"id": "p1"}', "[]")] == [
        "https://api.bfl.ai/?id=1",
        '{"id": "p1"}',
        "[]",
    ]
    job = job_of("replicate")
    [handle] = read(asks("replicate", job), page("replicate", [item("replicate", job)])).handles
    assert REPLICATE.poll(job, handle).url == "/v1/predictions/r1"


@pytest.mark.parametrize(
    ("base", "place"),
    [
        ("https://queue.fal.run", "https://api.fal.ai/v1/models/requests/by-endpoint"),
        ("http://127.0.0.1:8765", "http://127.0.0.1:8765/v1/models/requests/by-endpoint"),
        ("http://127.0.0.1:8765/fal", "http://127.0.0.1:8765/fal/v1/models/requests/by-endpoint"),
        ("https://proxy.example/fal/", "https://proxy.example/fal/v1/models/requests/by-endpoint"),
    ],
)
def test_fals_list_is_asked_below_another_address(base: str, place: str) -> None:
    assert addressed(asks("fal", job_of("fal")), FAL, base).url.partition("?")[0] == place


@pytest.mark.parametrize(
    "following",
    [
        "https://evil.example/v1/predictions?cursor=2",
        "//evil.example/steal?cursor=2",
        "http://api.replicate.com@evil.example/?cursor=2",
        "/v1/files/../../evil?cursor=2",
        "javascript:?cursor=2",
    ],
)
def test_the_next_page_is_asked_at_the_list_wherever_it_is_said_to_be(following: str) -> None:
    job = job_of("replicate")
    step = then(read(asks("replicate", job), {"results": [], "next": following}))
    assert step.url == "/v1/predictions?cursor=2"


@pytest.mark.parametrize(
    "following", ["https://api.replicate.com/v1/predictions", "\x00", "?cursor", "http://[", 3, ["x"]]
)
def test_a_next_page_that_is_none_is_no_end(following: Any) -> None:
    job = job_of("replicate")
    error = read(asks("replicate", job), {"results": [item("replicate", job)], "next": following})
    assert isinstance(error, JobError)
    assert error.code is Code.BAD_ANSWER


@both
def test_a_list_without_an_end_is_given_up(api: str) -> None:
    job = job_of(api)
    step, steps = asks(api, job), 0
    while True:
        reply = read(step, page(api, [], f"cursor={steps}"))
        steps += 1
        if not isinstance(reply, Then):
            break
        step = reply.request
    assert isinstance(reply, JobError)
    assert "no end" in reply.message
    assert steps == MOST_PAGES
    step = then(read(asks(api, job), page(api, [], "cursor=1")))
    assert "no end" in read(step, page(api, [], "cursor=1")).message


@both
def test_ten_thousand_items(api: str) -> None:
    job, name, asked = job_of(api, seed=9_999), *(("request_id", "json_input") if api == "fal" else ("id", "input"))
    own = item(api, job)
    others = [{**own, name: f"r{number}", asked: {**own[asked], "seed": number}} for number in range(10_000)]
    assert found(api, job, *others) == ["r9999"]


@both
@pytest.mark.parametrize("fault", ["cut", "items", "list", "words", "empty"])
def test_half_a_list_is_no_list(api: str, fault: str) -> None:
    job = job_of(api)
    whole = page(api, [item(api, job)])
    answers: dict[str, Any] = {
        "cut": whole,
        "items": {name: value for name, value in whole.items() if name not in ("items", "results")},
        "list": [item(api, job)],
        "words": "Not now",
        "empty": "",
    }
    error = read(asks(api, job), answers[fault], cut=1 if fault == "cut" else 0)
    assert isinstance(error, JobError)


def test_more_without_a_cursor_is_no_end() -> None:
    job = job_of("fal")
    for answer in ({"items": [], "has_more": True}, {"items": [], "has_more": "yes", "next_cursor": "2"}):
        assert isinstance(read(asks("fal", job), answer), JobError)
    assert isinstance(read(asks("fal", job), {"items": []}), Listed)


@both
@pytest.mark.parametrize("status", [401, 403, 404, 405, 422, 429, 500, 502, 503])
def test_a_refusal_is_an_error(api: str, status: int) -> None:
    job = job_of(api)
    assert isinstance(read(asks(api, job), {"detail": "no", "items": [], "results": []}, status=status), JobError)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=40)
@given(api=st.sampled_from(["fal", "replicate"]), data=st.data())
def test_items_of_any_shape_are_passed_over(api: str, data: st.DataObject) -> None:
    job = job_of(api, images=PHOTOS[:1])
    own = item(api, job)
    odd = {name: data.draw(JSON | st.just(value)) for name, value in own.items() if data.draw(st.booleans())}
    names = found(api, job, odd, data.draw(JSON), own, data.draw(JSON))
    assert "r1" in names
    assert len(names) <= 2


@given(api=st.sampled_from(["fal", "replicate"]), answer=JSON, name=st.sampled_from(["items", "results", "next"]))
def test_answers_of_any_shape_are_read_or_refused(api: str, answer: Any, name: str) -> None:
    job = job_of(api)
    for body in (answer, {name: answer}, {"items": [], "results": [], "next_cursor": answer, "next": answer}):
        assert isinstance(read(asks(api, job), body), Listed | Then | JobError)


def test_a_prompt_is_known_by_its_id() -> None:
    job = job_of("comfyui")
    name = body_of(COMFY.submit(job, 7))["prompt_id"]
    request = COMFY.recover(job, LOST)
    assert request.url == f"/history/{name}"
    ended = {"outputs": {}, "status": {"status_str": "error", "messages": [["execution_error", {}]]}}
    assert json.loads(read(request, {name: ended}).handles[0])["id"] == name
    queue = then(read(request, {}))
    assert queue.url == "/queue"
    row = [1, name, {}]
    for running, pending in (([row], []), ([], [row])):
        assert len(read(queue, {"queue_running": running, "queue_pending": pending}).handles) == 1
    again = then(read(queue, {"queue_running": [[1, "another"]], "queue_pending": []}))
    assert again.url == f"/history/{name}"
    nothing = read(again, {})
    assert isinstance(nothing, Ended)
    assert (nothing.error.code, nothing.error.billed) == (Code.NETWORK, False)
    assert isinstance(read(queue, {"queue_running": None}), JobError)
    assert isinstance(read(request, {}, status=500), JobError)
