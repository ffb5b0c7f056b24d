"""Streams made to break the parsers: mutated ones, and ones that are slow for anything not linear."""

# The relays' words come in full-width punctuation.
# ruff: noqa: RUF001

from __future__ import annotations

import base64
import hashlib
import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.errors import JobError
from batchflux.models import Inline, Link, Reference
from batchflux.providers.answers.echoes import canonical

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.models import Job

PHOTO = b"\xff\xd8the uploaded photo\xff\xd9"
LOCAL = Reference(source="m.jpg", path="/m.jpg", sha256=hashlib.sha256(PHOTO).hexdigest(), media_type="image/jpeg")
UPLOAD = "data:image/jpeg;base64," + base64.b64encode(PHOTO).decode()


def shapes(ref: str, frames: Callable[..., bytes]) -> list[bytes]:
    out = "https://cdn.example/o.png"
    echo = "```json\n" + json.dumps({"prompt": f"{ref} Make the mug red", "model": "flux"}) + "\n```\n"
    return [
        frames(echo, "> 进度 **2%**\n", f"![image]({out})", "[点击下载](https://cdn.example/d)"),
        frames(f"![image]({ref})", f"![image]({UPLOAD})", "生成失败 ❌ 失败原因：input_moderation"),
        frames(f"{ref} Make the mug red\n", UPLOAD, '{"messages":[{"content":"' + ref + '"}]}', out),
        frames("![image]()", f"[x]({ref})", done=False) + b'event: error\r\ndata: {"error":{"message":"x"}}\r\n\r\n',
        json.dumps({"data": [{"url": ref}, {"b64_json": base64.b64encode(PHOTO).decode()}]}).encode(),
        json.dumps({"choices": [{"message": {"content": f"![image]({ref}) {out}"}}]}).encode(),
        json.dumps({"error": {"message": '{"error": {"code": 429}}', "code": None}}).encode(),
        b"<html><title>502</title></html>",
    ]


def mutated(chance: random.Random, bodies: list[bytes]) -> bytes:
    body = bytearray(chance.choice(bodies))
    for _ in range(chance.randint(1, 6)):
        at, length = chance.randrange(len(body) + 1), chance.randint(0, 12)
        match chance.randrange(6):
            case 0:
                body[at : at + length] = b""
            case 1:
                body[at:at] = chance.randbytes(length)
            case 2:
                body[at:at] = chance.choice(
                    [b'"', b"\\", b"{", b"}", b"[", b"]", b"(", b")", b"\r", b"\n", b"\xe8", b"```"]
                )
            case 3:
                other = chance.choice(bodies)
                start = chance.randrange(len(other))
                body[at:at] = other[start : start + 80]
            case 4:
                body[at:at] = body[at : at + length * 8]
            case _:
                del body[max(at, 1) :]
    return bytes(body)


@pytest.mark.parametrize("part", range(4))
def test_1000_mutated_answers_end_in_a_picture_or_an_error(
    answer: Callable[..., Any],
    make_job: Callable[..., Job],
    frames: Callable[..., bytes],
    reference_url: str,
    part: int,
) -> None:
    chance = random.Random(part)
    bodies = shapes(reference_url, frames)
    job = make_job(images=(Reference(source=reference_url, url=reference_url), LOCAL))
    pictures = 0
    for _ in range(1000):
        body = mutated(chance, bodies)
        cut = chance.randrange(len(body) + 1)
        how = {"complete": chance.random() < 0.8, "status": chance.choice([200, 200, 200, 400, 429, 503])}
        got = answer(job, [body[:cut], body[cut:]], **how)
        if isinstance(got, Link):
            pictures += 1
            assert canonical(got.url) != canonical(reference_url)
            assert got.url.lower().startswith(("http://", "https://"))
        elif isinstance(got, Inline):
            pictures += 1
            assert got.data != PHOTO
        else:
            assert isinstance(got, JobError)
            assert 0 < len(got.message) <= 300
            assert got.message.isprintable()
    assert 40 < pictures < 800


@pytest.mark.parametrize(
    "unit",
    [
        '{"', '{"a":', '{"a":{"prompt":"', "{", "![", "[a", "](", "![a](", "[a](b(", "(", "data:image/png;base64,",
        "data:image/png;base64,AAAA\n", "https://", "https://a/b.png ", "```", '```{"model":', "[[", "[]", "\\", "%",
        "&amp;", "Make the mug ", "violates ", "insufficient_", "![a](data:x,A ", "a" * 50 + "\n", "\n", "<", "> ",
        "<think>", '<a href="b">', "![a](b c", "//a.b/c ",
    ],
)  # fmt: skip
def test_much_of_anything_is_read_in_linear_time(
    answer: Callable[..., Any], make_job: Callable[..., Job], frames: Callable[..., bytes], unit: str
) -> None:
    # What is quadratic here takes minutes on 100 KB and ends at the test's timeout.
    text = unit * (100_000 // len(unit))
    whole = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
    cut, failed = {"complete": False}, {"status": 500}
    for body, how in ((frames(text), {}), (frames(text), cut), (whole, cut), (text.encode(), {}), (whole, failed)):
        assert isinstance(answer(make_job(), body, **how), Link | Inline | JobError)


def test_a_picture_of_many_megabytes_in_the_stream(
    answer: Callable[..., Any], make_job: Callable[..., Job], frames: Callable[..., bytes]
) -> None:
    data = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 30_000
    body = frames(f"![image](data:image/png;base64,{base64.b64encode(data).decode()})")
    packets = (body[i : i + 4096] for i in range(0, len(body), 4096))
    assert answer(make_job(images=(LOCAL,)), packets) == Inline(data=data)
    small = [frames(piece, done=False) for piece in ("![image](data:image/png;base64,", *(["/9j/" * 16] * 15_000), ")")]
    assert answer(make_job(images=(LOCAL,)), small) == Inline(data=b"\xff\xd8\xff" * 240_000)
