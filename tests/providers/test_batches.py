"""Batches of OpenAI and Gemini: what is asked, and what each answer means, as they were seen or may be one day."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchflux.errors import Code, JobError
from batchflux.models import (
    Bytes,
    Closed,
    LocalFile,
    LocalImage,
    Missing,
    Multipart,
    Pending,
    Submitted,
    Then,
    Uploaded,
)
from batchflux.providers import providers
from batchflux.providers.batches import BatchAnswer, BatchApi
from tests.providers.answering import LOCAL, REMOTE, body_of, made, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.models import HttpRequest

OPENAI, GEMINI = providers()["openai", "openai"], providers()["gemini", "gemini"]
FILE = LocalFile(path="/b/one.jsonl", size=7, media_type="application/jsonl")
NAME = "6f1f2a"


def api_of(provider: Any) -> BatchApi:
    assert isinstance(provider.batches, BatchApi)
    return provider.batches


A, G = api_of(OPENAI), api_of(GEMINI)
JOB, DRAWN = made("openai", "gpt-image-1.5"), made("gemini", "models/gemini-2.5-flash-image")


def openai_batch(status: str, **more: Any) -> dict[str, Any]:
    return {
        "id": "batch_6a73f2f8",
        "object": "batch",
        "endpoint": "/v1/images/generations",
        "errors": None,
        "input_file_id": "file-in",
        "completion_window": "24h",
        "status": status,
        "output_file_id": None,
        "error_file_id": None,
        "created_at": 1774437191,
        "expires_at": 1774523591,
        "request_counts": {"total": 8, "completed": 0, "failed": 0},
        "metadata": {"batchflux": NAME},
        **more,
    }


def gemini_batch(state: str, *, done: bool = False, about: Any = None, **more: Any) -> dict[str, Any]:
    name = "batches/7h9w4gzuqot3bb3fpd1e2nqcp980iwnmjs7n"
    metadata = {
        "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
        "model": "models/gemini-2.5-flash-image",
        "displayName": NAME,
        "inputConfig": {"fileName": "files/85nave4ld71j"},
        "createTime": "2025-09-07T11:55:07.827892252Z",
        "batchStats": {"requestCount": "5", "pendingRequestCount": "5"},
        "state": f"BATCH_STATE_{state}",
        "name": name,
        **(about or {}),
    }
    return {"name": name, "metadata": metadata, **({"done": True} if done else {}), **more}


# What is asked.


def test_a_line_of_openai_is_the_request_as_json() -> None:
    options = (("stream", True), ("partial_images", 2), ("moderation", "low"))
    made_line = A.line(made("openai", "gpt-image-1.5", quality="low", options=options), "k1").value
    assert made_line == {
        "custom_id": "k1",
        "method": "POST",
        "url": "/v1/images/generations",
        "body": {
            "model": "gpt-image-1.5",
            "prompt": "a mug",
            "output_format": "jpeg",
            "quality": "low",
            "moderation": "low",
        },
    }
    edit = made("openai", "gpt-image-1.5", images=(LOCAL, REMOTE), mask=LOCAL)
    told = A.line(edit, "k2").value
    file, link = told["body"]["images"]
    assert told["url"] == "/v1/images/edits"
    assert isinstance(file["image_url"], LocalImage)
    assert link == {"image_url": REMOTE.url}
    assert told["body"]["mask"] == file
    assert [A.kind(JOB), A.kind(edit)] == ["/v1/images/generations gpt-image-1.5", "/v1/images/edits gpt-image-1.5"]


def test_a_form_has_no_place_in_a_batch() -> None:
    images, options = (LOCAL,), (("edits", "multipart"),)
    terms = OPENAI.capabilities("gpt-image-1.5").batch
    assert terms is not None
    assert [name for name, _ in terms.conflicts({"images": images, "options": options})] == ["options"]
    assert not [*terms.conflicts({"images": (), "options": options})]
    with pytest.raises(JobError, match="no form") as refused:
        A.line(made("openai", "gpt-image-1.5", images=images, options=options), "k")
    assert refused.value.code is Code.INVALID_REQUEST
    assert OPENAI.capabilities("flux.2-dev").batch is None


def test_a_line_of_gemini_is_the_request() -> None:
    told = G.line(made("gemini", "gemini-2.5-flash-image", images=(LOCAL,), seed=7), "k1").value
    assert told["key"] == "k1"
    live = GEMINI.submit(made("gemini", "gemini-2.5-flash-image", images=(LOCAL,), seed=7), 1)
    assert told["request"] == body_of(live)
    assert G.kind(DRAWN) == "gemini-2.5-flash-image"


def test_each_step_is_free_and_repeatable_but_the_create() -> None:
    for api, kind in ((A, A.kind(JOB)), (G, G.kind(DRAWN))):
        steps = [api.upload(FILE), api.find(NAME), api.poll("b/x"), api.cancel("b/x"), api.answers("f/x")]
        assert all(step.repeatable and not step.keyless and step.url.startswith("/") for step in steps)
        create = api.create(kind, "file-in", NAME)
        assert (create.method, create.repeatable) == ("POST", False)
        assert NAME in str(body_of(create))
    assert body_of(A.create("/v1/images/edits gpt-image-1.5", "file-in", NAME)) == {
        "input_file_id": "file-in",
        "endpoint": "/v1/images/edits",
        "completion_window": "24h",
        "metadata": {"batchflux": NAME},
    }
    create = G.create("gemini-2.5-flash-image", "files/in", NAME)
    assert create.url == "/v1beta/models/gemini-2.5-flash-image:batchGenerateContent"
    assert body_of(create) == {"batch": {"display_name": NAME, "input_config": {"file_name": "files/in"}}}
    assert A.poll("../v1/x?y").url == "/v1/batches/..%2Fv1%2Fx%3Fy"
    assert G.answers("files/x?key=1").url == "/download/v1beta/files/x%3Fkey%3D1:download?alt=media"


# Files.


def test_openai_takes_a_file_in_a_form() -> None:
    request = A.upload(FILE)
    assert isinstance(request.content, Multipart)
    assert request.content.parts == (("purpose", "batch"), ("file", FILE))
    told = {"id": "file-3fcQ3", "object": "file", "bytes": 7, "purpose": "batch", "status": "processed"}
    assert read(request, told) == Uploaded(url="file-3fcQ3")
    assert read(request, {"error": {"message": "too large"}}, 413).code is Code.INVALID_REQUEST


def test_gemini_says_where_a_file_goes_and_the_key_does_not_go_there() -> None:
    start = G.upload(FILE)
    assert start.headers["X-Goog-Upload-Header-Content-Length"] == "7"
    place = "https://generativelanguage.googleapis.com/upload/v1beta/files?upload_id=ABC&upload_protocol=resumable"
    reply = read(start, {}, headers={"x-goog-upload-url": place})
    assert isinstance(reply, Then)
    request = reply.request
    assert (request.url, request.keyless, request.content) == (place, True, Bytes(image=FILE))
    assert dict(request.headers) == {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0"}
    assert read(request, {"file": {"name": "files/85nave4ld71j", "state": "ACTIVE"}}) == Uploaded(
        url="files/85nave4ld71j"
    )
    for headers in ({}, {"x-goog-upload-url": "file:///etc/passwd"}, {"x-goog-upload-url": "//[x"}):
        assert read(start, {}, headers=headers).code is Code.BAD_ANSWER
    odd: list[Any] = [{}, {"file": None}, {"file": {"name": ""}}, [], "x"]
    for told in odd:
        assert read(request, told).code is Code.BAD_ANSWER


# Create and find.


@pytest.mark.parametrize(
    ("api", "kind", "told", "handle"),
    [
        (A, "/v1/images/generations gpt-image-1.5", openai_batch("validating"), "batch_6a73f2f8"),
        (G, "gemini-2.5-flash-image", gemini_batch("PENDING"), "batches/7h9w4gzuqot3bb3fpd1e2nqcp980iwnmjs7n"),
    ],
    ids=["openai", "gemini"],
)
def test_what_a_create_comes_to(api: BatchApi, kind: str, told: Any, handle: str) -> None:
    request = api.create(kind, "file-in", NAME)
    assert read(request, told) == Submitted(handle=handle)
    cut = json.dumps(told)
    assert read(request, cut[: len(cut) // 2], whole=False) == Submitted(handle=handle)
    codes = {
        400: Code.INVALID_REQUEST,
        401: Code.AUTH,
        429: Code.RATE_LIMITED,
        500: Code.SERVER,
        504: Code.UNKNOWN,
    }
    for status, code in codes.items():
        assert read(request, {"error": {"message": "no"}}, status).code is code
    gone = {"error": {"message": "Cannot find file file-in, or project proj_x does not have access to it."}}
    assert read(request, gone, 400).code is Code.SERVER  # it was laid there a moment ago
    assert read(request, {}).code is Code.BAD_ANSWER


def test_google_says_that_a_file_is_not_there_yet_by_a_status_of_its_own() -> None:
    told = {"code": 400, "status": "FAILED_PRECONDITION", "message": "The File x is not in an ACTIVE state."}
    request = G.create("gemini-2.5-flash-image", "files/x", NAME)
    assert read(request, {"error": told}, 400).code is Code.SERVER
    unpaid = {**told, "message": "User location is not supported for the API use."}
    assert read(request, {"error": unpaid}, 400).code is Code.AUTH


def test_a_batch_of_openai_is_looked_for_page_by_page() -> None:
    first = A.find(NAME)
    assert first.url == "/v1/batches?limit=100"
    other = openai_batch("completed", id="batch_0", metadata={"batchflux": "else"})
    odd = [None, {"id": 7}, {"id": "batch_1", "metadata": "none"}, openai_batch("failed", id="batch_2", metadata=None)]
    page = {"object": "list", "data": [*odd, other], "last_id": "batch_0", "has_more": True}
    reply = read(first, page)
    assert isinstance(reply, Then)
    second = reply.request
    assert second.url == "/v1/batches?limit=100&after=batch_0"
    assert second.repeatable
    assert read(second, {**page, "data": [openai_batch("validating")]}) == Submitted(handle="batch_6a73f2f8")
    assert read(second, {**page, "has_more": False}) == Missing()
    for unfinished in (page, {**page, "last_id": None, "data": []}, {"data": None}, {}, "[]"):
        assert read(second, unfinished).code is Code.BAD_ANSWER
    assert read(second, json.dumps({**page, "has_more": False})[:-9], whole=False).code is Code.BAD_ANSWER
    assert read(second, {"error": {"message": "no"}}, 503).code is Code.SERVER


def test_a_batch_of_gemini_is_looked_for_page_by_page() -> None:
    first = G.find(NAME)
    assert first.url == "/v1beta/batches?pageSize=100"
    other = gemini_batch("PENDING", about={"displayName": "else"})
    reply = read(first, {"operations": [None, {}, {"metadata": 1}, other], "nextPageToken": "a/b"})
    assert isinstance(reply, Then)
    second = reply.request
    assert second.url == "/v1beta/batches?pageSize=100&pageToken=a%2Fb"
    handle = "batches/7h9w4gzuqot3bb3fpd1e2nqcp980iwnmjs7n"
    assert read(second, {"operations": [gemini_batch("PENDING")]}) == Submitted(handle=handle)
    assert read(second, {"operations": [other]}) == read(second, {}) == Missing()  # {}: there are none
    assert read(second, {"nextPageToken": "a/b"}).code is Code.BAD_ANSWER
    assert read(second, "no").code is Code.BAD_ANSWER


@pytest.mark.parametrize("api", [A, G], ids=["openai", "gemini"])
def test_a_list_without_an_end_is_given_up(api: BatchApi) -> None:
    request, pages = api.find(NAME), 0
    while True:
        pages += 1
        page = {"data": [{"id": f"b{pages}"}], "has_more": True, "nextPageToken": f"t{pages}"}
        reply = read(request, page)
        if isinstance(reply, JobError):
            break
        request = reply.request
    assert (reply.code, pages) == (Code.BAD_ANSWER, 1001)


# Polls.


def stands(request: HttpRequest, told: Any) -> Any:
    reply = read(request, told)
    return reply.code if isinstance(reply, JobError) else reply


@pytest.mark.parametrize(
    ("told", "comes"),
    [
        (openai_batch("validating"), Pending()),
        (openai_batch("in_progress", output_file_id="file-early"), Pending()),
        (openai_batch("finalizing"), Pending()),
        (openai_batch("cancelling"), Pending()),
        (openai_batch("a word of tomorrow"), Pending()),
        (
            openai_batch("completed", output_file_id="file-o", error_file_id=""),
            Closed(state="completed", files=("file-o",), made=0),
        ),
        (
            openai_batch("completed", error_file_id="file-e", request_counts={"total": 3, "completed": 0, "failed": 3}),
            Closed(state="completed", files=("file-e",), made=0),
        ),
        (openai_batch("completed", request_counts={"total": 8, "completed": 8, "failed": 0}), Code.BAD_ANSWER),
        (openai_batch("completed"), Code.BAD_ANSWER),  # its files come later
        (
            openai_batch("expired", output_file_id="file-o", error_file_id="file-e", request_counts={"completed": 1}),
            Closed(state="expired", files=("file-o", "file-e"), made=1),
        ),
        (openai_batch("expired", request_counts={"completed": 1}), Code.BAD_ANSWER),
        (openai_batch("cancelled"), Closed(state="cancelled", made=0)),
        (
            openai_batch("completed", output_file_id="file-o", request_counts={"completed": True}),
            Closed(state="completed", files=("file-o",)),
        ),
        (
            openai_batch("completed", output_file_id="file-o", request_counts=7),
            Closed(state="completed", files=("file-o",)),
        ),
    ],
)
def test_how_a_batch_of_openai_stands(told: Any, comes: Any) -> None:
    assert stands(A.poll("batch_6a73f2f8"), told) == comes
    assert stands(A.cancel("batch_6a73f2f8"), told) == comes


@pytest.mark.parametrize(
    ("faults", "code", "said"),
    [
        (
            {"data": [{"code": "invalid_json_line", "message": "This line is not parseable.", "line": 3}]},
            Code.INVALID_REQUEST,
            "line 3: This line is not parseable.",
        ),
        (
            {"data": [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached for gpt-image"}]},
            Code.RATE_LIMITED,
            "Enqueued token limit",
        ),
        (
            {"data": [{"code": "billing_hard_limit_reached", "message": "Billing hard limit has been reached."}]},
            Code.QUOTA,
            "Billing hard limit",
        ),
        ({"data": [{"code": "model_not_found", "message": None}]}, Code.INVALID_REQUEST, "model_not_found"),
        ({"data": [{"code": 7, "message": ["x"], "line": "y"}, 3, None]}, Code.INVALID_REQUEST, "refused"),
        ({"data": []}, Code.INVALID_REQUEST, "does not say why"),
        (None, Code.INVALID_REQUEST, "does not say why"),
        ("odd", Code.INVALID_REQUEST, "does not say why"),
    ],
)
def test_why_a_batch_of_openai_failed(faults: Any, code: Code, said: str) -> None:
    closed = read(A.poll("batch_6a73f2f8"), openai_batch("failed", errors=faults))
    assert (closed.state, closed.files) == ("failed", ())
    assert (closed.error.code, closed.error.billed) == (code, False)
    assert said in closed.error.message


RESPONSES = {"responsesFile": "files/batch-7h9w"}


@pytest.mark.parametrize(
    ("told", "comes"),
    [
        (gemini_batch("PENDING"), Pending()),
        (gemini_batch("RUNNING"), Pending()),
        (gemini_batch("CANCELLING"), Pending()),
        (gemini_batch("OF_TOMORROW"), Pending()),
        ({"name": gemini_batch("X")["name"], "done": False}, Pending()),
        (
            gemini_batch("SUCCEEDED", done=True, response={"@type": "x", **RESPONSES}, about={"output": RESPONSES}),
            Closed(state="completed", files=("files/batch-7h9w",)),
        ),
        (
            gemini_batch("SUCCEEDED", done=True, response={"output": RESPONSES}),
            Closed(state="completed", files=("files/batch-7h9w",)),
        ),
        (
            gemini_batch("X", about={"state": "JOB_STATE_PARTIALLY_SUCCEEDED", "output": RESPONSES}),
            Closed(state="completed", files=("files/batch-7h9w",)),
        ),
        (gemini_batch("SUCCEEDED", done=True), Code.BAD_ANSWER),  # its file comes later
        (
            gemini_batch("SUCCEEDED", about={"output": RESPONSES, "batchStats": {"successfulRequestCount": "5"}}),
            Closed(state="completed", files=("files/batch-7h9w",), made=5),
        ),
        (gemini_batch("EXPIRED", done=True), Closed(state="expired")),
        (gemini_batch("CANCELLED", done=True, error={"code": 1, "message": "x"}), Closed(state="cancelled")),
        (
            gemini_batch("CANCELLED", about={"output": RESPONSES}),
            Closed(state="cancelled", files=("files/batch-7h9w",)),
        ),
    ],
)
def test_how_a_batch_of_gemini_stands(told: Any, comes: Any) -> None:
    assert stands(G.poll("batches/7h9w4gzuqot3bb3fpd1e2nqcp980iwnmjs7n"), told) == comes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": 3, "message": "The file is no JSONL."}, Code.INVALID_REQUEST),
        ({"code": 8, "message": "Quota, limit: 0"}, Code.QUOTA),
        ({"code": 8, "message": "slower"}, Code.RATE_LIMITED),
        ({"code": 13, "message": "Internal error"}, Code.SERVER),
        ({"code": 7, "message": "denied"}, Code.AUTH),
        ({"code": "x", "message": ["y"]}, Code.INVALID_REQUEST),
        ({"code": 400, "status": "INVALID_ARGUMENT", "message": "API key not valid."}, Code.AUTH),
        (None, Code.INVALID_REQUEST),
        (["x"], Code.INVALID_REQUEST),
    ],
)
def test_why_a_batch_of_gemini_failed(error: Any, code: Code) -> None:
    handle = gemini_batch("X")["name"]
    for told in (gemini_batch("FAILED", done=True, error=error), gemini_batch("FAILED", about={"error": error})):
        closed = read(G.poll(handle), told)
        assert (closed.state, closed.error.code, closed.error.billed) == ("failed", code, False)


@pytest.mark.parametrize("request_", [A.poll("b"), G.poll("b")], ids=["openai", "gemini"])
def test_a_poll_that_says_nothing_is_a_poll_that_failed(request_: HttpRequest) -> None:
    assert read(request_, {"error": {"message": "no such batch", "code": 404}}, 404) == Missing()
    odd: list[Any] = [
        {},
        [],
        "",
        "<html>",
        {"status": 7},
        {"metadata": []},
        {"id": "else", "name": "else", "status": "x"},
    ]
    for told in odd:
        assert read(request_, told).code in (Code.BAD_ANSWER, Code.SERVER)
    assert read(request_, {"error": {"message": "no"}}, 500).code is Code.SERVER
    assert read(request_, {"error": {"message": "slow", "status": "RESOURCE_EXHAUSTED"}}, 429).code is Code.RATE_LIMITED


def test_what_cannot_be_cancelled_says_so_when_it_is_polled() -> None:
    for api in (A, G):
        for status in (400, 404, 409):
            assert read(api.cancel("b"), {"error": {"message": "Cannot cancel it"}}, status) == Pending()
        assert (
            read(api.cancel("b"), {"error": {"message": "bad key", "status": "UNAUTHENTICATED"}}, 401).code is Code.AUTH
        )
        assert read(api.cancel("b"), {"error": {"message": "no"}}, 500).code is Code.SERVER
    assert read(G.cancel("b"), {}) == Pending()
    unknown = {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "API key not valid."}}
    assert read(G.cancel("b"), unknown, 400).code is Code.AUTH


def test_a_file_that_is_gone_is_missing() -> None:
    for api in (A, G):
        assert read(api.answers("f"), {"error": {"message": "no such file"}}, 404) == Missing()
        assert read(api.answers("f"), {"error": {"message": "no"}}, 503).code is Code.SERVER


# Lines.


def line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def test_lines_of_openai() -> None:
    told: dict[str, Any] = {"created": 1, "data": [{"b64_json": "QUJD"}], "usage": {"total_tokens": 3}}
    well = {"status_code": 200, "request_id": "r", "body": told}
    found = A.read(line({"id": "batch_req_1", "custom_id": "k", "response": well, "error": None}))
    assert found == BatchAnswer(key="k", status=200, body=json.dumps(told).encode())
    refused = {"error": {"message": "Invalid size", "type": "invalid_request_error", "code": "invalid_value"}}
    found = A.read(line({"custom_id": "k", "response": {"status_code": 400, "body": refused}, "error": None}))
    assert found is not None
    assert code_of(OPENAI, found) is Code.INVALID_REQUEST
    for code, comes in (("request_timeout", Code.UNKNOWN), ("server_error", Code.SERVER), (None, Code.SERVER)):
        found = A.read(line({"custom_id": "k", "response": None, "error": {"code": code, "message": "no"}}))
        assert found is not None
        assert code_of(OPENAI, found) is comes
    for code in ("batch_expired", "batch_cancelled"):
        assert A.read(line({"custom_id": "k", "response": None, "error": {"code": code, "message": "no"}})) is None


def test_lines_of_gemini() -> None:
    told: dict[str, Any] = {"candidates": [], "usageMetadata": {}}
    assert G.read(line({"key": "k", "response": told})) == BatchAnswer(
        key="k", status=200, body=json.dumps(told).encode()
    )
    codes = {
        3: Code.INVALID_REQUEST,
        4: Code.SERVER,
        7: Code.AUTH,
        8: Code.RATE_LIMITED,
        9: Code.AUTH,
        13: Code.SERVER,
        14: Code.SERVER,
        429: Code.RATE_LIMITED,
        500: Code.SERVER,
        99: Code.SERVER,
    }
    for where in ("error", "status"):
        for code, comes in codes.items():
            found = G.read(line({"key": "k", where: {"code": code, "message": "no"}}))
            assert found is not None
            assert code_of(GEMINI, found) is comes, code
        assert G.read(line({"key": "k", where: {"code": 1, "message": "cancelled"}})) is None


def code_of(provider: Any, found: BatchAnswer) -> Code:
    reader = provider.answers(JOB, found.status, {})
    reader.feed(found.body)
    with pytest.raises(JobError) as error:
        reader.finish(complete=True)
    return error.value.code


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMED = ("custom_id", "key", "response", "error", "status", "status_code", "body", "code", "message")
LINES = st.dictionaries(
    st.sampled_from(NAMED), ODD | st.dictionaries(st.sampled_from(NAMED), ODD, max_size=4), max_size=5
)


@settings(max_examples=100, deadline=None)
@given(st.one_of(LINES.map(line), ODD.map(line), st.binary(max_size=60)))
@example(b"[" * 100_000)
@example(b'{"custom_id":"k","response":{"status_code":' + b"9" * 5000 + b',"body":{}}}')
@example(b'{"key":"\\ud800","response":{"a":"\\ud800"}}')
@example(b'{"key":"k","response":{"a":NaN}}')
@example("\ufeff{}".encode())
def test_a_line_of_any_kind_is_an_answer_or_one_clear_sentence(data: bytes) -> None:
    for provider, api in ((OPENAI, A), (GEMINI, G)):
        found = outcome(partial(api.read, data))
        if isinstance(found, JobError):
            assert found.code is Code.BAD_ANSWER
            assert "\n" not in found.message
        elif found is not None:
            assert found.key
            assert 100 <= found.status < 600
            reader = provider.answers(JOB, found.status, {})
            reader.feed(found.body)
            outcome(partial(reader.finish, complete=True))


def outcome(do: Callable[[], Any]) -> Any:
    """Return what comes, a JobError as it is; any other error is a fault of ours."""
    try:
        return do()
    except JobError as error:
        return error


BATCH = st.dictionaries(
    st.sampled_from(
        [
            *(*NAMED, "id", "name", "metadata", "state", "done", "output", "responsesFile", "data", "errors"),
            *("has_more", "output_file_id", "request_counts", "operations", "nextPageToken", "last_id", "file"),
        ]
    ),
    ODD | st.sampled_from(["failed", "completed", "BATCH_STATE_FAILED", "BATCH_STATE_SUCCEEDED", True]),
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(BATCH, st.sampled_from([200, 400, 404, 429, 500]), st.sampled_from(["whole", "cut"]))
def test_an_answer_of_any_kind_is_understood_or_has_a_code(told: Any, status: int, how: str) -> None:
    whole, told = how == "whole", {**told, "metadata": {**told}}
    for api in (A, G):
        asked = [api.upload(FILE), api.create("m m", "f", NAME), api.find(NAME), api.poll("b"), api.cancel("b")]
        for request in [*asked, api.answers("f")]:
            reply = read(request, told if whole else json.dumps(told)[:-1], status, whole=whole)
            assert not isinstance(reply, JobError) or reply.code in Code
            if isinstance(reply, Closed):
                assert (reply.error is not None) == (reply.state == "failed")
                assert whole
