"""Answers that hold several pictures: which is the job's, and which are further ones; all were paid for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batchflux.models import Asset, Finished, Inline, Link, Reference
from batchflux.providers import providers
from tests.providers.answering import B64, DRAFT, DRAFT_64, PNG, made, read

HOST = "https://cdn.example"
A, B, C = (f"{HOST}/out/{name}.png" for name in "abc")
PLAIN = f"{HOST}/o/77"
PHOTO = "https://photos.example/mug.jpg"


def sse(*deltas: dict[str, Any]) -> str:
    documents = (json.dumps({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas)
    return "".join(f"data: {one}\n\n" for one in documents) + "data: [DONE]\n\n"


def image(url: str) -> dict[str, Any]:
    return {"images": [{"type": "image_url", "image_url": {"url": url}}]}


SEVERAL: dict[str, tuple[str, list[str | bytes]]] = {  # the last is the job's
    "images": (f"![image]({A})\n![image]({B})\n![image]({C})", [A, B, C]),
    "images and a download": (f"![image]({A})\n![image]({B})\n[点击下载]({PLAIN})", [A, B]),
    "inline": (f"![a](data:image/png;base64,{DRAFT_64})\n![b](data:image/png;base64,{B64})", [DRAFT, PNG]),
    "inline and linked": (f"![a]({A})\n![b](data:image/png;base64,{B64})", [A, PNG]),
    "bare": (f"1. {A}\n2. {B}\n", [A, B]),
    "links with numbers": (f"[图片1]({A}) [图片2]({B})", [A, B]),
    "an image and its download": (f"![image]({A})\n\n[点击下载]({B})", [A]),
    "an image and its link": (f"![image]({A})\n{B}", [A]),
    "two names of one link": (f"[查看]({A}) [下载]({B})", [B]),
    "the same twice": (f"![image]({A}) again: ![image]({A})", [A]),
    "the reference": (f"![image]({PHOTO})\n![image]({A})", [A]),
    "a preview": (f"![preview]({B})\n![image]({A})", [A]),
    "what only may be one": (f"see {HOST}/o/1 or {PLAIN}", [f"{HOST}/o/1"]),
}


def assets(told: list[str | bytes]) -> list[Asset]:
    return [Link(url=one) if isinstance(one, str) else Inline(data=one) for one in told]


@pytest.mark.parametrize("name", SEVERAL)
def test_a_chat_that_shows_several(name: str) -> None:
    words, expected = SEVERAL[name]
    *more, own = assets(expected)
    job = made("flux-relay", "m", style="chat", images=(Reference(source=PHOTO, url=PHOTO),))
    for body in (sse({"content": words}), json.dumps({"choices": [{"message": {"content": words}}]})):
        reply = read(providers()["flux-relay", "chat"].submit(job, 1), body)
        assert reply == Finished(asset=own, more=tuple(more))


@pytest.mark.parametrize("api", ["flux-relay", "gemini"])
def test_a_stream_that_shows_one_after_the_other(api: str) -> None:
    """Also one that says all that it has each time: the job's is of the last document."""
    job = made(api, "m", style="chat" if api == "flux-relay" else "gemini")
    request = providers()[api, job.style].submit(job, 1)
    both = [one for url in ((B, A) if api == "flux-relay" else (A, B)) for one in image(url)["images"]]
    for body in (sse(image(A), image(B)), sse(image(A), {"images": both})):
        assert read(request, body) == Finished(asset=Link(url=B), more=(Link(url=A),))
