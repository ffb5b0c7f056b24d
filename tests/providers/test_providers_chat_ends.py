"""Chat answers that break off, stop early, or only say something."""

# The relays' words come in full-width punctuation.
# ruff: noqa: RUF001

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.errors import Code, JobError
from batchflux.models import Inline, Link, Reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.models import Job

REF = "https://photos.example/in/mug%20(1).jpg?v=1&w=2"
OUT = "https://cdn.example/out/a%E4%B8%AD(1).png?X-Sig=abc%2Fdef&e=1"
MADE = b"\x89PNG\r\n\x1a\nmade" * 40
BOTH = (
    Reference(source=REF, url=REF),
    Reference(
        source="mug.jpg", path="/p/mug.jpg", sha256=hashlib.sha256(b"photo").hexdigest(), media_type="image/jpeg"
    ),
)


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def frame(**delta: Any) -> str:
    body = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]}
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def stream(*contents: str) -> str:
    return "".join(frame(content=content) for content in contents) + "data: [DONE]\n\n"


def said(result: Any) -> Any:
    return (result.code, result.billed) if isinstance(result, JobError) else result


UNKNOWN = (Code.UNKNOWN, True)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (frame(content=f"![image]({OUT})"), Link(url=OUT)),
        (frame(content=f"![image]({OUT})").rstrip(), Link(url=OUT)),
        (frame(content=f"![image]({OUT})")[:-6], Link(url=OUT)),
        (frame(content=f"![image]({OUT}"), UNKNOWN),
        (frame(content=OUT), UNKNOWN),
        (frame(content=f"![image]({OUT[:-9]}")[:-9], UNKNOWN),
        (frame(content=f"![image]({data_url(MADE)})"), Inline(data=MADE)),
        (frame(content=f'<img src="{data_url(MADE)}"'), Inline(data=MADE)),
        (frame(content=f"![image]({data_url(MADE)}"), UNKNOWN),
        (frame(content=data_url(MADE)), UNKNOWN),
        (frame(content=f"![image]({REF})"), UNKNOWN),
        (frame(content='{"messages": [{"content": "' + data_url(MADE) + '", "x'), UNKNOWN),
        (frame(content='```json\n{"prompt": "![image](https://relay.example/up.png) Make'), UNKNOWN),
        (frame(content="> 进度 **2%**"), UNKNOWN),
        (frame(content="![preview](https://c.example/1.png)"), UNKNOWN),
        ("", UNKNOWN),
        ("data: ", UNKNOWN),
        ("<html><bo", UNKNOWN),
        ('{"data":[{"url":"' + OUT + '"}],"crea', Link(url=OUT)),
        ('{"data":[{"url":"' + OUT, UNKNOWN),
        ('{"data":[{"b64_json":"' + base64.b64encode(MADE).decode() + '"', Inline(data=MADE)),
        ('{"data":[{"b64_json":"' + base64.b64encode(MADE).decode(), UNKNOWN),
        ('{"choices":[{"message":{"content":"![image](' + OUT + ") [", Link(url=OUT)),
        ('{"input":{"image":"https://relay.example/up.png"},"pro', UNKNOWN),
        ('{"status":"processing","image":"https://relay.example/up.png","pro', UNKNOWN),
        ('{"output":{"results":["' + OUT + '"', Link(url=OUT)),
        (
            'data: {"candidates":[{"content":{"parts":[{"inlineData":{"data":"'
            + base64.b64encode(MADE).decode()
            + '"}}',
            Inline(data=MADE),
        ),
        (json.dumps({"data": [{"url": OUT}]}), Link(url=OUT)),
        ('data: {"error":{"code":"insufficient_user_quota"}}\n\n', (Code.QUOTA, False)),
        (stream("nothing"), (Code.NO_IMAGE, True)),
    ],
)
def test_an_answer_that_broke_off(
    answer: Callable[..., Any], make_job: Callable[..., Job], body: str, expected: Any
) -> None:
    assert said(answer(make_job(images=BOTH), body.encode(), complete=False)) == expected


@pytest.mark.parametrize("done", ["data: [DONE]\n\n", "data:[DONE]\r\n\r\n", "event: done\ndata: [DONE] \n\n"])
@pytest.mark.parametrize("cut", [0, 5])
@pytest.mark.parametrize("mentioned", ["", "[ [DONE] data: [DONE] "])
def test_reading_stops_at_done(
    answer: Callable[..., Any], make_job: Callable[..., Job], done: str, cut: int, mentioned: str
) -> None:
    def packets() -> Any:
        body = stream(mentioned, OUT).replace("data: [DONE]\n\n", done).encode()
        yield body[: len(body) - cut]
        yield body[len(body) - cut :]
        pytest.fail("read on after [DONE]")

    assert answer(make_job(), packets()) == Link(url=OUT)


def test_words_of_the_prompt_are_not_the_providers(answer: Callable[..., Any], make_job: Callable[..., Job]) -> None:
    job = make_job(prompt="A sensitive   poster: nsfw, failed,\n余额不足, rate limit")
    for content in ("> A sensitive poster: nsfw, failed,\n> 余额不足, rate limit\n", job.prompt):
        got = answer(job, stream(content).encode())
        assert (got.code, got.message) == (Code.NO_IMAGE, "the answer holds no picture")
    assert answer(job, stream(job.prompt, "\n失败原因：input_moderation").encode()).code is Code.MODERATED
    short = make_job(prompt="moderation")
    assert answer(short, stream("失败原因：input_moderation").encode()).code is Code.MODERATED


def test_a_url_in_the_prompt_is_not_the_result(answer: Callable[..., Any], make_job: Callable[..., Job]) -> None:
    job = make_job(prompt="Put https://shop.example/logo.png, on it", images=())
    echo = stream("Put https://shop.example/logo.png, on it\n")
    assert answer(job, echo.encode()).code is Code.NO_IMAGE
    assert answer(job, stream(job.prompt + "\n" + OUT).encode()) == Link(url=OUT)


def test_failure_prose_is_short_and_without_query_strings(
    answer: Callable[..., Any], make_job: Callable[..., Job]
) -> None:
    got = answer(make_job(), stream("生成失败\n" + "原因 " * 300 + "https://x.example/a.html?sig=S3CRET").encode())
    assert got.code is Code.NO_IMAGE
    assert len(got.message) <= 300
    assert got.message.startswith("the answer holds no picture but says: 生成失败 原因")
    assert "S3CRET" not in got.message
